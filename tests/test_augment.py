"""Crops, image operations and policies against Pillow and against literal values."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from keras_efficientnet.data import augment, crop
from keras_efficientnet.data.operations import FILL, OPERATIONS
from keras_efficientnet.errors import InputError

FLOWERS = Path(__file__).parents[2] / "shared" / "data" / "flowers"
REACH = {"translate": 100, "cutout": 40}  # of RandAugment
GREY = (FILL,) * 3


def make_images():
    generator = np.random.default_rng(0)
    church, flower = load_sample_images().images
    rows, columns = np.mgrid[:120, :161]
    waves = np.stack([np.sin(rows / 17), np.cos(columns / 23), np.sin((rows + columns) / 31)], -1)
    images = {
        "church": church[100:324, 200:424],
        "flower": flower[:331:2, ::3],
        "noise": generator.integers(0, 256, (97, 130, 3)),
        "waves and noise": 128 + 70 * waves + generator.normal(0, 12, (120, 161, 3)),
        "narrow range": generator.integers(100, 111, (40, 56, 3)),
        "constant": np.full((21, 20, 3), (7, 77, 200)),
        "two values": np.where(columns[:30, :30, np.newaxis] < 11, 90, (91, 140, 255)),
    }
    for file in sorted(FLOWERS.glob("val/*/*"))[::60]:
        images[file.name] = np.asarray(Image.open(file).convert("RGB"))
    return {name: np.clip(image, 0, 255).astype(np.uint8) for name, image in images.items()}


IMAGES = make_images()


def affine(matrix):
    def transform(image, argument):
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            matrix(argument),
            Image.Resampling.NEAREST,
            fillcolor=GREY,
        )

    return transform


PILLOW = {
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
    "Rotate": lambda image, degrees: image.rotate(
        degrees, Image.Resampling.NEAREST, fillcolor=GREY
    ),
    # Pillow refuses 0 bits and more than 8, which the level map gives.
    "Posterize": lambda image, bits: ImageOps.posterize(image, int(min(max(bits, 1), 8))),
    "Solarize": lambda image, threshold: ImageOps.solarize(image, int(threshold)),
    "Color": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "Contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "Brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "Sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    "ShearX": affine(lambda level: (1, level, 0, 0, 1, 0)),
    "ShearY": affine(lambda level: (1, 0, 0, level, 1, 0)),
    "TranslateX": affine(lambda pixels: (1, 0, pixels, 0, 1, 0)),
    "TranslateY": affine(lambda pixels: (1, 0, 0, 0, 1, pixels)),
    "SolarizeAdd": lambda image, addition: image.point(
        [min(value + int(addition), 255) if value < 128 else value for value in range(256)] * 3
    ),
}


@pytest.mark.parametrize("name", PILLOW)
def test_operation_equals_pillow(name):
    function = tf.function(OPERATIONS[name], input_signature=[IMAGE_SPEC, SCALAR_SPEC])
    for image_name, image in IMAGES.items():
        for magnitude in (0, 1, 2.5, 5, 7.3, 10, 17, 28):
            argument = augment.level_argument(name, magnitude, **REACH)
            for value in (argument, -argument) if name in augment.SIGNED else (argument,):
                expected = np.asarray(PILLOW[name](Image.fromarray(image), value))
                result = function(image, value).numpy()
                difference = np.abs(result.astype(int) - expected).max()
                assert difference <= 2, (image_name, magnitude, value)
                if name != "AutoContrast":  # Pillow's quotients fall short of whole numbers
                    assert np.mean(result != expected) < 1e-3, (image_name, magnitude, value)


IMAGE_SPEC = tf.TensorSpec([None, None, 3], tf.uint8)  # type: ignore[abstract]
SCALAR_SPEC = tf.TensorSpec([], tf.float32)  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("centre", "half", "box"),
    [
        ((0.5, 0.5), 10, (70, 50, 90, 70)),
        ((0.0, 0.0), 10, (0, 0, 10, 10)),
        ((0.99, 0.25), 40, (0, 78, 80, 120)),
        ((0.5, 0.5), 400, (0, 0, 161, 120)),
        ((0.5, 0.5), 0, (0, 0, 0, 0)),
    ],
)
def test_cutout_covers_a_square(centre, half, box):
    image = IMAGES["waves and noise"]
    expected = Image.fromarray(image)
    expected.paste(GREY, box)
    result = OPERATIONS["Cutout"](image, half, tf.constant(centre))
    np.testing.assert_array_equal(result, np.asarray(expected))


def test_operations_on_the_smallest_images():
    for shape in ((3, 3, 3), (3, 8, 3), (5, 3, 3)):
        image = np.full(shape, 100, np.uint8)
        for name, function in OPERATIONS.items():
            more = ([0.5, 0.5],) if name == "Cutout" else ()
            result = function(tf.constant(image), 1.0, *more)
            assert result.shape == shape, name
            assert result.dtype == tf.uint8, name


# Level: Rotate, Posterize, Solarize, enhancements, shears, translations, Cutout, SolarizeAdd
LEVELS = {
    0: (0.0, 0, 0, 0.1, 0.0, 0.0, 0, 0),
    5: (15.0, 2, 128, 1.0, 0.15, 50.0, 20, 55),
    10: (30.0, 4, 256, 1.9, 0.3, 100.0, 40, 110),
    17: (51.0, 6, 435, 3.16, 0.51, 170.0, 68, 187),
}


@pytest.mark.parametrize("level", LEVELS)
def test_level_map(level):
    rotate, posterize, solarize, enhance, shear, translate, cutout, add = LEVELS[level]
    expected = {
        "AutoContrast": 0,
        "Equalize": 0,
        "Invert": 0,
        "Rotate": rotate,
        "Posterize": posterize,
        "Solarize": solarize,
        "Color": enhance,
        "Contrast": enhance,
        "Brightness": enhance,
        "Sharpness": enhance,
        "ShearX": shear,
        "ShearY": shear,
        "TranslateX": translate,
        "TranslateY": translate,
        "Cutout": cutout,
        "SolarizeAdd": add,
    }
    found = {name: augment.level_argument(name, level, **REACH) for name in OPERATIONS}
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_sign_is_drawn_where_it_means_something(name, level):
    image = IMAGES["noise"]
    argument = augment.level_argument(name, level, **REACH)
    more = ([0.3, 0.6],) if name == "Cutout" else ()
    index = list(OPERATIONS).index(name)
    for draw, sign in ((0.49, -1.0 if name in augment.SIGNED else 1.0), (0.5, 1.0)):
        result = augment.apply_operation(
            tf.constant(image), index, argument, tf.constant(True), tf.constant([draw, 0.3, 0.6])
        )
        np.testing.assert_array_equal(result, OPERATIONS[name](image, sign * argument, *more))


def test_auto_augment_policy_is_v0():
    policy = augment.AUTO_AUGMENT_V0
    assert len(policy) == 25
    assert policy[0] == (("Equalize", 0.8, 1), ("ShearY", 0.8, 4))
    assert policy[15] == (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9))
    assert policy[24] == (("Color", 0.8, 6), ("Rotate", 0.4, 5))
    steps = [step for pair in policy for step in pair]
    assert Counter(name for name, _, _ in steps) == {
        "Equalize": 12,
        "Solarize": 8,
        "Color": 9,
        "Rotate": 7,
        "ShearY": 4,
        "ShearX": 2,
        "SolarizeAdd": 2,
        "Posterize": 2,
        "AutoContrast": 2,
        "Invert": 1,
        "TranslateY": 1,
    }
    assert sum(probability for _, probability, _ in steps) == pytest.approx(29.8)
    assert sum(level for _, _, level in steps) == 240


def augment_many(function, image, count):
    """Results of `count` seeds on one image, as a numpy array."""
    seeds = tf.data.Dataset.range(count).map(lambda i: tf.stack([i, 7]))
    results = seeds.map(lambda seed: function(image, seed), num_parallel_calls=2)
    return next(iter(results.batch(count))).numpy()


def test_rand_augment_draws_each_operation_and_sign_alike():
    image = np.random.default_rng(1).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    names = {}
    for name, function in OPERATIONS.items():
        # Level 4, because the enhancements do nothing at 5.
        argument = augment.level_argument(name, 4, **REACH)
        if name != "Cutout":
            names[function(image, argument).numpy().tobytes()] = (name, 1)
        if name in augment.SIGNED:
            names[function(image, -argument).numpy().tobytes()] = (name, -1)
    # Translations by 40 leave nothing of 24 pixels: all four look alike.
    results = augment_many(
        lambda image, seed: augment.rand_augment(image, seed, 1, 4, op_probability=1), image, 3200
    )
    counts = Counter(names.get(result.tobytes(), ("Cutout", 1)) for result in results)
    translations = [key for key in names.values() if key[0].startswith("Translate")]
    assert len(translations) == 1
    assert sum(counts[key] for key in translations) == pytest.approx(400, abs=95)
    for name in OPERATIONS:
        if not name.startswith("Translate"):
            signs = (1, -1) if name in augment.SIGNED else (1,)
            assert sum(counts[name, sign] for sign in signs) == pytest.approx(200, abs=70), name
        if name in ("Rotate", "ShearX", "ShearY"):
            assert counts[name, 1] == pytest.approx(100, abs=50), name


@pytest.mark.parametrize(
    ("layers", "probability", "untouched"), [(1, 0.5, 0.5), (2, 0.5, 0.25), (2, 0, 1), (2, 1, 0)]
)
def test_rand_augment_applies_with_probability(layers, probability, untouched):
    image = IMAGES["noise"][:30, :30]
    results = augment_many(
        lambda image, seed: augment.rand_augment(image, seed, layers, 7, probability), image, 800
    )
    share = np.mean([np.array_equal(result, image) for result in results])
    # Inverting twice, and the like, gives the image back once in a while.
    assert share == pytest.approx(untouched, abs=0.07 if 0 < untouched < 1 else 0.02)


def test_rand_augment_default_is_the_mean_of_the_published_interval():
    assert augment.OP_PROBABILITY == 0.5


def test_auto_augment_equals_its_policy_step_by_step():
    image = IMAGES["noise"][:40, :50]
    results = augment_many(augment.auto_augment, image, 150)
    seen = set()
    for number, result in enumerate(results):
        draws = tf.random.stateless_uniform([2, 5], (number, 7)).numpy()
        chosen = int(draws[0, 0] * 25)
        seen.add(chosen)
        expected = image
        for (name, probability, level), draw in zip(
            augment.AUTO_AUGMENT_V0[chosen], draws, strict=True
        ):
            argument = augment.level_argument(name, level, translate=250, cutout=100)
            if name in augment.SIGNED and draw[2] < 0.5:
                argument = -argument
            if draw[1] < probability:
                expected = np.asarray(PILLOW[name](Image.fromarray(expected), argument))
        assert np.abs(result.astype(int) - expected).max() <= 2, number
    assert len(seen) == 25


@tf.function  # traced once for all pipelines
def crop_and_augment(number, image):
    seed = tf.stack([number, 3])
    return number, augment.rand_augment(crop.random_resized_crop(image, 48, seed), seed)


def pipeline(images, parallel, deterministic=True):
    numbered = tf.data.Dataset.from_tensor_slices(images).enumerate()
    found = numbered.map(crop_and_augment, num_parallel_calls=parallel, deterministic=deterministic)
    return {int(number): image for number, image in found.as_numpy_iterator()}


def test_a_seed_decides_whatever_the_parallelism():
    images = np.stack([IMAGES["church"][i : i + 64, i : i + 64] for i in range(60)])
    one = pipeline(images, 1)
    assert list(one) == list(range(60))
    for other in (pipeline(images, 8), pipeline(images, 8, deterministic=False)):
        for number, image in one.items():
            np.testing.assert_array_equal(other[number], image)


def test_images_of_a_batch_are_independent():
    image = IMAGES["church"][:64, :64]
    same = pipeline(np.stack([image] * 40), 2)
    # A few are alike, for RandAugment's translation of 100 pixels leaves nothing of 48.
    assert len({result.tobytes() for result in same.values()}) > 30
    # What else is in the batch makes no difference to an image.
    others = pipeline(np.stack([image, *[255 - image] * 39]), 2)
    np.testing.assert_array_equal(same[0], others[0])
    assert sum(not np.array_equal(same[number], others[number]) for number in range(1, 40)) > 30


@pytest.mark.parametrize("function", [augment.rand_augment, augment.auto_augment])
def test_policies_keep_type_and_shape(function):
    image = IMAGES["noise"]
    for seed in range(10):
        result = function(image, [seed, 0])
        assert result.dtype == tf.uint8
        assert result.shape == image.shape
    traced = tf.function(function)
    for shape in ([97, 130, 3], [None, None, 3]):
        seed = tf.TensorSpec([2], tf.int64)  # type: ignore[abstract]
        spec = tf.TensorSpec(shape, tf.uint8)  # type: ignore[abstract]
        graph = traced.get_concrete_function(spec, seed)
        assert graph.structured_outputs.shape.as_list() == shape
        seed = tf.constant([5, 6], tf.int64)
        result = graph(tf.constant(image), seed)
        np.testing.assert_array_equal(result, function(image, seed))


def encode(image, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def ramp(height, width):
    """Red is the column and green the row, so that a crop shows where it was cut."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.zeros_like(rows)], -1).astype(np.uint8)


