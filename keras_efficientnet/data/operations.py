"""The 16 image operations of AutoAugment and RandAugment, as Pillow does them.

Each takes a uint8 image `[height, width, 3]` and a scalar argument, and returns a uint8
image of the same shape. Operations without an argument ignore it, so that a policy can call
all alike; `cutout` takes a centre as well.

For speed on a CPU, values stay in the narrowest type that fits; lookup tables are used only
where arithmetic cannot do it, because `tf.gather` costs several elementwise passes (and
`gather_nd` has the faster kernel); conditions are masks, because `tf.where` on bytes costs as
much as a gather.
"""

import math
from collections.abc import Callable

import tensorflow as tf

FILL = 128
"""Grey level of pixels from outside the image (TPU autoaugment.py, `replace_value`)."""

# Pillow's integer luma (ITU-R 601-2), exact in float32: 255 * 2**16 needs 24 bits.
_LUMA = [19595 / 65536, 38470 / 65536, 7471 / 65536]
# Pillow's SMOOTH filter, to be divided by its sum of 13.
_SMOOTH = [[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]


def auto_contrast(image, unused=None):
    """Stretches each channel to the full range; a constant channel is unchanged."""
    low, high = (
        tf.cast(reduce(image, [0, 1]), tf.float32) for reduce in (tf.reduce_min, tf.reduce_max)
    )
    flat = tf.equal(low, high)
    low = tf.where(flat, 0.0, low)
    span = tf.where(flat, 255.0, high - low)
    rows = tf.cast(_rows(image), tf.float32) - _along_rows(low, image)
    # Multiplying before dividing keeps whole quotients exact.
    stretched = rows * 255.0 / _along_rows(span, image)
    return tf.reshape(tf.cast(stretched, tf.uint8), tf.shape(image))


def equalize(image, unused=None):
    """Equalizes the histogram of each channel."""
    codes = tf.cast(_rows(image), tf.int32) + _along_rows(tf.constant([0, 256, 512]), image)
    counts = tf.math.bincount(tf.reshape(codes, [-1]), minlength=768, maxlength=768)
    counts = tf.reshape(counts, [3, 256])
    brightest = tf.gather(counts, tf.cast(tf.reduce_max(image, [0, 1]), tf.int32), batch_dims=1)
    step = ((tf.size(image) // 3 - brightest) // 255)[:, tf.newaxis]
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    table = tf.reshape(tf.where(step > 0, table, tf.range(256)), [-1])
    equalized = tf.gather_nd(tf.cast(table, tf.uint8), codes[:, :, tf.newaxis])
    return tf.reshape(equalized, tf.shape(image))


def invert(image, unused=None):
    """Inverts each value: 255 minus it."""
    return tf.bitwise.invert(image)


def rotate(image, degrees):
    """Rotates the image about its centre, counterclockwise for positive degrees."""
    radians = tf.cast(degrees, tf.float64) * (math.pi / 180)
    cos, sin = tf.cos(radians), tf.sin(radians)
    height, width = (tf.cast(side, tf.float64) / 2 for side in tf.unstack(tf.shape(image)[:2]))
    return _affine(
        image,
        (cos, -sin, width - cos * width + sin * height),
        (sin, cos, height - sin * width - cos * height),
    )


def posterize(image, bits):
    """Keeps the highest `bits` bits of each value; `bits` is clipped to 1-8."""
    shift = 8 - tf.clip_by_value(tf.cast(bits, tf.int32), 1, 8)
    mask = tf.bitwise.left_shift(tf.constant(255, tf.uint8), tf.cast(shift, tf.uint8))
    return tf.bitwise.bitwise_and(image, mask)


def solarize(image, threshold):
    """Inverts the values at or above the threshold; 256 changes nothing."""
    bright = tf.cast(image, tf.int16) >= tf.cast(threshold, tf.int16)
    return tf.bitwise.bitwise_xor(image, tf.cast(bright, tf.uint8) * 255)


def solarize_add(image, addition):
    """Adds to the values below 128, saturating at 255."""
    values = tf.cast(image, tf.int16)
    added = values + tf.cast(values < 128, tf.int16) * tf.cast(addition, tf.int16)
    return tf.cast(tf.minimum(added, 255), tf.uint8)


def color(image, factor):
    """Blends with the grey image: factor 0 is grey, 1 the image, more extrapolates."""
    return _blend(_grey(image, channels=3), image, factor)


def contrast(image, factor):
    """Blends with the mean grey level, see `color`."""
    return _blend(tf.floor(tf.reduce_mean(_grey(image, channels=1)) + 0.5), image, factor)


def brightness(image, factor):
    """Blends with black, see `color`."""
    return _blend(0.0, image, factor)


def sharpness(image, factor):
    """Blends with the smoothed image, see `color`; the outermost pixels are unchanged."""
    values = tf.cast(image, tf.float32)
    kernel = tf.tile(tf.constant(_SMOOTH)[:, :, tf.newaxis, tf.newaxis], [1, 1, 3, 1])
    sums = tf.nn.depthwise_conv2d(values[tf.newaxis], kernel, [1, 1, 1, 1], "VALID")[0]
    smooth = tf.floor(sums / 13 + 0.5)
    difference = tf.pad(smooth - values[1:-1, 1:-1], [[1, 1], [1, 1], [0, 0]])
    return _blend(values + difference, image, factor)


def shear_x(image, level):
    """Moves each row left by `level` times its distance from the top."""
    return _affine(image, (1.0, level, 0.0), (0.0, 1.0, 0.0))


def shear_y(image, level):
    """Moves each column up by `level` times its distance from the left."""
    return _affine(image, (1.0, 0.0, 0.0), (level, 1.0, 0.0))


def translate_x(image, pixels):
    """Moves the image left by a number of pixels."""
    return _translate(image, 0.0, pixels)


def translate_y(image, pixels):
    """Moves the image up by a number of pixels."""
    return _translate(image, pixels, 0.0)


def cutout(image, half_side, centre):
    """Covers a square with grey, clipped at the edges of the image.

    Args:
        image: uint8 `[height, width, 3]`.
        half_side: half of the square's side in pixels.
        centre: `[2]`, row and column as fractions in [0, 1) of height and width.
    """
    size = tf.shape(image)[:2]
    middle = tf.cast(tf.cast(size, tf.float32) * centre, tf.int32)
    half = tf.cast(half_side, tf.int32)
    top, left = tf.unstack(tf.maximum(middle - half, 0))
    bottom, right = tf.unstack(tf.minimum(middle + half, size))
    hole = tf.fill([bottom - top, right - left, 3], tf.constant(FILL, tf.uint8))
    band = tf.concat([image[top:bottom, :left], hole, image[top:bottom, right:]], axis=1)
    return tf.concat([image[:top], band, image[bottom:]], axis=0)


OPERATIONS: dict[str, Callable] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "Solarize": solarize,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Cutout": cutout,
    "SolarizeAdd": solarize_add,
}
"""By the names of the papers, in the order of TPU autoaugment.py."""


def _rows(image):
    """The image as `[height, width * 3]`."""
    return tf.reshape(image, [tf.shape(image)[0], -1])


def _along_rows(channels, image):
    """Repeats one value for each channel to `[width * 3]`.

    Broadcasting along whole rows is several times faster than along an axis of three.
    """
    return tf.tile(channels, tf.shape(image)[1:2])


def _grey(image, channels):
    """Luma rounded to whole levels, float32 `[height, width, channels]`."""
    weights = tf.tile(tf.constant(_LUMA)[:, tf.newaxis], [1, channels])
    pixels = tf.reshape(tf.cast(image, tf.float32), [-1, 3])
    grey = tf.floor(tf.matmul(pixels, weights) + 0.5)
    return tf.reshape(grey, [tf.shape(image)[0], tf.shape(image)[1], channels])


def _blend(other, image, factor):
    """Returns `other` at factor 0, `image` at 1, extrapolated above, clipped to 0-255."""
    values = tf.cast(image, tf.float32)
    blended = other + tf.cast(factor, tf.float32) * (values - other)
    return tf.cast(tf.clip_by_value(blended, 0.0, 255.0), tf.uint8)


def _translate(image, down, right):
    """Moves the image up and left by that many pixels, rounded."""
    size = tf.shape(image)[:2]
    shift = tf.cast(tf.floor(tf.stack([down, right]) + 0.5), tf.int32)
    shift = tf.clip_by_value(shift, -size, size)
    top, left = tf.unstack(tf.maximum(shift, 0))
    bottom, right = tf.unstack(size + tf.minimum(shift, 0))
    before, after = tf.maximum(-shift, 0), tf.maximum(shift, 0)
    padding = tf.pad(tf.stack([before, after], axis=1), [[0, 1], [0, 0]])  # [3, 2]
    return tf.pad(image[top:bottom, left:right], padding, constant_values=FILL)


def _affine(image, row_x, row_y):
    """Pillow's `Image.transform` with an affine matrix and nearest-neighbour sampling.

    The pixel at column x and row y takes the value at column
    `a * (x + 0.5) + b * (y + 0.5) + c` for `(a, b, c) = row_x`, and at the row that `row_y`
    gives. Coordinates are fixed-point numbers of 16 fractional bits as in Pillow, so the
    result is identical for sides below about 10,000. A gather from an image with a grey border
    takes a third of the time of TensorFlow's ImageProjectiveTransformV3 and needs no mask.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    xs, ys = tf.range(width), tf.range(height)[:, tf.newaxis]

    def source(row, limit):
        a, b, c = (tf.cast(value, tf.float64) for value in row)
        slope_x, slope_y, start = (
            tf.cast(tf.floor(value * 65536 + 0.5), tf.int32) for value in (a, b, c + (a + b) / 2)
        )
        position = tf.bitwise.right_shift(slope_x * xs + (slope_y * ys + start), 16)
        return tf.clip_by_value(position + 1, 0, limit + 1)  # within the bordered image

    bordered = tf.pad(image, [[1, 1], [1, 1], [0, 0]], constant_values=FILL)
    index = source(row_y, height) * (width + 2) + source(row_x, width)
    return tf.gather_nd(tf.reshape(bordered, [-1, 3]), index[:, :, tf.newaxis])
