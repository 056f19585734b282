import keras
import pytest

import keras_efficientnet as ke


@pytest.mark.parametrize("variant", ["B0", "Lite0", "EdgeTPU-S", "V2-B0"])
def test_it_equals_the_closed_form(variant):
    model = ke.EfficientNet(variant, input_shape=(96, 96, 3))
    expected = ke.cost.network_cost(variant, image_size=96)
    assert ke.study.multiply_adds(model) == expected.multiply_adds


def test_a_peer_is_counted_as_in_the_literature():
    peer = keras.applications.ResNet50(weights=None)
    # He et al. give 3.8e9, without the projections of the shortcuts.
    assert ke.study.multiply_adds(peer) == 3_857_973_248
    whole = keras.Sequential([keras.Input((224, 224, 3)), peer])
    assert ke.study.multiply_adds(whole) == 3_857_973_248


def test_both_parts_of_a_separable_convolution_count():
    peer = keras.applications.Xception(weights=None)
    # Tan & Le, "EfficientNet", Table 2, prints 8.4e9.
    assert round(ke.study.multiply_adds(peer) / 1e9, 1) == 8.4
    inputs = keras.Input((8, 8, 3))
    one = keras.layers.SeparableConv2D(5, 3, strides=2, padding="same")(inputs)
    assert ke.study.multiply_adds(keras.Model(inputs, one)) == 4 * 4 * (9 * 3 + 3 * 5)


def test_a_layer_that_cannot_be_counted_is_refused():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Conv2DTranspose(2, 3)(inputs))
    with pytest.raises(ke.InputError, match="is a Conv2DTranspose"):
        ke.study.multiply_adds(model)


def test_an_input_of_any_size_is_refused():
    model = ke.EfficientNetB0(weights=None, input_shape=(None, None, 3))
    with pytest.raises(ke.InputError, match="fixed input size"):
        ke.study.multiply_adds(model)
