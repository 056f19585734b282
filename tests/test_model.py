import dataclasses
import functools
import inspect
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from model_helpers import outputs_of, photos

import keras_efficientnet as ke
from keras_efficientnet import layers, scaling
from keras_efficientnet.spec import StageSpec, VariantSpec

# Trainable and total parameters of the released networks. test_cost.py has all ten; these
# hold that the graph has what the cost counts.
PARAMETERS = {
    "B0": (5_288_548, 5_330_564),
    "B1": (7_794_184, 7_856_232),
    "B2": (9_109_994, 9_177_562),
    "B3": (12_233_232, 12_320_528),
    "B4": (19_341_616, 19_466_816),
    "B5": (30_389_784, 30_562_520),
    "B7": (66_347_960, 66_658_680),
}


def drop_rates(model):
    return {
        layer.name: layer.rate
        for layer in model.layers
        if isinstance(layer, layers.StochasticDepth)
    }


def build_without_values(variant, **options):
    """Builds a graph whose variables have shapes only, which is quick for large networks."""
    with keras.StatelessScope():
        return ke.EfficientNet(variant, **options)


@functools.cache
def released(name):
    return build_without_values(name)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_graph_has_the_released_parameters_and_input_size(name):
    model = released(name)
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert (trainable, model.count_params()) == PARAMETERS[name]
    size = ke.spec.VARIANTS[name].resolution
    assert model.input_shape == (None, size, size, 3)
    assert model.output_shape == (None, 1000)
    assert model.name == f"efficientnet{name.lower()}"


def test_drop_rates_in_the_graph_are_0_2_times_i_over_n():
    # i counts all blocks; the first of each of the 7 stages has no skip to drop.
    assert drop_rates(released("B0")) == pytest.approx(
        {
            "block2b_drop": 0.2 * 2 / 16,
            "block3b_drop": 0.2 * 4 / 16,
            "block4b_drop": 0.2 * 6 / 16,
            "block4c_drop": 0.2 * 7 / 16,
            "block5b_drop": 0.2 * 9 / 16,
            "block5c_drop": 0.2 * 10 / 16,
            "block6b_drop": 0.2 * 12 / 16,
            "block6c_drop": 0.2 * 13 / 16,
            "block6d_drop": 0.2 * 14 / 16,
        }
    )
    rates = drop_rates(released("B7"))
    assert len(rates) == 55 - 7
    assert rates["block1b_drop"] == pytest.approx(0.2 * 1 / 55)
    assert list(rates)[-1] == "block7d_drop"
    assert rates["block7d_drop"] == pytest.approx(0.19636, abs=1e-5)


def test_rates_can_be_set_and_switched_off(small):
    model = build_without_values(small, dropout_rate=0.45, drop_connect_rate=0.6)
    assert drop_rates(model) == pytest.approx({"block6b_drop": 0.6 * 6 / 8})
    assert model.get_layer("top_dropout").rate == 0.45
    assert build_without_values(small).get_layer("top_dropout").rate == small.dropout_rate
    model = build_without_values(small, dropout_rate=0.0, drop_connect_rate=0.0)
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in model.layers)


def test_dropping_acts_in_training_only(small, randomize):
    model = randomize(ke.EfficientNet(small, drop_connect_rate=0.9, dropout_rate=0.0))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    x = photos(8, 64, 64, 3)
    inference = [ops.convert_to_numpy(model(x, training=False)) for _ in range(2)]
    np.testing.assert_array_equal(*inference)
    training = [ops.convert_to_numpy(model(x, training=True)) for _ in range(2)]
    assert not np.allclose(*training)


