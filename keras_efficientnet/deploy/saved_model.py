"""Writes a .keras file, and a SavedModel that a server can use without this package.

The SavedModel's signatures:

- `serving_default`: `images`, float32 `[batch, height, width, channels]`, to `scores`.
- `serve_uint8`: the same with uint8 images, a quarter of the bytes on the wire.
- `serve_encoded`: `encoded`, strings `[batch]` that are JPEG or PNG files of any size, to
  `labels` and `scores` `[batch, k]` of the best classes. BMP and WebP files are taken where
  TensorFlow decodes them as `Predictor` does; whatever it would show otherwise is an error.

The function `serve` of the loaded module takes images of both types. uint8 images and files
are pixels in 0-255 always; float32 images are what the network takes, which is the same
unless its preprocessing is outside the graph.
"""

import os
from pathlib import Path
from typing import Any

import keras

from keras_efficientnet.data.crop import upright
from keras_efficientnet.deploy.exportable import (
    DescriptionLike,
    ExportableModel,
    Model,
    described,
    open_exportable,
)
from keras_efficientnet.description import ModelDescription, write_description
from keras_efficientnet.errors import InputError, reason
from keras_efficientnet.native_logs import suppress_native_logs
from keras_efficientnet.spec import Interpolation

BEST = 5
"""Classes that `serve_encoded` gives for an image, or all where there are fewer."""
EXIF_BYTES = 2**16
# TensorFlow's names of what Pillow does.
_KERNELS = {"bicubic": "keyscubic", "bilinear": "triangle"}

# Of a BMP file: its header, the masks of blue, green and red in their usual order, and what a grey
# file has for colours.
_BMP_MASKS = bytes.fromhex("0000ff00 00ff0000 ff000000")
_GREY_PALETTE = b"".join(bytes([value, value, value, 0]) for value in range(256))
_GREY_BMP_OFFSET = (54 + len(_GREY_PALETTE)).to_bytes(4, "little")
_HEADER_BYTES = 54 + len(_GREY_PALETTE)
_MAX_12_BITS_IN_8 = 2**12 // 2**8 - 1
_OTHER_COLOURS = (
    "A GIF file, or a BMP file with a palette, would be decoded to other colours here; send it as "
    "JPEG or PNG."
)
_OTHER_RANGE = (
    "A PNG file of 16 bits would not be read by this model's pixel range here; send it in 8 bits."
)
_UNKNOWN_WHITE = (
    "A PNG file of 16 bits has values up to 4095 only, of which the range is unknown; send it with "
    "8 bits, or with 16 that span 0 to 65535."
)


def save_keras(model: Any, path: str | os.PathLike, description: DescriptionLike = None) -> None:
    """Saves a Keras model with its description (see `open_exportable`) as a .keras file.

    What training left, such as the optimizer's slots, is not part of it.
    """
    if model.compiled:
        keras.Model(model.inputs, model.outputs, name=model.name).save(path)
    else:
        model.save(path)
    write_description(Path(path), described(model, description))


def export_saved_model(
    model: Model, path: str | os.PathLike, description: DescriptionLike = None
) -> None:
    """Exports a Keras model as a TensorFlow SavedModel that needs no class of this package.

    The module's text documents its signatures. A model that gives no row of scores has
    `features` instead of `scores` everywhere, and no labels.

    Args:
        model: a Keras model or .keras file.
        path: of the folder to write.
        description: its description, see `open_exportable`.

    Raises:
        InputError: if the model cannot be exported.
    """
    import tensorflow as tf

    network = open_exportable(model, description)
    if network.model is None:
        raise InputError("A SavedModel is made of a Keras model; pass the .keras file.")
    shape = network.shape
    output = network.output_name
    # One function of the network in the file, however many signatures call it.
    run = tf.function(
        network.call, input_signature=[tf.TensorSpec((None, *shape))], autograph=False
    )

    def serve(images):
        return {output: run(_network_input(images, network.description))}

    # Keras' own export writes every variable twice.
    module: Any = tf.Module()
    module.variables_ = [variable.value for variable in network.model.variables]
    module.serve = tf.function(serve, autograph=False)
    signatures = {
        name: module.serve.get_concrete_function(
            tf.TensorSpec((None, *shape), dtype, name="images")
        )
        for name, dtype in (("serving_default", tf.float32), ("serve_uint8", tf.uint8))
    }
    if shape[2] == 3:
        module.serve_encoded = tf.function(
            lambda encoded: _serve_encoded(encoded, network, module.serve, output),
            input_signature=[tf.TensorSpec([None], tf.string, name="encoded")],
            autograph=False,
        )
        signatures["serve_encoded"] = module.serve_encoded
    try:
        with suppress_native_logs():  # it would name its temporary folder in a notebook
            tf.saved_model.save(module, str(path), signatures=signatures)
    except tf.errors.OpError as error:  # of the disk
        raise InputError(f"Cannot write {str(path)!r}: {reason(error)}.") from error
    write_description(Path(path), network.description)


def _network_input(images, description: ModelDescription):
    """Casts what is pixels, and prepares it for a network that does not do so itself."""
    import tensorflow as tf

    if images.dtype == tf.float32:
        return images
    pixels = tf.cast(images, tf.float32)
    return (
        pixels
        if description.takes_raw_pixels
        else (pixels - description.pixel_mean) / description.pixel_std
    )


