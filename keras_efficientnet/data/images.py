"""Decoding one image and preparing it as in evaluation: Pillow and NumPy, no TensorFlow.

Evaluation, prediction and the checks of exported files all go through `prepare`, so that
they see the same pixels.
"""

import contextlib
import functools
import importlib.util
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
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
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
# Pillow can be built without these, or needs a plug-in for them.
_AVAILABLE = {
    "JPEG2000": features.check_codec("jpg_2000"),
    "AVIF": features.check_module("avif"),
    "HEIF": importlib.util.find_spec("pillow_heif") is not None,
}
FORMATS = tuple(name for name in _SUFFIXES if _AVAILABLE.get(name, True))
"""Formats of the files that are read, by Pillow's names."""
SUFFIXES = tuple(suffix for name in FORMATS for suffix in _SUFFIXES[name])
"""Their usual suffixes, in lower case."""
ACCEPTED = f"{', '.join(FORMATS)} files are read" + (
    "" if _AVAILABLE["HEIF"] else ", and HEIC with pip install pillow-heif"
)
"""What is said where a file is none of these."""

PixelRange = tuple[float, float]
"""The values that become black and white, of images with more than 8 bits per channel."""
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# Tags of TIFF files, and of EXIF.
_ORIENTATION = 0x0112
_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339
_LEAST_SAMPLE, _GREATEST_SAMPLE = (280, 340), (281, 341)
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_MAX_12_BITS = 4095

_reading = threading.local()  # `name`: of the file that a thread reads


def read(source: Any, pixel_range: PixelRange | None = None) -> Image.Image:
    """Decodes an image fully, upright and in RGB.

    Pixels of more than 8 bits go by `pixel_range`. Without one they go by the TIFF tags of the
    least and greatest value; else 16 bits span 0-65535, unless none of them is above 4095, and
    floats 0-1 or 0-255. What spans anything else is refused.

    Args:
        source: a path, the bytes of a file, a Pillow image, or an array of shape
            `[height, width]` or `[height, width, channels]` with values in 0-255.
        pixel_range: values of a file's wide pixels that become 0 and 255; those beyond are clipped.
            It does not concern arrays, nor pixels of 8 bits.

    Raises:
        InputError: if the file is missing or is not a readable image, or the range of its
            pixels is unknown.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _to_rgb(source, "The image", pixel_range)
    name = "The image" if isinstance(source, bytes) else os.fspath(source)
    _reading.name = name
    try:
        # Opening a named pipe blocks until somebody writes to it.
        if not isinstance(source, bytes) and stat.S_ISFIFO(os.stat(source).st_mode):
            raise InputError(f"{name} is a pipe; an image file is needed.")
        with open_image(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _to_rgb(image, name, pixel_range)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{name} does not exist.") from None
    except IsADirectoryError:
        raise InputError(f"{name} is a folder; an image file is needed.") from None
    except UnidentifiedImageError:
        raise InputError(f"{name} is not an image that can be read; {ACCEPTED}.") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name} has too many pixels to be decoded safely.") from None
    except Exception as error:  # a damaged file can break a decoder in any way
        why = getattr(error, "strerror", None) or reason(error)
        raise InputError(f"{name} cannot be decoded: {why}.") from error
    finally:
        del _reading.name


def orientation(source: str | os.PathLike | bytes) -> int:
    """Returns the EXIF orientation of a file that can be read, 1 to 8; 1 where it names none.

    Args:
        source: its path or content.
    """
    _reading.name = "The image" if isinstance(source, bytes) else os.fspath(source)
    try:
        with open_image(io.BytesIO(source) if isinstance(source, bytes) else source) as header:
            value = header.getexif().get(_ORIENTATION, 1)
    finally:
        del _reading.name
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@contextlib.contextmanager
def collected_warnings() -> Iterator[dict[str, list[str]]]:
    """Collects what Pillow warns of while images are read inside a `with` block, in any thread.

    Yields:
        The texts, by the name of the file.
    """
    found: dict[str, list[str]] = {}

    def collect(message, category, *place, **options):
        if (name := getattr(_reading, "name", None)) is None:
            show(message, category, *place, **options)
        else:
            found.setdefault(name, []).append(" ".join(str(message).split()))

    with warnings.catch_warnings():
        # Its own decoders and plug-ins of it; other warnings go where they went.
        warnings.filterwarnings("always", module=r"PIL\b|pillow_heif\b")
        show, warnings.showwarning = warnings.showwarning, collect
        yield found


def open_image(file: Any) -> Image.Image:
    """Opens a path or stream as `Image.open` does, in one of `FORMATS`, whatever its suffix."""
    _add_decoders()
    return Image.open(file, formats=FORMATS)


@functools.cache
def _add_decoders() -> None:
    if _AVAILABLE["HEIF"]:
        import pillow_heif

        pillow_heif.register_heif_opener()


def is_image(path: str | os.PathLike) -> bool:
    """Returns whether a file begins like one that is read, by its content.

    Raises:
        OSError: if it cannot be opened.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open_image(path):
            return True
    except OSError as error:
        if error.errno is None:  # Pillow's, such as UnidentifiedImageError
            return False
        raise
    except Image.DecompressionBombError:
        return True
    except Exception:  # a damaged header can break a decoder in any way
        return False