def test_layer_names_tell_stage_block_and_role(small):
    names = [layer.name for layer in build_without_values(small).layers]
    assert names[1:9] == [
        "normalize",
        "stem_conv",
        "stem_bn",
        "stem_activation",
        "block1a_dwconv",
        "block1a_bn",
        "block1a_activation",
        "block1a_se",
    ]
    assert [name for name in names if name.startswith("block6b")] == [
        "block6b_expand_conv",
        "block6b_expand_bn",
        "block6b_expand_activation",
        "block6b_dwconv",
        "block6b_bn",
        "block6b_activation",
        "block6b_se",
        "block6b_project_conv",
        "block6b_project_bn",
        "block6b_drop",
        "block6b_add",
    ]
    assert names[-6:] == [
        "top_conv",
        "top_bn",
        "top_activation",
        "avg_pool",
        "top_dropout",
        "predictions",
    ]


def test_names_that_keras_applications_shares_are_the_same_taps():
    ours = {layer.name for layer in released("B1").layers}
    with keras.StatelessScope():
        theirs = {layer.name for layer in keras.applications.EfficientNetB1(weights=None).layers}
    for role in ("expand_activation", "dwconv", "activation", "project_conv", "add", "drop"):
        named = {name for name in theirs if name.startswith("block") and name.endswith(role)}
        assert named, role
        assert named <= ours


def test_a_stage_of_more_than_26_blocks_builds_and_is_tapped():
    stages = (StageSpec("mbconv", 1, 3, 1, 8, 8, 28), StageSpec("mbconv", 1, 3, 2, 8, 8, 1))
    variant = VariantSpec("deep", stages, 1.0, 1.0, 32, 0.0, stem_filters=8, head_filters=8)
    model = build_without_values(variant)
    names = [layer.name for layer in model.layers]
    assert names.index("block1z_add") < names.index("block1aa_add") < names.index("block1ab_add")
    assert ke.feature_pyramid(model).outputs[0] is model.get_layer("block1ab_add").output


@pytest.mark.parametrize("include_top", [True, False])
def test_feature_pyramid_taps_the_last_block_of_each_stride(include_top):
    model = ke.EfficientNetB0(weights=None, include_top=include_top, input_shape=(75, 64, 3))
    pyramid = ke.feature_pyramid(model)
    x = photos(2, 75, 64, 3)
    maps = pyramid(x)
    # Halved and rounded up five times; channels of the paper's stages 1, 2, 3, 5 and 7.
    assert [tuple(feature.shape) for feature in maps] == [
        (2, 38, 32, 16),
        (2, 19, 16, 24),
        (2, 10, 8, 40),
        (2, 5, 4, 112),
        (2, 3, 2, 320),
    ]
    names = ("block1a_project_bn", "block2b_add", "block3b_add", "block5c_add")
    taps = [model.get_layer(name).output for name in (*names, "block7a_project_bn")]
    expected = keras.Model(model.input, taps)(x)
    for feature, tap in zip(maps, expected, strict=True):
        np.testing.assert_array_equal(feature, tap)
    assert pyramid.get_layer("stem_conv") is model.get_layer("stem_conv")


