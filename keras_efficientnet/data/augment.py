"""RandAugment, AutoAugment, MixUp and CutMix for `tf.data`.

Pure functions without state: all chance comes from `seed`, an integer tensor of shape
`[2]`, so a pipeline gives the same images however many of them it makes at once. Draw
one seed for each image and epoch, as with `tf.data.Dataset.random`; the crop and the
policy of one image may share it.
"""

import tensorflow as tf

from keras_efficientnet.data.operations import OPERATIONS
from keras_efficientnet.errors import InputError

# AutoGraph, which `Dataset.map` applies to all it calls, would find nothing to convert here
# and make tracing take twice as long.
_plain = tf.autograph.experimental.do_not_convert

SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
"""Operations whose argument is negated for half of the images."""

OP_PROBABILITY = (0.2 + 0.8) / 2
"""Of RandAugment applying an operation it has chosen.

TPU autoaugment.py draws it from U(.2, .8) for each operation. Drawn anew each time, it
makes the same coin as its mean. That code never reads the number it draws, though, and
applies whatever it has chosen: this is `op_probability=1`.
"""

MAX_MAGNITUDE = 30
"""The highest of RandAugment that TPU autoaugment.py names."""

# TPU autoaugment.py, the `HParams` of each policy, in pixels at level 10.
_RAND_AUGMENT_REACH = {"translate": 100, "cutout": 40}
_AUTO_AUGMENT_REACH = {"translate": 250, "cutout": 100}

# Policy v0 of AutoAugment (https://arxiv.org/abs/1805.09501, table 9; TPU
# autoaugment.py): operation, probability and level, twice.
AUTO_AUGMENT_V0 = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)


# Inlined, the operations would be visited one by one for every image, in the branches that are
# not taken too; called, only the call is. This halves the time of choosing.
_CALLS = {
    name: tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
    for name, function in OPERATIONS.items()
}


def level_argument(name: str, level: float, *, translate: float, cutout: float) -> float:
    """Turns a level into the argument of an operation, before its sign is drawn.

    Args:
        name: of the operation, a key of `OPERATIONS`.
        level: 0 or more; 10 is the highest that AutoAugment's search could choose.
        translate: pixels of a translation at level 10.
        cutout: pixels of half the side of a cutout at level 10.

    Returns:
        Degrees for Rotate, a slope for shears, pixels for translations and Cutout, bits
        for Posterize, grey levels for Solarize and SolarizeAdd, a blending factor for
        Color, Contrast, Brightness and Sharpness, and 0 for operations without argument.

    Raises:
        InputError: there is no such operation.

    Source: `level_to_arg` in TPU autoaugment.py.
    """
    if name not in OPERATIONS:
        raise InputError(f"name={name!r} must be one of {', '.join(OPERATIONS)}.")
    share = level / 10
    enhance, shear, shift = share * 1.8 + 0.1, share * 0.3, share * translate
    arguments = {
        "Rotate": share * 30.0,
        "Posterize": int(share * 4),
        "Solarize": int(share * 256),
        "Color": enhance,
        "Contrast": enhance,
        "Brightness": enhance,
        "Sharpness": enhance,
        "ShearX": shear,
        "ShearY": shear,
        "TranslateX": shift,
        "TranslateY": shift,
        "Cutout": int(share * cutout),
        "SolarizeAdd": int(share * 110),
    }
    return float(arguments.get(name, 0.0))


@_plain
def rand_augment(
    image,
    seed,
    num_layers: int = 2,
    magnitude: float = 10,
    op_probability: float = OP_PROBABILITY,
):
    """Applies operations drawn at random, all at one magnitude, to an image.

    Args:
        image: uint8 `[height, width, 3]`, sides of 3 or more. Translations and cutouts
            are in pixels, meant for images of some 200 and more.
        seed: integers `[2]`.
        num_layers: operations drawn, one after the other (N in the paper).
        magnitude: level of all of them, 0 to 30 (M in the paper; the published models
            use 10, B5 17, B7 and B8 28).
        op_probability: that a drawn operation is applied, see `OP_PROBABILITY`.

    Returns:
        uint8 of the same shape.

    Raises:
        InputError: an argument is out of its range or the image of another type.

    Source: https://arxiv.org/abs/1909.13719 and TPU autoaugment.py.
    """
    image = _check_image(image)
    if num_layers < 0:
        raise InputError(f"num_layers={num_layers} must be 0 or more.")
    if not 0 <= magnitude <= MAX_MAGNITUDE:
        raise InputError(f"magnitude={magnitude} must be from 0 to {MAX_MAGNITUDE}.")
    if not 0 <= op_probability <= 1:
        raise InputError(f"op_probability={op_probability} must be from 0 to 1.")
    arguments = tf.constant(
        [level_argument(name, magnitude, **_RAND_AUGMENT_REACH) for name in OPERATIONS]
    )
    draws = tf.random.stateless_uniform([num_layers, 5], seed)
    for layer in range(num_layers):
        operation = tf.cast(draws[layer, 0] * len(OPERATIONS), tf.int32)
        applied = draws[layer, 1] < op_probability
        image = _apply(image, operation, arguments[operation], applied, draws[layer, 2:])
    return image