def reference_windows(height, width, count):
    """Height and width by the sampler of TensorFlow's documentation, in plain numpy.

    Aspect ratio uniform, height uniform between those of the smallest and largest area.
    """
    generator = np.random.default_rng(0)
    found = []
    while len(found) < count:
        ratio = generator.uniform(3 / 4, 4 / 3)
        low, high = (np.sqrt(area * height * width / ratio) for area in (0.08, 1.0))
        high = min(high, height, width / ratio)
        rows = generator.uniform(low, high)
        if 0.1 <= rows * rows * ratio / (height * width) <= 1:
            found.append((rows, rows * ratio))
    return np.array(found)


@pytest.mark.parametrize(("height", "width"), [(250, 250), (180, 256)])
def test_random_crop_distribution(height, width):
    size = 32
    results = augment_many(
        lambda image, seed: crop.random_resized_crop(image, size, seed), ramp(height, width), 3000
    ).astype(float)
    # A linear ramp stays linear in the middle; its slope is the crop's side.
    slope_x = (results[:, 16, 27, 0] - results[:, 16, 4, 0]) * size / 23
    slope_y = (results[:, 27, 16, 1] - results[:, 4, 16, 1]) * size / 23
    columns, rows = np.abs(slope_x), slope_y
    area, ratio = rows * columns / (height * width), columns / rows
    # The ramp is known to one grey level, so a side to 1.4 pixels of 80 or more.
    assert area.min() > 0.1 * 0.96
    assert area.max() < 1.03
    assert ratio.min() > 3 / 4 * 0.96
    assert ratio.max() < 4 / 3 * 1.04
    assert np.mean(slope_x < 0) == pytest.approx(0.5, abs=0.04)
    reference = reference_windows(height, width, 20000)
    reference_area = reference.prod(1) / (height * width)
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.quantile(area, quantile) == pytest.approx(
            np.quantile(reference_area, quantile), abs=0.04
        )
    assert ratio.mean() == pytest.approx((reference[:, 1] / reference[:, 0]).mean(), abs=0.015)
    left = results[:, 16, :, 0].min(1)
    assert left.min() < 4
    assert np.corrcoef(left, results[:, :, 16, 1].min(1))[0, 1] < 0.6