def require_pixels(array: np.ndarray, name: str = "an image array") -> None:
    """Refuses an array of any shape that has no pixels in 0-255.

    Raises:
        InputError: if values lie elsewhere, or seem to lie in 0-1.
    """
    if array.dtype == np.uint8 or not array.size:
        return
    accepted = f"The values of {name} must lie between 0 and 255"
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):  # nor are they NaN
        raise InputError(f"{accepted}.")
    if array.dtype == bool or (array.dtype.kind == "f" and 0 < high <= 1):
        raise InputError(
            f"{accepted}, and these seem to lie between 0 and 1; multiply them by 255."
        )


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
    require_pixels(array)
    if array.dtype != np.uint8:
        array = np.rint(array).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(array[..., :3], _rgb(array))))


def _rgb(array: np.ndarray) -> tuple[int, int, int]:
    return (*array.shape[:2], 3)


def _to_rgb(image: Image.Image, name: str, pixel_range: PixelRange | None) -> Image.Image:
    # Of colours of 16 bits, Pillow gives the high bytes.
    halved = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()) or ())
    kind, tags = image.format, dict(getattr(image, "tag_v2", {}))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # more than 8 bits per channel, which convert() would saturate
        values = np.asarray(image)
        if image.mode == "I" and tags.get(_SAMPLE_FORMAT) in (_UNSIGNED, (_UNSIGNED,)):
            values = values.astype(np.int32).view(np.uint32)  # Pillow takes them for signed
        values = values.astype(np.float64)
        own = (0, 65535) if kind == "PPM" else pixel_range  # Pillow scales by a PPM file's header
        black, white = own or _tagged_range(tags) or _usual_range(values, image.mode, name)
        levels = np.rint(np.clip((values - black) * (255 / (white - black)), 0, 255))
        levels = levels.astype(np.uint8)
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            levels = 255 - levels
        image = Image.fromarray(levels)
    elif halved:
        _check_halved(image, name, pixel_range)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _tagged_range(tags: dict[int, Any]) -> PixelRange | None:
    """Returns the range that a TIFF file says its pixels have."""
    least, greatest = (
        [float(np.max(tags[tag])) for tag in pair if tag in tags]
        for pair in (_LEAST_SAMPLE, _GREATEST_SAMPLE)
    )
    black, white = min([0.0, *least]), max([0.0, *greatest])
    return (black, white) if white > 0 and np.isfinite([black, white]).all() else None


def _usual_range(values: np.ndarray, mode: str, name: str) -> PixelRange:
    """Returns the range of wide pixels of which nothing is said, if they allow one only."""
    low, high = values.min(), values.max()
    if mode == "F" and low >= 0 and high <= 255:
        return 0, 1 if high <= 1 else 255
    # A photo of 16 bits that ends so low is likely one of 12 bits.
    if mode.startswith("I;16") and low >= 0 and (high > _MAX_12_BITS or high == 0):
        return 0, 65535
    raise InputError(
        f"{name} has pixels from {low:g} to {high:g}, of which the range is unknown; name it by "
        "--pixel-range LOW:HIGH, or convert the image to 8 bits."
    )


def _check_halved(image: Image.Image, name: str, pixel_range: PixelRange | None) -> None:
    """Refuses colours of 16 bits where the high bytes are not enough."""
    colours = [image.getchannel(band) for band in image.getbands() if band != "A"]
    high = np.max([colour.getextrema() for colour in colours])
    if pixel_range not in (None, (0, 65535)) or 0 < high <= _MAX_12_BITS >> 8:
        raise InputError(
            f"{name} has colours of 16 bits that do not span 0 to 65535; convert it to 8 bits."
        )
