import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_efficientnet import InputError
from keras_efficientnet.data import images


def gradient(width, height):
    """An image whose red tells x and green tells y."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, x * 0], -1).round().astype(np.uint8))


def encoded(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def test_whole_square_image_of_the_right_size_is_left_alone():
    image = gradient(32, 32)
    np.testing.assert_array_equal(images.prepare(image, 32, 1.0), np.asarray(image))


@pytest.mark.parametrize(("width", "height"), [(400, 200), (200, 400)])
def test_the_crop_is_the_centre_square(width, height):
    prepared = images.prepare(gradient(width, height), 100, 0.875).astype(int)
    along_x, along_y = prepared[50, :, 0], prepared[:, 50, 1]
    side = 0.875 * 200
    for values, length in ((along_x, width), (along_y, height)):
        low, high = (length - side) / 2 / length * 255, (length + side) / 2 / length * 255
        assert abs(values[0] - low) < 2
        assert abs(values[-1] - high) < 2


def test_orientation_of_phone_photos_is_applied():
    upright = gradient(40, 20)
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        turned = images.read(encoded(upright, "PNG", exif=exif))
        expected = {5: (20, 40), 6: (20, 40), 7: (20, 40), 8: (20, 40)}
        assert turned.size == expected.get(orientation, (40, 20))
    exif[0x0112] = 3
    turned = np.asarray(images.read(encoded(upright, "PNG", exif=exif)))
    np.testing.assert_array_equal(turned, np.asarray(upright)[::-1, ::-1])


def test_every_mode_becomes_rgb_with_the_same_picture():
    image = gradient(16, 16)
    grey = image.convert("L")
    np.testing.assert_array_equal(
        np.asarray(images.read(encoded(grey, "PNG"))), np.asarray(grey.convert("RGB"))
    )
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    np.testing.assert_array_equal(np.asarray(images.read(encoded(wide, "PNG")))[..., 0], grey)
    assert images.read(encoded(image.convert("RGBA"), "PNG")).mode == "RGB"
    assert images.read(encoded(image.convert("P"), "GIF")).mode == "RGB"
    assert images.read(encoded(image.convert("CMYK"), "JPEG")).mode == "RGB"


def test_arrays_are_taken_as_pixels():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(np.asarray(images.read(pixels)), pixels)
    np.testing.assert_array_equal(np.asarray(images.read(pixels.astype(float) + 0.2)), pixels)
    np.testing.assert_array_equal(np.asarray(images.read(pixels[..., 0]))[..., 2], pixels[..., 0])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "not an image"),
        (b"not an image", "not an image"),
        (np.zeros((4, 4, 2)), "shape"),
        (np.full((4, 4, 3), 300.0), "between 0 and 255"),
        (np.full((4, 4, 3), np.nan), "between 0 and 255"),
        (np.full((4, 4, 3), 1.0), "multiply it by 255"),
        (np.ones((4, 4), bool), "multiply it by 255"),
        ("missing.jpg", "missing.jpg does not exist"),
    ],
)
def test_unusable_images_are_refused_in_a_sentence(source, message):
    with pytest.raises(InputError, match=message):
        images.read(source)


def tiff(values, tags=None):
    return encoded(Image.fromarray(values), "TIFF", tiffinfo=tags or {})


RAMP = np.linspace(0, 1, 256).reshape(16, 16)


@pytest.mark.parametrize(
    "content",
    [
        tiff((RAMP * 65535).astype(np.uint16)),
        tiff((RAMP * 4095).astype(np.uint16), {281: 4095}),
        tiff(RAMP.astype(np.float32)),
        tiff((RAMP * 255).astype(np.float32)),
        encoded(Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG"),
    ],
)
def test_wide_pixels_of_a_known_range_are_scaled(content):
    grey = np.asarray(images.read(content))[..., 0].astype(float)
    np.testing.assert_allclose(grey, RAMP * 255, atol=1)


@pytest.mark.parametrize(
    "values",
    [
        (RAMP * 4095).astype(np.uint16),  # 12 bits in 16
        (RAMP * 3000 - 1000).astype(np.int32),  # as of a tomograph
        (RAMP * 2**30).astype(np.int32),
        (RAMP * 4095).astype(np.float32),
        np.full((4, 4), np.nan, np.float32),
    ],
)
def test_wide_pixels_of_an_unknown_range_are_refused(values):
    with pytest.raises(InputError, match=r"^The image has pixels from .* the range is unknown"):
        images.read(tiff(values))


def test_truncated_files_are_refused():
    whole = encoded(gradient(64, 64), "JPEG")
    with pytest.raises(InputError, match="cannot be decoded"):
        images.read(whole[: len(whole) // 2])


WHOLE = [
    encoded(gradient(24, 16), "JPEG"),
    encoded(gradient(24, 16), "PNG"),
    encoded(gradient(24, 16).convert("P"), "GIF"),
    encoded(gradient(24, 16), "BMP"),
    encoded(gradient(24, 16), "WEBP"),
]


@settings(max_examples=300)
@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.floats(0, 0.999), st.binary(max_size=3))))
@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_files_are_read_or_refused_in_a_sentence(content, damages):
    damaged = bytearray(content)
    for place, new in damages:
        begin = int(place * len(content))
        damaged[begin : begin + max(1, len(new))] = new
    with contextlib.suppress(InputError):  # and nothing else
        assert images.read(bytes(damaged)).mode == "RGB"
