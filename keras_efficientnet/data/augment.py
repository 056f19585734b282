"""RandAugment, AutoAugment, MixUp and CutMix for `tf.data`.

Pure functions: all randomness comes from `seed`, an integer tensor of shape `[2]`, so a
pipeline gives the same images whatever its parallelism. Use one seed for each image and
epoch, as with `tf.data.Dataset.random`; the crop and the policy of one image may share it.
"""

import tensorflow as tf

from keras_efficientnet.data.operations import OPERATIONS
from keras_efficientnet.errors import InputError, require

# There is nothing to convert here, and AutoGraph, which `Dataset.map` applies to all it
# calls, would double the time of tracing.
_plain = tf.autograph.experimental.do_not_convert

SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
"""Operations whose argument is negated with probability 1/2."""

OP_PROBABILITY = (0.2 + 0.8) / 2
"""Probability with which RandAugment applies an operation that it has drawn.

TPU autoaugment.py draws a probability from U(.2, .8) for each operation, which is equivalent
to its mean. (That code then ignores it and always applies the operation: `op_probability=1`.)
"""

MAX_MAGNITUDE = 30
"""Largest magnitude of RandAugment that TPU autoaugment.py names."""

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


# As function calls, so that TensorFlow's executor does not visit the operations of the
# branches that are not taken. This halves the cost of the choice.
_CALLS = {
    name: tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
    for name, function in OPERATIONS.items()
}


def level_argument(name: str, level: float, *, translate: float, cutout: float) -> float:
    """Converts a level to the argument of an operation, before its sign is drawn.

    Args:
        name: of the operation, a key of `OPERATIONS`.
        level: at least 0; AutoAugment's search space ends at 10.
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
    require(name in OPERATIONS, "name", name, f"one of {', '.join(OPERATIONS)}")
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
    """Applies randomly drawn operations, all at one magnitude, to an image.

    Args:
        image: uint8 `[height, width, 3]`, sides at least 3. Translations and cutouts are in
            pixels, meant for images of about 200 pixels and more.
        seed: integers `[2]`.
        num_layers: number of operations applied in sequence (N in the paper).
        magnitude: level of all of them, 0 to 30 (M in the paper; the pretrained models
            used 10, B5 17, B7 and B8 28).
        op_probability: that a drawn operation is applied, see `OP_PROBABILITY`.

    Returns:
        uint8 of the same shape.

    Raises:
        InputError: an argument is out of its range or the image of another type.

    Source: https://arxiv.org/abs/1909.13719 and TPU autoaugment.py.
    """
    image = _check_image(image)
    require(num_layers >= 0, "num_layers", num_layers, "at least 0")
    in_range = 0 <= magnitude <= MAX_MAGNITUDE
    require(in_range, "magnitude", magnitude, f"from 0 to {MAX_MAGNITUDE}")
    require(0 <= op_probability <= 1, "op_probability", op_probability, "from 0 to 1")
    arguments = tf.constant(
        [level_argument(name, magnitude, **_RAND_AUGMENT_REACH) for name in OPERATIONS]
    )
    draws = tf.random.stateless_uniform([num_layers, 5], seed)
    for layer in range(num_layers):
        operation = tf.cast(draws[layer, 0] * len(OPERATIONS), tf.int32)
        applied = draws[layer, 1] < op_probability
        image = apply_operation(image, operation, arguments[operation], applied, draws[layer, 2:])
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
        image = apply_operation(
            image, operations[policy, step], arguments[policy, step], applied, draws[step, 2:]
        )
    return image


@_plain
def mix_up(images, labels, seed, alpha: float = 0.2, shard: tuple[int, int] = (0, 1)):
    """Blends each image of a shuffled batch with its neighbour, and their labels (MixUp).

    Args:
        images: `[batch, height, width, channels]`, any number type. The first is blended
            with the second, the third with the fourth, and so on; the last one of an odd
            batch is unchanged.
        labels: floats `[batch, classes]`, one-hot or smoothed.
        seed: integers `[2]`.
        alpha: both parameters of the Beta distribution that each image's own share is
            drawn from; 0 leaves the batch unchanged.
        shard: `(index, count)`: this batch is one of `count` equal parts of a global batch,
            whose images are mixed alike for any `count`.

    Returns:
        Images of the type they came in, integers rounded, and labels as float32, of the same
        shapes.

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
    """Pastes a rectangle of its neighbour in a shuffled batch into each image (CutMix).

    The labels are mixed by the area that is covered. (keras-cv's layer uses the area before
    the rectangle is clipped at the image's edge, which is up to four times as large.)

    Args:
        images: as for `mix_up`.
        labels: floats `[batch, classes]`, one-hot or smoothed.
        seed: integers `[2]`.
        alpha: as for `mix_up`.
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


def apply_operation(image, operation, argument, applied, draws):
    """Applies one operation to an image, or none.

    Args:
        image: uint8 `[height, width, 3]`.
        operation: index in `OPERATIONS`, scalar int32.
        argument: of the operation, scalar float32, before its sign is drawn.
        applied: whether to apply it, scalar bool.
        draws: uniform random floats `[3]` in [0, 1), for the sign and the centre of a cutout.
    """
    signed = tf.constant([name in SIGNED for name in OPERATIONS])
    negated = signed[operation] & (draws[0] < 0.5)
    argument = tf.where(negated, -argument, argument)

    def branch(name, function):
        more = (draws[1:],) if name == "Cutout" else ()
        return lambda: function(image, argument, *more)

    branches = [branch(name, function) for name, function in _CALLS.items()]
    # The last branch returns the unchanged image.
    index = tf.where(applied, operation, len(branches))
    result = tf.switch_case(index, [*branches, lambda: tf.identity(image)])
    return tf.ensure_shape(result, image.shape)


def _check_mix(alpha, seed, seeds):
    require(0 <= alpha < float("inf"), "alpha", alpha, "at least 0")
    return tf.unstack(tf.random.split(seed, seeds))


def _partners(images):
    """Pairs 0 with 1, 2 with 3, ..., so that shards of even size contain whole pairs."""
    batch = tf.shape(images)[0]
    return tf.minimum(tf.bitwise.bitwise_xor(tf.range(batch), 1), batch - 1)


def _part(draw, images, shard):
    """Draws for the global batch, and returns the values of this shard."""
    index, count = shard
    batch = tf.shape(images)[0]
    return draw(count * batch)[index * batch : (index + 1) * batch]


def _beta(batch, alpha, seed):
    """Draws the image's own share from Beta(alpha, alpha); 1 for alpha 0.

    That is `x / (x + y)` of two samples of Gamma(alpha), which underflow in float32 for small
    alpha. Gamma(alpha + 1) times a uniform sample to the power of `1 / alpha` has the same
    distribution, and a logarithm that does not underflow.
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
