import keras
import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet.training.freezing import fine_tune_from


@pytest.fixture(scope="module")
def model():
    return ke.EfficientNetB0(weights=None, input_shape=(64, 64, 3), classes=3)


def learning(model):
    """The layers with weights that learn, in order."""
    return [layer.name for layer in model.layers if layer.trainable_weights]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("stem", "stem_conv"),
        ("block1", "block1a_dwconv"),
        ("block6", "block6a_expand_conv"),
        ("block6b", "block6b_expand_conv"),
        ("block6b_bn", "block6b_bn"),
        ("head", "top_conv"),
        ("classifier", "predictions"),
    ],
)
def test_learning_begins_at_any_part(model, name, first):
    everything = [layer.name for layer in model.layers if layer.weights]
    assert ke.unfreeze_from(model, name) is model
    assert learning(model) == everything[everything.index(first) :]


def nested(small):
    """A network two models deep, between a layer before and one after."""
    backbone = ke.EfficientNet(small, include_top=False, pooling="avg", name="backbone")
    inner = keras.Sequential([keras.Input((32, 32, 3)), backbone], name="inner")
    before = keras.layers.Conv2D(3, 1, name="before")
    after = keras.layers.Dense(3, name="after")
    return keras.Sequential([keras.Input((32, 32, 3)), before, inner, after], name="outer"), inner


def test_learning_begins_inside_of_a_nested_network(small):
    outer, inner = nested(small)
    inner.trainable = False  # as transfer learning begins
    outer.get_layer("after").trainable = False
    assert ke.unfreeze_from(outer, "block6") is outer
    backbone = inner.get_layer("backbone")
    assert learning(backbone)[0] == "block6a_expand_conv"
    assert [layer.name for layer in outer.layers if layer.trainable_weights] == ["inner", "after"]
    trained = {id(weight) for weight in outer.trainable_weights}
    assert trained == {
        id(weight)
        for layer in (*backbone.layers, outer.get_layer("after"))
        for weight in layer.trainable_weights
    }
    with pytest.raises(ke.InputError, match=r"'outer' has no part 'classifier'.*7a and head"):
        ke.unfreeze_from(outer, "classifier")
    with pytest.raises(ke.InputError, match=r"'sequential.*' has no EfficientNet layers"):
        ke.unfreeze_from(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), "head")


def test_block1_is_not_block10(small):
    deep = ke.EfficientNet(small, classes=3)
    ke.unfreeze_from(deep, "block1a")
    assert learning(deep)[0].startswith("block1a_")


@pytest.mark.parametrize("name", ["block9", "bloc", "", "block"])
def test_an_unknown_part_is_answered_with_the_known_ones(model, name):
    with pytest.raises(ke.InputError, match=r"has no part .* it has stem, block1a, .*classifier"):
        ke.unfreeze_from(model, name)


def test_frozen_batch_normalization_keeps_its_statistics_and_uses_them(small):
    inner = ke.EfficientNet(small, classes=3, pooling="avg", include_top=False)
    outer = keras.Sequential([keras.Input((64, 64, 3)), inner, keras.layers.Dense(3)])
    for norm in (layer for layer in inner.layers if "bn" in layer.name):
        norm.moving_variance.assign(norm.moving_variance * 4)
    assert ke.freeze_batch_norm(outer) is outer  # and those of a model inside it
    images = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3)).astype("float32")
    before = {weight.path: weight.numpy() for weight in outer.weights if "bn/" in weight.path}
    assert before
    outer.compile("sgd", "mse", jit_compile=False)
    outer.fit(images, np.zeros((4, 3)), verbose=0)
    for weight in outer.weights:
        if weight.path in before:
            np.testing.assert_array_equal(weight.numpy(), before[weight.path])


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("block7a_project_conv", "block7a_project_conv"),
        # Later blocks are trained with the statistics they came with.
        ("block6", "block6a_expand_conv"),
        # What is fresh is always trained, also where the asked-for part comes after it.
        ("classifier", "block7a_project_conv"),
    ],
)
def test_fine_tuning_trains_what_is_fresh_and_then_more(model, name, first):
    fine_tune_from(model, name, "block7a_project_conv")
    assert learning(model)[0] == first
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert [norm.name for norm in norms if norm.trainable] == ["block7a_project_bn", "top_bn"]
