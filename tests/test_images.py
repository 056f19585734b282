import contextlib
import io
import struct
import zlib

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
        (np.full((4, 4, 3), 1.0), "multiply them by 255"),
        (np.ones((4, 4), bool), "multiply them by 255"),
        ("missing.jpg", "missing.jpg does not exist"),
    ],
)
def test_unusable_images_are_refused_in_a_sentence(source, message):
    with pytest.raises(InputError, match=message):
        images.read(source)


def tiff(values, tags=None):
    return encoded(Image.fromarray(values), "TIFF", tiffinfo=tags or {})


RAMP = np.linspace(0, 1, 256).reshape(16, 16)
WIDE = (RAMP * 65535).astype(np.uint16)


def raw_tiff(values, sample_format):
    """A TIFF file of types that Pillow does not write, little-endian and without compression."""
    height, width, samples = (*values.shape, 1)[:3]
    content, bits = values.tobytes(), values.dtype.itemsize * 8
    depths = struct.pack(f"<{samples}H", *[bits] * samples)
    where = 8 + len(content) if samples > 1 else bits
    entries = [
        *((256, 1, width), (257, 1, height), (258, samples, where), (259, 1, 1)),
        *((262, 1, 2 if samples > 1 else 1), (273, 1, 8), (277, 1, samples), (278, 1, height)),
        *((279, 1, len(content)), (339, 1, sample_format)),
    ]
    directory = b"".join(struct.pack("<HHII", tag, 3, count, v) for tag, count, v in entries)
    begin = struct.pack("<I", 8 + len(content) + len(depths))
    return b"".join(
        (b"II*\0", begin, content, depths, struct.pack("<H", len(entries)), directory, bytes(4))
    )


def wide_png(values):
    """A PNG file of colours of 16 bits, which Pillow does not write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def colours(values):
    return np.stack([values] * 3, -1)


def with_alpha(values):
    return np.stack([values, np.full_like(values, 65535)], -1)


def assert_ramp(content, pixel_range=None):
    grey = np.asarray(images.read(content, pixel_range))[..., 0].astype(float)
    np.testing.assert_allclose(grey, RAMP * 255, atol=1)


@pytest.mark.parametrize(
    "content",
    [
        tiff(WIDE),
        tiff((RAMP * 4095).astype(np.uint16), {281: 4095}),
        tiff((RAMP * 4095).astype(np.float32), {341: 4095.0}),
        tiff(65535 - WIDE, {262: 0}),  # white is 0
        tiff(RAMP.astype(np.float32)),
        tiff((RAMP * 255).astype(np.float32)),
        encoded(Image.fromarray(WIDE), "PNG"),
        encoded(Image.fromarray(WIDE), "JPEG2000"),
        raw_tiff(colours(WIDE), 1),
        wide_png(colours(WIDE)),
        wide_png(with_alpha(WIDE)),
        b"P5 16 16 65535\n" + WIDE.astype(">u2").tobytes(),
        b"P5 16 16 4095\n" + (WIDE // 16).astype(">u2").tobytes(),
    ],
)
def test_wide_pixels_of_a_known_range_are_scaled(content):
    assert_ramp(content)


UNKNOWN = {
    "12 bits in 16": (encoded(Image.fromarray(WIDE // 16), "PNG"), (0, 4095)),
    "12 bits in 16, TIFF": (tiff(WIDE // 16), (0, 4095)),
    "Hounsfield units": (raw_tiff((RAMP * 4000 - 1000).astype("<i2"), 2), (-1000, 3000)),
    "int32": (tiff((RAMP * 2**31 - 2**30).astype(np.int32)), (-(2**30), 2**30)),
    "uint32": (raw_tiff((RAMP * (2**32 - 1)).astype("<u4"), 1), (0, 2**32 - 1)),
    "float 0-4095": (tiff((RAMP * 4095).astype(np.float32)), (0, 4095)),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_wide_pixels_of_an_unknown_range_are_refused_until_it_is_named(kind):
    content, pixel_range = UNKNOWN[kind]
    with pytest.raises(InputError, match=r"^The image has pixels from .* --pixel-range LOW:HIGH"):
        images.read(content)
    assert_ramp(content, pixel_range)


def test_what_lies_beyond_the_range_is_clipped_and_8_bits_are_left_alone():
    content, _ = UNKNOWN["Hounsfield units"]
    window = np.asarray(images.read(content, (0, 1000)))[..., 0]
    np.testing.assert_allclose(window, np.clip(RAMP * 4 - 1, 0, 1) * 255, atol=1)
    grey = gradient(16, 16)
    np.testing.assert_array_equal(images.read(encoded(grey, "PNG"), (0, 4095)), grey)


@pytest.mark.parametrize(
    "content",
    [
        wide_png(colours(WIDE // 16)),
        wide_png(with_alpha(WIDE // 16)),
        raw_tiff(colours(WIDE // 16), 1),
    ],
)
@pytest.mark.parametrize("pixel_range", [None, (0, 4095)])
def test_colours_of_12_bits_in_16_are_refused(content, pixel_range):
    with pytest.raises(InputError, match="colours of 16 bits that do not span 0 to 65535"):
        images.read(content, pixel_range)


def test_floats_that_are_no_numbers_are_refused():
    with pytest.raises(InputError, match="the range is unknown"):
        images.read(tiff(np.full((4, 4), np.nan, np.float32)))


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
