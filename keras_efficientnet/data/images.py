"""Decoding one image and preparing it as in evaluation: Pillow and NumPy, no TensorFlow.

Evaluation, prediction and the checks of exported files all go through `prepare`, so that
they see the same pixels.
"""

import io
import os
import stat
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from keras_efficientnet.errors import InputError, reason
from keras_efficientnet.spec import Interpolation

# TPU code, preprocessing.py: 224 of 256 pixels.
PHOTO_CROP_FRACTION = 0.875
# Pillow has about forty more decoders. That of EPS starts another program, and rarely used
# ones are rarely tested against malicious files.
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
}
# Pillow can be built without its codec.
FORMATS = tuple(name for name in _SUFFIXES if name != "AVIF" or features.check_module("avif"))
"""Formats of the files that are read, by Pillow's names."""
SUFFIXES = tuple(suffix for name in FORMATS for suffix in _SUFFIXES[name])
"""Suffixes, in lower case, of the files that are taken for images in a folder."""

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# A tag of TIFF files.
_MAX_SAMPLE_VALUE = 281
_MAX_12_BITS = 4095


def read(source: Any) -> Image.Image:
    """Decodes an image fully, upright and in RGB.

    Args:
        source: a path, the bytes of a file, a Pillow image, or an array of shape
            `[height, width]` or `[height, width, channels]` with values in 0-255.
            16-bit pixels are taken to span 0-65535 (or 0 to the TIFF tag MaxSampleValue), and
            floats of a file 0-1 or 0-255.

    Raises:
        InputError: if the file is missing or is not a readable image, or the range of its
            pixels is unknown.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _to_rgb(source, "The image")
    name = "The image" if isinstance(source, bytes) else os.fspath(source)
    try:
        # Opening a named pipe blocks until somebody writes to it.
        if not isinstance(source, bytes) and stat.S_ISFIFO(os.stat(source).st_mode):
            raise InputError(f"{name} is a pipe; an image file is needed.")
        content = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(content, formats=FORMATS) as image:
            return _to_rgb(image, name)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{name} does not exist.") from None
    except IsADirectoryError:
        raise InputError(f"{name} is a folder; an image file is needed.") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name} is not an image that can be read; {', '.join(FORMATS)} files can."
        ) from None
    except Image.DecompressionBombError:
        raise InputError(f"{name} has too many pixels to be decoded safely.") from None
    except Exception as error:  # a damaged file can break a decoder in any way
        why = getattr(error, "strerror", None) or reason(error)
        raise InputError(f"{name} cannot be decoded: {why}.") from error


def prepare(
    image: Image.Image,
    size: int,
    crop_fraction: float,
    interpolation: Interpolation = "bicubic",
) -> np.ndarray:
    """Takes the centre crop and resizes it with antialiasing.

    Args:
        image: RGB image of any size.
        size: side of the result in pixels.
        crop_fraction: side of the square crop over the image's shorter side, in (0, 1].
        interpolation: by which it is resized.

    Returns:
        uint8 array `[size, size, 3]`.
    """
    width, height = image.size
    side = min(width, height) * crop_fraction
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), _RESAMPLING[interpolation], box=box))


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise InputError(
            f"An image array of shape {array.shape} cannot be used; "
            "[height, width] or [height, width, 1, 3 or 4] can."
        )
    if array.dtype != np.uint8:
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 255:
            raise InputError("The values of an image array must lie between 0 and 255.")
        if array.dtype == bool or (array.dtype.kind == "f" and 0 < array.max() <= 1):
            raise InputError(
                "The values of an image array must lie between 0 and 255, and those of this one "
                "seem to lie between 0 and 1; multiply it by 255."
            )
        array = np.rint(array).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(array[..., :3], _rgb(array))))


def _rgb(array: np.ndarray) -> tuple[int, int, int]:
    return (*array.shape[:2], 3)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    image.load()
    limit = np.max(getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE, 0))
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # more than 8 bits per channel, which convert() would saturate
        values = np.asarray(image).astype(np.float32)
        limit = limit if limit > 0 else _white(values, image.mode, name)
        image = Image.fromarray(np.clip(values * (255 / limit), 0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _white(values: np.ndarray, mode: str, name: str) -> float:
    """Returns the value of white of pixels of more than 8 bits."""
    low, high = values.min(), values.max()
    if mode == "F" and low >= 0 and high <= 255:
        return 1 if high <= 1 else 255
    # A photo of 16 bits that ends so low is likely one of 12 bits.
    if mode.startswith("I;16") and low >= 0 and (high > _MAX_12_BITS or high == 0):
        return 65535
    raise InputError(
        f"{name} has pixels from {low:g} to {high:g}, of which the range is unknown; convert it to "
        "8 bits, or to 16 bits that span 0 to 65535."
    )