@pytest.mark.parametrize(
    ("shape", "size", "window"),
    [
        ((40, 2000), 224, (3, 983, 35, 35)),  # .875 of 40
        ((2000, 33), 224, (986, 3, 28, 28)),
        ((40, 2000), 240, (3, 983, 35, 35)),  # 240 / 274 of 40
        ((400, 9000), 300, (26, 4326, 349, 349)),  # 300 / 343 of 400
        ((1, 30000), 8, (0, 15000, 1, 1)),
    ],
)
def test_random_crop_falls_back_to_the_centre(shape, size, window):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    top, left, rows, columns = window
    part = image[top : top + rows, left : left + columns]
    expected = np.rint(tf.image.resize(part, [size, size], "bicubic").numpy().clip(0, 255))
    for seed in range(3):
        result = crop.random_resized_crop(image, size, [seed, 0], flip=False).numpy()
        assert result.dtype == np.uint8
        assert np.abs(result - expected).max() <= 1  # rounded half up there, half to even here


def random_crop(image, seed=(4, 2)):
    return crop.random_resized_crop(image, 64, seed).numpy()


def test_files_give_the_crops_of_their_pixels():
    image = IMAGES["flower"]
    jpeg = encode(image, "JPEG", quality=90, subsampling=0)
    decoded = tf.io.decode_jpeg(jpeg, channels=3).numpy()
    files = {"PNG": (encode(image, "PNG"), image), "BMP": (encode(image, "BMP"), image)}
    files["JPEG"] = (jpeg, decoded)
    for name, (content, pixels) in files.items():
        np.testing.assert_array_equal(random_crop(content), random_crop(pixels), err_msg=name)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "pixels"])
