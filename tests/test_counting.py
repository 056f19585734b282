import keras
import pytest

import keras_efficientnet as ke


@pytest.mark.parametrize("variant", ["B0", "Lite0", "EdgeTPU-S", "V2-B0"])
def test_it_equals_the_closed_form(variant):
    model = ke.EfficientNet(variant, input_shape=(96, 96, 3))
    assert ke.study.multiply_adds(model) == ke.cost.cost(variant, image_size=96).multiply_adds


def test_it_counts_a_stranger_as_the_literature_does():
    peer = keras.applications.ResNet50(weights=None)
    # He et al. give 3.8e9, without the projections of the shortcuts.
    assert ke.study.multiply_adds(peer) == 3_857_973_248
    whole = keras.Sequential([keras.Input((224, 224, 3)), peer])
    assert ke.study.multiply_adds(whole) == 3_857_973_248


def test_a_free_size_is_refused():
    model = ke.EfficientNetB0(input_shape=(None, None, 3))
    with pytest.raises(ke.InputError, match="fixed input size"):
        ke.study.multiply_adds(model)