def nested(network, depth=1):
    """A classifier of doubled pixels around a network without its top."""
    for _ in range(depth):
        image = keras.Input((64, 64, 3))
        features = network(keras.layers.Rescaling(2.0)(image))
        network = keras.Model(image, features)
    return keras.Sequential([network, keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(2)])


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_feature_pyramid_descends_into_nested_models(small, randomize, depth):
    network = randomize(ke.EfficientNet(small, include_top=False, input_shape=(64, 64, 3)))
    expected = ke.feature_pyramid(network)
    x = photos(2, 64, 64, 3) / 4
    pyramid = ke.feature_pyramid(nested(network, depth))
    assert len(pyramid.outputs) == 5
    for ours, theirs in zip(pyramid(x), expected(x * 2.0**depth), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert {id(weight) for weight in pyramid.weights} <= {id(weight) for weight in network.weights}


def test_feature_pyramid_follows_the_graph_of_the_model_and_no_other(small, randomize):
    network = randomize(ke.EfficientNet(small, include_top=False, input_shape=(64, 64, 3)))
    x = image = keras.Input((64, 64, 3), name="other_image")
    for layer in network.layers[1:]:  # the same layers in a second graph, without skips
        x = x if isinstance(layer, keras.layers.Add) else layer(x)
    second = ke.feature_pyramid(keras.Model(image, x))
    assert second.inputs[0] is image
    assert ke.feature_pyramid(network).inputs[0] is network.inputs[0]


def test_feature_pyramid_refuses_what_has_no_network_or_several(small):
    other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)], name="other")
    with pytest.raises(ke.InputError, match="'other' has no EfficientNet layers"):
        ke.feature_pyramid(other)
    first, second = (
        ke.EfficientNet(small, include_top=False, input_shape=(64, 64, 3), name=name)
        for name in ("first", "second")
    )
    image = keras.Input((64, 64, 3))
    for networks, message in (
        ((first, second), "'joined' has 2 networks inside, 'first', 'second'; pass one of them"),
        ((first, first), r"'joined' calls 'first' 2 times .*: model.get_layer\('first'\)"),
    ):
        outputs = [network(keras.layers.Rescaling(2.0)(image)) for network in networks]
        model = keras.Model(image, keras.layers.Add()(outputs), name="joined")
        with pytest.raises(ke.InputError, match=message):
            ke.feature_pyramid(model)


def test_deep_networks_build_and_load():
    # Keras follows a graph by recursion, and Python stops at 1,000 calls, fewer than V2-XL has
    # layers. Both are smaller here.
    stages = (StageSpec("mbconv", 2, 3, 1, 8, 8, 40, se_ratio=0.0),)
    variant = VariantSpec("deep", stages, 1.0, 1.0, 32, 0.0, stem_filters=8, head_filters=8)
    limit, depth = sys.getrecursionlimit(), len(inspect.stack(0))
    sys.setrecursionlimit(depth + 250)
    try:
        model = build_without_values(variant)
        with keras.StatelessScope():
            copy = keras.Model.from_config(model.get_config())
    finally:
        sys.setrecursionlimit(limit)
    assert len(copy.layers) == len(model.layers) > 350
    assert copy.count_params() == ke.cost.network_cost(variant).parameters


@pytest.mark.parametrize("shape", [(32, 32, 3), (33, 47, 3), (32, 90, 1), (40, 40, 4)])
def test_any_size_from_32_pixels_and_any_channels(small, randomize, shape):
    model = randomize(ke.EfficientNet(small, input_shape=shape, classes=5))
    assert model.get_layer("stem_conv").kernel.shape[2] == shape[2]
    x = photos(3, *shape)
    outputs = outputs_of(model, x)
    np.testing.assert_allclose(outputs.sum(-1), 1, rtol=1e-5)
    # Every image decides for itself, and every channel has a say.
    np.testing.assert_allclose(outputs_of(model, x[1:2]), outputs[1:2], rtol=1e-4)
    for channel in range(shape[2]):
        changed = x.copy()
        changed[..., channel] = 255 - changed[..., channel]
        assert not np.allclose(outputs_of(model, changed), outputs, rtol=1e-3)


def test_fully_convolutional_model_takes_each_size_as_a_fixed_one_does(small, randomize):
    free = randomize(ke.EfficientNet(small, include_top=False, input_shape=(None, None, 3)))
    assert free.input_shape == (None, None, None, 3)
    for size, side in ((32, 1), (65, 3)):
        fixed = ke.EfficientNet(small, include_top=False, input_shape=(size, size, 3))
        fixed.set_weights(free.get_weights())
        x = photos(2, size, size, 3)
        features = outputs_of(free, x)
        assert features.shape == (2, side, side, scaling.head_filters(small))
        np.testing.assert_allclose(features, outputs_of(fixed, x), rtol=1e-4, atol=1e-5)


def test_without_the_top_the_default_input_has_any_size(small):
    assert build_without_values(small, include_top=False).input_shape == (None, None, None, 3)