def test_turned_images_are_cut_upright(kind):
    stored = np.ascontiguousarray(IMAGES["flower"][:200, :300])
    image = stored if kind == "pixels" else encode(stored, kind, subsampling=0)
    if kind == "JPEG":
        stored = tf.io.decode_jpeg(image, channels=3).numpy()
    for orientation, quarter_turns in ((1, 0), (3, 2), (6, 3), (8, 1), (0, 0), (9, 0)):
        found = crop.random_resized_crop(image, 64, [1, 2], orientation=orientation)
        upright = np.ascontiguousarray(np.rot90(stored, quarter_turns))
        np.testing.assert_array_equal(found, random_crop(upright, [1, 2]))


def test_chroma_subsampled_and_grey_files():
    image = IMAGES["church"]
    subsampled = encode(image, "JPEG", quality=95)
    pixels = tf.io.decode_jpeg(subsampled, channels=3).numpy()
    from_file, from_pixels = random_crop(subsampled), random_crop(pixels)
    # Where it cuts, the decoder has no neighbours to interpolate the colour from.
    assert np.abs(from_file.astype(int) - from_pixels)[2:-2, 2:-2].max() <= 2
    for kind in ("JPEG", "PNG"):
        result = random_crop(encode(image[:, :, 0], kind))
        assert result.shape == (64, 64, 3)
        np.testing.assert_array_equal(result[..., 0], result[..., 1])