@_plain
def auto_augment(image, seed):
    """Applies one of the 25 sub-policies of AutoAugment v0 to an image.

    Args:
        image: uint8 `[height, width, 3]`, as for `rand_augment`.
        seed: integers `[2]`.

    Returns:
        uint8 of the same shape.

    Raises:
        InputError: the image is of another type.

    Source: https://arxiv.org/abs/1805.09501 and TPU autoaugment.py.
    """
    image = _check_image(image)
    names = list(OPERATIONS)
    operations, probabilities, arguments = (
        tf.constant([[entry(*step) for step in steps] for steps in AUTO_AUGMENT_V0])
        for entry in (
            lambda name, *_: names.index(name),
            lambda _, probability, __: probability,
            lambda name, _, level: level_argument(name, level, **_AUTO_AUGMENT_REACH),
        )
    )
    draws = tf.random.stateless_uniform([2, 5], seed)
    policy = tf.cast(draws[0, 0] * len(AUTO_AUGMENT_V0), tf.int32)
    for step in range(2):
        applied = draws[step, 1] < probabilities[policy, step]
        image = _apply(
            image, operations[policy, step], arguments[policy, step], applied, draws[step, 2:]
        )
    return image


@_plain
def mix_up(images, labels, seed, alpha: float = 0.2, shard: tuple[int, int] = (0, 1)):
    """Blends each image of a shuffled batch with its neighbour, and their labels alike.

    Args:
        images: `[batch, height, width, channels]`, any number type. The first is blended
            with the second, the third with the fourth, and so on; the last one of an odd
            number stays as it is.
        labels: floats `[batch, classes]`, one-hot or smoothed.
        seed: integers `[2]`.
        alpha: both parameters of the Beta distribution of the share that an image
            keeps, one draw for each; 0 leaves the batch as it is.
        shard: `(index, count)`: the batch is this part of one `count` times as large,
            whose images get the same draws wherever it is cut.

    Returns:
        Images of the type they came in, whole numbers rounded, and labels as float32, of
        the same shapes.

    Raises:
        InputError: alpha is negative.

    Source: https://arxiv.org/abs/1710.09412.
    """
    (share_seed,) = _check_mix(alpha, seed, 1)
    images, labels = tf.convert_to_tensor(images), tf.cast(labels, tf.float32)
    partners = _partners(images)
    share = _part(lambda batch: _beta(batch, alpha, share_seed), images, shard)
    values = tf.cast(images, tf.float32)
    mixed = _mix(values, tf.gather(values, partners), share[:, tf.newaxis, tf.newaxis, tf.newaxis])
    if images.dtype.is_integer:
        mixed = tf.floor(mixed + 0.5)
    return (
        tf.cast(mixed, images.dtype),
        _mix(labels, tf.gather(labels, partners), share[:, tf.newaxis]),
    )