def test_pooling_reduces_the_feature_map(small, randomize):
    x = photos(2, 96, 64, 3)
    features = randomize(ke.EfficientNet(small, include_top=False))
    expected = outputs_of(features, x)
    assert expected.shape[1:3] == (3, 2)
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = ke.EfficientNet(small, include_top=False, pooling=pooling)
        pooled.set_weights(features.get_weights())
        np.testing.assert_allclose(
            outputs_of(pooled, x), reduce(expected, axis=(1, 2)), rtol=1e-4, atol=1e-5
        )


def test_logits_are_the_probabilities_before_softmax(small, randomize):
    probabilities = randomize(ke.EfficientNet(small, classes=7))
    logits = ke.EfficientNet(small, classes=7, classifier_activation=None)
    logits.set_weights(probabilities.get_weights())
    x = photos(2, 64, 64, 3)
    z = outputs_of(logits, x).astype("float64")
    softmax = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    np.testing.assert_allclose(outputs_of(probabilities, x), softmax, rtol=1e-4)
    assert (z < 0).any()


@pytest.mark.parametrize("classes", [2, np.int64(2)])
def test_classes_may_be_a_numpy_integer(small, classes):
    model = build_without_values(small, classes=classes)
    assert model.output_shape == (None, 2)
    assert type(model.get_layer("predictions").units) is int


def test_input_tensor_is_built_upon(small, randomize):
    image = keras.Input((64, 64, 3), name="photo")
    plain = randomize(ke.EfficientNet(small, classes=4))
    direct = ke.EfficientNet(small, classes=4, input_tensor=image)
    chained = ke.EfficientNet(small, classes=4, input_tensor=keras.layers.Rescaling(2.0)(image))
    x = photos(2, 64, 64, 3) / 2
    for model, pixels in ((direct, x), (chained, 2 * x)):
        assert model.inputs[0] is image
        model.set_weights(plain.get_weights())
        # A plain array, as fit and predict pass it: Keras warns where it expects a list.
        np.testing.assert_allclose(
            model.predict(x, verbose=0), plain.predict(pixels, verbose=0), rtol=1e-4
        )


def test_whole_number_pixels_need_no_cast(small, randomize):
    image = keras.Input((64, 64, 3), dtype="uint8")
    model = randomize(ke.EfficientNet(small, input_tensor=image, classes=4))
    plain = ke.EfficientNet(small, classes=4)
    plain.set_weights(model.get_weights())
    x = photos(2, 64, 64, 3).astype("uint8")
    np.testing.assert_allclose(
        outputs_of(model, x), outputs_of(plain, x.astype("float32")), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [
        (3, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        # Nothing is published for other channels: the means over RGB.
        (1, (114.495,), (57.63,)),
        (4, (114.495,) * 4, (57.63,) * 4),
    ],
)
def test_preprocessing_in_the_graph_is_normalization_by_hand(small, randomize, channels, mean, std):
    options = {"input_shape": (64, 64, channels), "classes": 4}
    raw = randomize(ke.EfficientNet(small, **options))
    bare = ke.EfficientNet(small, **options, include_preprocessing=False)
    bare.set_weights(raw.get_weights())
    x = photos(2, 64, 64, channels)
    np.testing.assert_allclose(outputs_of(raw, x), outputs_of(bare, (x - mean) / std), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": (31, 64, 3)}, r"\(31, 64, 3\) is too small: .* at least 32 pixels"),
        ({"input_shape": (64, 16, 3)}, r"\(64, 16, 3\) is too small"),
        ({"input_tensor": (31, 64, 3)}, r"\(31, 64, 3\) is too small"),
        ({"input_shape": (64, 64)}, r"input_shape=\(64, 64\) must be three entries"),
        ({"input_shape": (64, 64, None)}, "must have a known number of channels"),
        ({"pooling": "sum"}, "pooling='sum' must be None, 'avg' or 'max'"),
        ({"classes": 0}, "classes=0 must be a whole number of at least 1"),
        ({"classes": 2.5}, "classes=2.5 must be a whole number"),
        ({"dropout_rate": 1.0}, "dropout_rate=1.0 must be at least 0 and below 1"),
        ({"drop_connect_rate": -0.1}, "drop_connect_rate=-0.1 must be at least 0"),
    ],
)
def test_options_that_cannot_be_built_are_refused(small, options, message):
    if "input_tensor" in options:
        options = {"input_tensor": keras.Input(options["input_tensor"])}
    with pytest.raises(ke.InputError, match=message):
        ke.EfficientNet(small, **options)