def test_crop_of_a_file_that_is_no_image():
    with pytest.raises(tf.errors.InvalidArgumentError):
        random_crop(b"GIF, or so it says")


def coded_batch(classes=6):
    """Images whose pixels are their labels, so that a mixed image shows its label."""
    labels = np.eye(classes, dtype=np.float32)
    return np.tile(labels[:, None, None, :], (1, 20, 31, 1)), labels


@pytest.mark.parametrize("mix", [augment.mix_up, augment.cut_mix])
def test_mixed_labels_are_those_of_the_pixels(mix):
    images, labels = coded_batch()
    shares = []
    for number in range(60):
        mixed, mixed_labels = mix(images, labels, [number, 1], alpha=1.0)
        assert mixed.shape == images.shape
        np.testing.assert_allclose(np.mean(mixed, (1, 2)), mixed_labels, atol=1e-5)
        np.testing.assert_allclose(np.sum(mixed_labels, 1), 1, atol=1e-6)
        shares.append(np.diag(mixed_labels))
    shares = np.array(shares)
    assert len(np.unique(shares[0])) > 3  # one draw for each image
    if mix is augment.mix_up:
        assert shares.mean() == pytest.approx(0.5, abs=0.04)
        assert shares.std() == pytest.approx(1 / np.sqrt(12), abs=0.03)  # uniform


@pytest.mark.parametrize("mix", [augment.mix_up, augment.cut_mix])
def test_mixing_repeats_by_seed_and_keeps_uint8_values(mix):
    images, labels = np.stack([IMAGES["church"][:50, :50], IMAGES["noise"][:50, :50]]), np.eye(2)
    first, again, other = (mix(images, labels, seed) for seed in ([1, 2], [1, 2], [4, 3]))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])
    unmixed = mix(images, labels, [1, 2], alpha=0)
    np.testing.assert_array_equal(unmixed[0], images)
    np.testing.assert_array_equal(unmixed[1], labels)


def test_bad_arguments_are_named():
    image = np.zeros((8, 8, 3), np.uint8)
    for call, message in (
        (lambda: augment.rand_augment(image, [0, 0], num_layers=-1), "num_layers=-1"),
        (lambda: augment.rand_augment(image, [0, 0], magnitude=-2), "magnitude=-2"),
        (lambda: augment.rand_augment(image, [0, 0], magnitude=31), "magnitude=31"),
        (lambda: augment.rand_augment(image, [0, 0], magnitude=float("nan")), "magnitude=nan"),
        (lambda: augment.rand_augment(image, [0, 0], op_probability=1.5), "op_probability=1.5"),
        (lambda: augment.rand_augment(image[None], [0, 0]), r"shape \(1, 8, 8, 3\)"),
        (lambda: augment.auto_augment(image / 255, [0, 0]), "type float64"),
        (lambda: augment.level_argument("Blur", 3, **REACH), "name='Blur'"),
        (lambda: augment.mix_up([image], [[1.0]], [0, 0], alpha=-1), "alpha=-1"),
        (lambda: augment.cut_mix([image], [[1.0]], [0, 0], alpha=-1), "alpha=-1"),
        (lambda: crop.random_resized_crop(image, 0, [0, 0]), "size=0"),
        (lambda: crop.random_resized_crop(image, -3, [0, 0]), "size=-3"),
        (lambda: random_crop(image[..., :1]), r"shape \(8, 8, 1\)"),
        (lambda: crop.random_resized_crop([b"a", b"b"], 8, [0, 0]), "type string"),
    ):
        with pytest.raises(InputError, match=message):
            call()