@_plain
def cut_mix(images, labels, seed, alpha: float = 1.0, shard: tuple[int, int] = (0, 1)):
    """Puts a rectangle of its neighbour in a shuffled batch into each image.

    The labels are mixed by the area that is really covered. (keras-cv's layer uses the
    area before the rectangle is cut off at the edge, which is up to four times as much.)

    Args:
        images: as for `mix_up`.
        labels: floats `[batch, classes]`, one-hot or smoothed.
        seed: integers `[2]`.
        alpha: both parameters of the Beta distribution of the share that an image
            keeps, one draw for each; 0 leaves the batch as it is.
        shard: as for `mix_up`.

    Returns:
        Images of the type they came in and labels as float32, of the same shapes.

    Raises:
        InputError: alpha is negative.

    Source: https://arxiv.org/abs/1905.04899.
    """
    share_seed, centre_seed = _check_mix(alpha, seed, 2)
    images, labels = tf.convert_to_tensor(images), tf.cast(labels, tf.float32)
    partners = _partners(images)
    size = tf.shape(images)[1:3]
    extent = tf.cast(size, tf.float32)
    keep = _part(lambda batch: _beta(batch, alpha, share_seed), images, shard)
    side = tf.sqrt(1 - keep)[:, tf.newaxis] * extent  # [batch, 2]
    centre = _part(
        lambda batch: tf.random.stateless_uniform([batch, 2], centre_seed), images, shard
    )
    centre = tf.floor(centre * extent)
    first = tf.cast(tf.maximum(centre - tf.floor(side / 2), 0), tf.int32)
    last = tf.cast(tf.minimum(centre + tf.floor(side / 2), extent), tf.int32)

    def within(axis):
        position = tf.range(size[axis])
        return (position >= first[:, axis, tf.newaxis]) & (position < last[:, axis, tf.newaxis])

    covered = within(0)[:, :, tf.newaxis, tf.newaxis] & within(1)[:, tf.newaxis, :, tf.newaxis]
    share = 1 - tf.cast(tf.reduce_prod(last - first, 1) / tf.reduce_prod(size), tf.float32)
    return (
        tf.where(covered, tf.gather(images, partners), images),
        _mix(labels, tf.gather(labels, partners), share[:, tf.newaxis]),
    )


def _check_image(image):
    image = tf.convert_to_tensor(image)
    if image.dtype != tf.uint8 or image.shape.rank != 3 or image.shape[2] != 3:
        raise InputError(
            f"image has type {image.dtype.name} and shape {image.shape}, but must be uint8 of "
            "shape [height, width, 3]."
        )
    return image


def _apply(image, operation, argument, applied, draws):
    """Applies the operation of that index in `OPERATIONS`, or none.

    Args:
        image: uint8 `[height, width, 3]`.
        operation: scalar int32.
        argument: scalar float32, without its sign.
        applied: scalar bool.
        draws: floats `[3]` in [0, 1), for the sign and for the centre of a cutout.
    """
    signed = tf.constant([name in SIGNED for name in OPERATIONS])
    negated = signed[operation] & (draws[0] < 0.5)
    argument = tf.where(negated, -argument, argument)

    def branch(name, function):
        more = (draws[1:],) if name == "Cutout" else ()
        return lambda: function(image, argument, *more)

    branches = [branch(name, function) for name, function in _CALLS.items()]
    # The index past the operations is the image itself; no branch is run but the one.
    index = tf.where(applied, operation, len(branches))
    result = tf.switch_case(index, [*branches, lambda: tf.identity(image)])
    return tf.ensure_shape(result, image.shape)


def _check_mix(alpha, seed, seeds):
    if not 0 <= alpha < float("inf"):
        raise InputError(f"alpha={alpha} must be 0 or more.")
    return tf.unstack(tf.random.split(seed, seeds))


def _partners(images):
    """0 with 1, 2 with 3, ...: pairs stay whole wherever an even number begins a part."""
    batch = tf.shape(images)[0]
    return tf.minimum(tf.bitwise.bitwise_xor(tf.range(batch), 1), batch - 1)


def _part(draw, images, shard):
    """The draws of this part of the batch, out of those for the whole."""
    index, count = shard
    batch = tf.shape(images)[0]
    return draw(count * batch)[index * batch : (index + 1) * batch]


def _beta(batch, alpha, seed):
    """Draws from Beta(alpha, alpha), the share of the image itself; 1 for alpha 0.

    That is `x / (x + y)` for two draws of Gamma(alpha), which for small alpha are too
    small for float32. A draw of Gamma(alpha + 1) times a uniform one to the power of
    `1 / alpha` is the same, and has a logarithm that fits.
    """
    if alpha == 0:
        return tf.ones([batch])
    gamma_seed, uniform_seed = tf.unstack(tf.random.split(seed, 2))
    gammas = tf.random.stateless_gamma([2, batch], gamma_seed, alpha=alpha + 1)
    uniforms = 1 - tf.random.stateless_uniform([2, batch], uniform_seed)  # in (0, 1]
    ours, theirs = tf.unstack(tf.math.log(gammas) + tf.math.log(uniforms) / alpha)
    return tf.sigmoid(ours - theirs)


def _mix(ours, theirs, share):
    return share * ours + (1 - share) * theirs