@pytest.mark.usefixtures("channels_first")
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other backends can do channels_first"
)
def test_channels_first_is_refused_without_a_gpu(small, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    with pytest.raises(ke.InputError, match="'channels_first' needs a GPU"):
        ke.EfficientNet(small)


def test_a_channels_first_model_reloads_under_the_default_setting(
    small, randomize, monkeypatch, tmp_path
):
    x = photos(2, 64, 75, 3)
    twin = randomize(ke.EfficientNet(small, classes=5, input_shape=(64, 75, 3)))
    with monkeypatch.context() as patch:  # CPUs have the kernels where oneDNN is
        patch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU"])
        keras.config.set_image_data_format("channels_first")
        try:
            model = ke.EfficientNet(small, classes=5, input_shape=(3, 64, 75))
        finally:
            keras.config.set_image_data_format("channels_last")
    model.set_weights(twin.get_weights())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = outputs_of(twin, x)
    for found in (model, loaded):
        np.testing.assert_allclose(
            outputs_of(found, x.transpose(0, 3, 1, 2)), expected, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_mixed_precision_trains_and_keeps_a_float32_classifier(small, policy, half):
    policy(f"mixed_{half}")
    model = ke.EfficientNet(small, classes=3, dropout_rate=0.0, drop_connect_rate=0.0)
    assert model.get_layer("top_activation").output.dtype == half
    assert model.get_layer("block2a_se").output.dtype == half
    assert model.get_layer("predictions").compute_dtype == "float32"
    assert model.output.dtype == "float32"
    assert {weight.dtype for weight in model.weights} == {"float32"}

    rng = np.random.default_rng(0)
    labels = np.arange(24) % 3
    x = photos(24, 64, 64, 3) * 0.2 + 200 * (labels[:, None, None, None] == np.arange(3)) * 0.9
    x, labels = x[order := rng.permutation(24)], labels[order]
    before = [ops.convert_to_numpy(weight) for weight in model.weights]
    model.compile(
        keras.optimizers.RMSprop(0.003), "sparse_categorical_crossentropy", jit_compile=False
    )
    losses = model.fit(x, labels, batch_size=24, epochs=8, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]
    for weight, value in zip(model.weights, before, strict=True):
        assert np.isfinite(ops.convert_to_numpy(weight)).all()
        assert (ops.convert_to_numpy(weight) != value).any(), weight.path


def test_mixed_precision_agrees_with_float32(small, randomize, policy):
    model = randomize(ke.EfficientNet(small, classes=5, classifier_activation=None))
    x = photos(4, 64, 64, 3)
    expected = outputs_of(model, x)
    for half, tolerance in (("float16", 0.01), ("bfloat16", 0.08)):
        policy(f"mixed_{half}")
        mixed = ke.EfficientNet(small, classes=5, classifier_activation=None)
        mixed.set_weights(model.get_weights())
        error = np.abs(outputs_of(mixed, x) - expected).max()
        assert error < tolerance * np.abs(expected).max()


LOAD = """
import sys
{imports}
import numpy as np
model = keras.models.load_model(sys.argv[1])
assert type(model.get_layer("stem_bn")).__module__ == "keras_efficientnet.layers"
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
"""


@pytest.mark.parametrize(
    ("imports", "global_policy"),
    [
        ("import keras_efficientnet, keras", "float32"),
        ("import keras, keras_efficientnet", "mixed_bfloat16"),
    ],
)
def test_a_fresh_interpreter_loads_the_model_and_gives_the_same_outputs(
    small, randomize, policy, run_python, tmp_path, imports, global_policy
):
    policy(global_policy)
    model = randomize(ke.EfficientNet(small, classes=5))
    x = photos(3, 64, 64, 3)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    files = [tmp_path / name for name in ("model.keras", "x.npy", "y.npy")]
    run_python(LOAD.format(imports=imports), *files)
    np.testing.assert_allclose(np.load(files[2]), model.predict(x, verbose=0), rtol=1e-6)


def test_a_clone_is_a_network_of_its_own_with_the_same_graph(small, randomize):
    model = randomize(ke.EfficientNet(small, classes=5))
    clone = keras.models.clone_model(model)
    x = photos(2, 64, 64, 3)
    expected = outputs_of(model, x)
    assert not np.allclose(outputs_of(clone, x), expected)
    assert [type(layer) for layer in clone.layers] == [type(layer) for layer in model.layers]
    assert drop_rates(clone) == drop_rates(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(outputs_of(clone, x), expected)


def test_initial_weights_have_the_tpu_code_s_distribution():
    model = ke.EfficientNetB0(weights=None)
    # Normal with variance 2 / fan_out, where a depthwise kernel fans out to its area.
    for name, fan_out in (
        ("top_conv", 1280),
        ("block6b_expand_conv", 1152),
        ("block7a_project_conv", 320),
        ("block6c_dwconv", 25),
    ):
        kernel = ops.convert_to_numpy(model.get_layer(name).kernel)
        scaled = kernel.ravel() / np.sqrt(2 / fan_out)
        assert abs(scaled.std() - 1) < 0.02
        assert abs(scaled.mean()) < 0.02
        # A truncated normal of this variance would end at 2.3.
        assert np.abs(scaled).max() > 3
    dense = ops.convert_to_numpy(model.get_layer("predictions").kernel)
    limit = 1 / np.sqrt(1000)
    assert limit * 0.999 < np.abs(dense).max() <= limit * (1 + 1e-6)
    assert abs(dense.std() - limit / np.sqrt(3)) < 0.01 * limit


def test_batch_norm_takes_momentum_and_epsilon_from_the_spec(small):
    variant = dataclasses.replace(small, batch_norm_momentum=0.9, batch_norm_epsilon=1e-5)
    for spec, momentum, epsilon in ((small, 0.99, 1e-3), (variant, 0.9, 1e-5)):
        norms = [
            layer
            for layer in build_without_values(spec).layers
            if isinstance(layer, layers.BatchNormalization)
        ]
        assert {(norm.momentum, norm.epsilon) for norm in norms} == {(momentum, epsilon)}


def test_names_of_models_are_valid_and_can_be_set(small):
    scale = scaling.compound_scale(-1.5)
    assert build_without_values(scale).name == "efficientnetb0-phi-1.5"
    odd = dataclasses.replace(small, name="My net/2")
    assert build_without_values(odd).name == "efficientnetmy_net_2"
    assert build_without_values(small, name="backbone").name == "backbone"


def test_variables_are_named_in_tensorflow_as_keras_names_them(small):
    # SavedModels tell them apart by these names.
    for weight in ke.EfficientNet(small).weights:
        assert weight.value.name == f"{weight.path}:0"


def test_tensorflow_creates_variables_under_a_few_names(small):
    names = set()

    def watch(next_creator, **options):
        names.add(options["name"])
        return next_creator(**options)

    with tf.variable_creator_scope(watch):
        variables = ke.EfficientNet(small).variables
    # A new name costs TensorFlow more time than the rest of a variable.
    assert names == {f"{variable.name}/" for variable in variables}
    assert len(names) < 10
