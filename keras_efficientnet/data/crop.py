"""The random crop of ImageNet training, from files or decoded images.

Source: preprocessing.py of the TPU code.
"""

import functools

import tensorflow as tf

from keras_efficientnet.data.images import PHOTO_CROP_FRACTION
from keras_efficientnet.errors import InputError, require

# As in augment.py: AutoGraph would only make tracing slower.
_plain = tf.autograph.experimental.do_not_convert

# Arguments of the TPU code's random crop. It also asks that a tenth of the image be
# covered, so that of the areas from .08 on those below .1 are drawn and rejected.
AREA_RANGE = (0.08, 1.0)
ASPECT_RATIO_RANGE = (3 / 4, 4 / 3)
MIN_COVERED = 0.1
MAX_ATTEMPTS = 10


@_plain
def random_resized_crop(
    image_or_bytes,
    size: int,
    seed,
    flip: bool = True,
    min_area: float = AREA_RANGE[0],
    orientation=1,
):
    """Crops a random part of an image, resizes it, and flips half of the images.

    The crop has a random area and aspect ratio; after ten draws that do not fit into the
    image, it is the centre crop of evaluation. Of an upright JPEG file, only the crop is
    decoded.

    Args:
        image_or_bytes: uint8 `[height, width, 3]`, or a scalar string: the content of a
            JPEG, PNG, BMP or GIF file (its first frame).
        size: side of the result in pixels.
        seed: integers `[2]`.
        flip: mirror the image left to right with probability 1/2.
        min_area: smallest area of the crop as a share of the image's, in (0, 1].
        orientation: by EXIF, a scalar from 1 to 8, undone first; other values, which occur
            in files, count as 1.

    Returns:
        uint8 `[size, size, 3]`.

    Raises:
        InputError: size is not positive or the image of another type.
    """
    require(size >= 1, "size", size, "at least 1")
    crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))

    def window(height, width):
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.stack([height, width, 3]),
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed=crop_seed,
            min_object_covered=MIN_COVERED,
            aspect_ratio_range=ASPECT_RATIO_RANGE,
            area_range=(min_area, AREA_RANGE[1]),
            max_attempts=MAX_ATTEMPTS,
        )
        # The operation returns the whole image when no attempt fits.
        failed = tf.reduce_all(extent[:2] == [height, width])
        sampled = tf.concat([begin[:2], extent[:2]], 0)
        return tf.where(failed, _center_window(height, width, size), sampled)

    image = _resize(_cut(image_or_bytes, window, orientation), size)
    if not flip:
        return image
    mirrored = tf.random.stateless_uniform([], flip_seed) < 0.5
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)


def _center_window(height, width, size):
    # The TPU code rounds the padding to whole pixels, so the share is not exactly .875 for
    # sizes that are not multiples of 7.
    padding = round(size * (1 / PHOTO_CROP_FRACTION - 1))
    shorter = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.maximum(tf.cast(shorter * (size / (size + padding)), tf.int32), 1)
    return tf.stack([(height - side + 1) // 2, (width - side + 1) // 2, side, side])


def _cut(image_or_bytes, window, orientation):
    """Decodes, turns upright and crops to `window(height, width)`: top, left, height, width."""
    image = tf.convert_to_tensor(image_or_bytes)
    if image.dtype == tf.string and image.shape.rank == 0:

        def cut_whole():
            whole = tf.io.decode_image(image, channels=3, expand_animations=False)
            return _cut_array(upright(tf.ensure_shape(whole, [None, None, 3]), orientation), window)

        turned = (orientation > 1) & (orientation <= 8)
        partial = tf.io.is_jpeg(image) & tf.logical_not(turned)
        return tf.cond(partial, lambda: _cut_jpeg(image, window), cut_whole)
    if image.dtype == tf.uint8 and image.shape.rank == 3 and image.shape[2] == 3:
        return _cut_array(upright(image, orientation), window)
    raise InputError(
        f"image_or_bytes has type {image.dtype.name} and shape {image.shape}, but must be uint8 "
        "of shape [height, width, 3] or one string with the content of an image file."
    )


def upright(image, orientation):
    """Undoes an EXIF orientation of an image uint8 `[height, width, 3]`.

    Args:
        image: as stored.
        orientation: scalar from 1 to 8; other values, which occur in files, count as 1.
    """
    if isinstance(orientation, int) and orientation == 1:
        return image
    orientation = tf.convert_to_tensor(orientation)

    def turn(mirror: bool, quarter_turns: int):
        turned = tf.image.flip_left_right(image) if mirror else image
        return tf.image.rot90(turned, quarter_turns) if quarter_turns else turned

    # Whether mirrored, then quarter turns counter-clockwise.
    steps = [(False, 0), (True, 0), (False, 2), (True, 2)]
    steps += [(True, 1), (False, 3), (True, 3), (False, 1)]
    branches = [functools.partial(turn, *step) for step in steps]
    return tf.switch_case(orientation - 1, branches, default=lambda: image)


def _cut_jpeg(content, window):
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(content), num=3)
    return tf.io.decode_and_crop_jpeg(content, window(height, width), channels=3)


def _cut_array(image, window):
    height, width, _ = tf.unstack(tf.shape(image), num=3)
    top, left, rows, columns = tf.unstack(window(height, width))
    return image[top : top + rows, left : left + columns]


def _resize(image, size):
    image = tf.ensure_shape(image, [None, None, 3])
    resized = tf.image.resize(image, [size, size], "bicubic")
    # Bicubic interpolation overshoots at edges. The cast truncates, so 0.5 makes it round.
    return tf.cast(tf.clip_by_value(resized + 0.5, 0.0, 255.0), tf.uint8)