def _serve_encoded(encoded, network: ExportableModel, serve, output: str) -> dict[str, Any]:
    """Reads and classifies files, as `Predictor.classify` does."""
    import tensorflow as tf

    description = network.description
    images = tf.map_fn(
        lambda content: prepare_encoded(
            content,
            description.image_size,
            description.crop_fraction,
            description.interpolation,
            takes_wide=description.pixel_range is None,
        ),
        encoded,
        fn_output_signature=tf.TensorSpec(network.shape, tf.uint8),
    )
    outputs = serve(images)
    if not network.classifies:
        return outputs
    (classes,) = network.output_shape
    labels = tf.constant([description.label(index) for index in range(classes)])
    scores, best = tf.math.top_k(outputs[output], min(BEST, classes))
    return {"labels": tf.gather(labels, best), "scores": scores}


def prepare_encoded(
    content,
    size: int,
    crop_fraction: float,
    interpolation: Interpolation = "bicubic",
    *,
    takes_wide: bool = True,
):
    """Decodes and prepares an image in TensorFlow operations: `images.read` and `images.prepare`.

    Args:
        content: a scalar string, the content of a JPEG, PNG, BMP or WebP file.
        size: side of the result in pixels.
        crop_fraction: see `images.prepare`.
        interpolation: likewise.
        takes_wide: whether PNG files of 16 bits are read, by their high bytes; for a model with a
            range of its own for them, these are other levels than it was trained on.

    Returns:
        uint8 `[size, size, 3]`.

    Raises:
        tf.errors.InvalidArgumentError: if it is no image, or one that TensorFlow shows otherwise.
    """
    import tensorflow as tf

    image = tf.cond(
        tf.io.is_jpeg(content),
        # The exact transform, as Pillow has it.
        lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: _decode_other(content, takes_wide),
    )
    image = upright(tf.ensure_shape(image, [None, None, 3]), _orientation(content))
    extent = tf.cast(tf.shape(image)[:2], tf.float32)
    side = tf.reduce_min(extent) * crop_fraction
    scale = tf.repeat(size / side, 2)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[size, size],
        scale=scale,
        translation=-scale * (extent - side) / 2,
        kernel_type=_KERNELS[interpolation],
        antialias=True,
    )
    # Bicubic overshoots at edges; half a level more makes the cast round.
    return tf.cast(tf.clip_by_value(resized[0] + 0.5, 0.0, 255.0), tf.uint8)


def _decode_other(content, takes_wide: bool):
    """Decodes a file that is no JPEG, if TensorFlow shows what Pillow does.

    Of a GIF file's transparent pixels and a BMP file's palette it makes other colours. A grey PNG
    file of 16 bits that ends at 12 of them has an unknown white, see `images.read`.
    """
    import tensorflow as tf

    head = tf.strings.join([tf.strings.substr(content, 0, _HEADER_BYTES), bytes(_HEADER_BYTES)])

    def has(at: int, value: bytes):
        return tf.strings.substr(head, at, len(value)) == value

    is_png = has(12, b"IHDR")
    is_gif, is_bmp, is_wide_png = (
        has(0, b"GIF8"),
        has(0, b"BM"),
        is_png & has(24, b"\x10\0"),
    )
    uncompressed, masked = has(30, bytes(4)), has(30, b"\3\0\0\0") & has(54, _BMP_MASKS)
    in_colour = has(28, b"\x18\0") & uncompressed | has(28, b"\x20\0") & (uncompressed | masked)
    grey = has(10, _GREY_BMP_OFFSET) & has(28, b"\x08\0") & uncompressed & has(54, _GREY_PALETTE)
    # A header of 12 bytes has its fields elsewhere.
    narrow = takes_wide | ~(is_png & has(24, b"\x10"))
    same = ~is_gif & (~is_bmp | (in_colour | grey) & ~has(14, b"\x0c\0\0\0"))
    refusals = [
        tf.debugging.Assert(narrow, [_OTHER_RANGE]),
        tf.debugging.Assert(same, [_OTHER_COLOURS]),
    ]
    with tf.control_dependencies(refusals):
        content = tf.identity(content)
    image = tf.io.decode_image(content, channels=3, expand_animations=False)
    known = ~is_wide_png | (tf.reduce_max(image) > _MAX_12_BITS_IN_8)
    with tf.control_dependencies([tf.debugging.Assert(known, [_UNKNOWN_WHITE])]):
        return tf.identity(image)


def _orientation(content):
    """Finds the EXIF orientation in the first bytes of a file; 1 where there is none.

    An entry of an EXIF directory is tag, type, number of values and value. That of the
    orientation (tag 0x0112, one short) is searched as it stands behind the header; the first
    is the image's own, and a second one its thumbnail's.
    """
    import tensorflow as tf

    # One segment of a JPEG file at most, and enough behind it for every search to end in.
    head = tf.strings.join([tf.strings.substr(content, 0, EXIF_BYTES), b"\0" * 16])
    data = tf.io.decode_raw(head, tf.uint8)

    def find(pattern: bytes, start):
        count = tf.size(data) - len(pattern)
        same = [data[index : index + count] == byte for index, byte in enumerate(pattern)]
        hits = tf.reduce_all(same, 0) & (tf.range(count) >= start)
        return tf.argmax(hits, output_type=tf.int32), tf.reduce_any(hits)

    orientation = tf.constant(1)
    for header, entry, value in (
        (b"II*\0", b"\x12\x01\x03\0\x01\0\0\0", 8),
        (b"MM\0*", b"\x01\x12\0\x03\0\0\0\x01", 9),
    ):
        for mark in (b"Exif\0\0", b"eXIf"):  # of JPEG and of PNG
            start, marked = find(mark + header, 0)
            at, found = find(entry, start)
            orientation = tf.where(marked & found, tf.cast(data[at + value], tf.int32), orientation)
    return orientation
