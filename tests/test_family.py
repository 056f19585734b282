"""Lite, EdgeTPU and V2 beside V1: counts against the literature, outputs against Keras."""

import dataclasses

import keras
import pytest
from weights_helpers import (
    APPLICATIONS,
    application,
    copy_application,
    images,
    outputs,
    relative_difference,
)

import keras_efficientnet as ke
from keras_efficientnet import cost, scaling, spec

# Trainable parameters, and multiply-adds in units of 1e9 at the variant's own resolution.
# Lite: TPU lite/README.md gives 4.7, 5.4, 6.1, 8.2 and 13.0 million; EdgeTPU: timm 1.0.31's
# tf_efficientnet_e*; V2: AML effnetv2_model_test.py. Digits beyond theirs were counted on
# built networks.
COUNTS = {
    "Lite0": (4_652_008, 0.385),
    "Lite1": (5_416_680, 0.600),
    "Lite2": (6_092_072, 0.860),
    "Lite3": (8_197_096, 1.38),
    "Lite4": (13_006_568, 2.55),
    "EdgeTPU-S": (5_438_392, 1.79),
    "EdgeTPU-M": (6_899_496, 3.01),
    "EdgeTPU-L": (10_589_712, 7.94),
    "V2-B0": (7_139_704, 0.72),
    "V2-B1": (8_141_052, 1.20),
    "V2-B2": (10_096_086, 1.70),
    "V2-B3": (14_358_406, 3.01),
    "V2-S": (21_458_488, 8.37),
    "V2-M": (54_139_356, 24.6),
    "V2-L": (118_515_272, 56.1),
    "V2-XL": (208_119_808, 93.4),
}
V2_TOTALS = {
    "V2-B0": 7_200_312,
    "V2-B1": 8_212_124,
    "V2-B2": 10_178_374,
    "V2-B3": 14_467_622,
    "V2-S": 21_612_360,
    "V2-M": 54_431_388,
    "V2-L": 119_027_848,
    "V2-XL": 208_896_832,
}
# The others take longer, and .ci/run has the time for two of them.
MARKS = {"B0": (), "V2-B0": (), "B3": pytest.mark.slow, "V2-S": pytest.mark.slow}


@pytest.mark.parametrize("name", COUNTS)
def test_cost_equals_the_published_counts(name):
    trainable, billions = COUNTS[name]
    actual = cost.network_cost(name)
    assert actual.trainable == trainable
    digits = len(str(billions).partition(".")[2])
    assert round(actual.multiply_adds / 1e9, digits) == billions
    if name in V2_TOTALS:
        assert actual.parameters == V2_TOTALS[name]


@pytest.mark.parametrize("name", ["Lite0", "Lite3", "EdgeTPU-S", "EdgeTPU-L", "V2-B2", "V2-S"])
def test_a_built_network_has_the_counted_parameters(name):
    network = ke.EfficientNet(name)
    counted = cost.network_cost(name)
    assert network.count_params() == counted.parameters
    assert sum(v.shape.num_elements() for v in network.trainable_variables) == counted.trainable


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=MARKS.get(name, pytest.mark.exhaustive)) for name in APPLICATIONS],
)
def test_outputs_equal_keras_applications(name):
    peer = application(name)
    network = ke.EfficientNet(name, input_shape=(64, 64, 3), classifier_activation=None)
    copy_application(peer, network)
    pixels = images()
    assert relative_difference(outputs(network, pixels), outputs(peer, pixels)) < 1e-5


def test_a_fixed_stem_and_head_keep_their_width_and_their_stages_their_depth():
    lite4 = spec.VARIANTS["Lite4"]
    assert scaling.stem_filters(lite4) == 32
    assert scaling.head_filters(lite4) == 1280
    blocks = scaling.expand_blocks(lite4)
    assert blocks[0].in_filters == 32
    assert [block.name[5] for block in blocks] == list("1" + "2" * 4 + "3" * 4 + "4" * 6) + list(
        "5" * 6 + "6" * 8 + "7"
    )


def test_edgetpu_expands_from_fewer_channels_than_enter():
    first = scaling.expand_blocks("EdgeTPU-S")[0]
    assert (first.in_filters, first.expanded_filters) == (32, 96)


def test_v2_rounds_without_the_ten_percent_rule():
    # 16 * 1.2 = 19.2 rounds to 16, which takes away more than 10 %: V1 makes it 24.
    assert scaling.expand_blocks("V2-B3")[0].out_filters == 16
    assert scaling.expand_blocks("B3")[0].out_filters == 24


def test_v2_settings():
    assert spec.VARIANTS["V2-S"].batch_norm_momentum == 0.9
    assert spec.VARIANTS["V2-S"].train_resolution == 300
    network = ke.EfficientNetV2S(weights=None, input_shape=(32, 32, 3), include_top=False)
    assert network.name == "efficientnetv2-s"
    assert network.get_layer("normalize").mean == [128.0] * 3
    assert network.get_layer("stem_bn").momentum == 0.9


@pytest.mark.parametrize("name", ["V2-S", "v2s", "EfficientNetV2S", "efficientnetv2-s", "V2_S"])
def test_names_are_forgiving(name):
    assert scaling.get_variant(name) is spec.VARIANTS["V2-S"]


def test_every_variant_has_a_builder():
    for name in spec.VARIANTS:
        builder = getattr(ke, f"EfficientNet{name.replace('-', '')}")
        assert builder.__name__ == f"EfficientNet{name.replace('-', '')}"


def test_symmetric_padding_moves_only_the_strided_convolutions():
    symmetric = dataclasses.replace(spec.VARIANTS["V2-B0"], padding="symmetric")
    network = ke.EfficientNet(symmetric, input_shape=(64, 64, 3), include_top=False)
    padded = [layer for layer in network.layers if isinstance(layer, keras.layers.ZeroPadding2D)]
    assert [layer.name for layer in padded] == [
        "stem_pad",
        "block2a_expand_pad",
        "block3a_expand_pad",
        "block4a_pad",
        "block6a_pad",
    ]
    assert network.output_shape == (None, 2, 2, 1280)
