import dataclasses

import keras
import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet import layers, scaling, spec
from keras_efficientnet.cost import network_cost
from keras_efficientnet.spec import StageSpec, VariantSpec

B0 = spec.VARIANTS["B0"]

# Parameters as the released networks have them. Keras' own totals are 7 higher, for the
# values that its Normalization layer counts. Multiply-adds at the variant's resolution,
# in units of 1e9, as printed: the last digit is rounded.
# variant: trainable, total, multiply-adds
V1 = {
    "B0": (5_288_548, 5_330_564, "0.386"),
    "B1": (7_794_184, 7_856_232, "0.687"),
    "B2": (9_109_994, 9_177_562, "0.994"),
    "B3": (12_233_232, 12_320_528, "1.827"),
    "B4": (19_341_616, 19_466_816, "4.394"),
    "B5": (30_389_784, 30_562_520, "10.27"),
    "B6": (43_040_704, 43_265_136, "19.07"),
    "B7": (66_347_960, 66_658_680, "37.75"),
    "B8": (87_413_142, 87_793_174, "62.6"),
    "L2": (480_309_308, 481_399_996, "475.7"),
}


def giga(count: int, like: str) -> str:
    return f"{count / 1e9:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize("name", V1)
def test_parameters_and_multiply_adds_of_the_released_variants(name):
    trainable, total, multiply_adds = V1[name]
    network = ke.cost.network_cost(name)
    assert (network.trainable, network.parameters) == (trainable, total)
    assert giga(network.multiply_adds, multiply_adds) == multiply_adds


# Paper, Table 7, on the released spec.
@pytest.mark.parametrize(
    ("multipliers", "multiply_adds", "trainable"),
    [
        ({"depth": 4.0}, "1.58", 20_091_856),
        ({"width": 2.0}, "1.45", 18_122_720),
        ({"resolution": 448}, "1.54", 5_288_548),
        ({"depth": 1.4, "width": 1.2, "resolution": 291}, "1.80", 12_233_232),
    ],
)
def test_networks_scaled_in_one_dimension_or_all(multipliers, multiply_adds, trainable):
    network = network_cost(dataclasses.replace(B0, **multipliers))
    assert giga(network.multiply_adds, multiply_adds) == multiply_adds
    assert network.trainable == trainable


def test_literal_phi_gives_these_ratios_of_multiply_adds():
    base = network_cost("B0").multiply_adds
    ratios = [network_cost(scaling.compound_scale(phi)).multiply_adds / base for phi in range(1, 8)]
    # Above 1.92 ** phi, since channels and repeats are rounded up.
    assert [f"{ratio:.3g}" for ratio in ratios] == [
        "2.57",
        "4.69",
        "8.43",
        "16.4",
        "29.5",
        "52.1",
        "103",
    ]


def test_b3_without_the_10_percent_rule_is_another_network():
    variant = dataclasses.replace(spec.VARIANTS["B3"], limit_round_down=False)
    assert network_cost(variant).trainable == 12_227_212


def test_stem_first_block_and_classifier_by_hand():
    network = network_cost("B0")
    stem, block, classifier = network.parts[0], network.parts[1], network.parts[-1]

    assert stem.name == "stem"
    assert stem.trainable == 3 * 3 * 3 * 32 + 2 * 32
    assert stem.non_trainable == 2 * 32
    assert stem.multiply_adds == 3 * 3 * 3 * 32 * 112 * 112
    assert stem.activations == 112 * 112 * 32
    assert stem.output_shape == (112, 112, 32)

    # Depthwise 3x3 on 32 channels, SE 32 -> 8 -> 32 with biases, projection to 16.
    assert block.name == "block1a"
    assert block.trainable == (288 + 64) + (32 * 8 + 8 + 8 * 32 + 32) + (32 * 16 + 32)
    assert block.non_trainable == 64 + 32
    assert block.parameters == block.trainable + 96
    assert block.multiply_adds == 112 * 112 * (288 + 512) + 2 * 32 * 8
    assert block.activations == 112 * 112 * (32 + 16) + 8 + 32
    assert block.output_shape == (112, 112, 16)

    assert classifier.name == "classifier"
    assert classifier.parameters == 1281 * 1000
    assert classifier.multiply_adds == 1280 * 1000
    assert classifier.activations == 1000
    assert classifier.output_shape == (1, 1, 1000)


def test_fused_blocks_by_hand():
    stages = (
        StageSpec("fused_mbconv", 1, 3, 1, 32, 16, 1, se_ratio=0.0),
        StageSpec("fused_mbconv", 4, 3, 2, 16, 48, 1, se_ratio=0.0),
    )
    _, single, expanded, *_ = network_cost(VariantSpec("T", stages, 1.0, 1.0, 64, 0.0)).parts
    # Without expansion a fused block is one convolution.
    assert single.trainable == 3 * 3 * 32 * 16 + 2 * 16
    assert single.multiply_adds == 3 * 3 * 32 * 16 * 32 * 32
    assert expanded.trainable == 3 * 3 * 16 * 64 + 2 * 64 + 64 * 48 + 2 * 48
    assert expanded.multiply_adds == (3 * 3 * 16 * 64 + 64 * 48) * 16 * 16
    assert expanded.activations == (64 + 48) * 16 * 16


TINY = VariantSpec(
    "tiny",
    (
        StageSpec("mbconv", 1, 3, 1, 16, 8, 1, se_ratio=0.0),
        StageSpec("mbconv", 4, 5, 2, 8, 24, 2),
        StageSpec("mbconv", 6, 3, 2, 24, 40, 1, se_ratio=0.1),
    ),
    1.0,
    1.0,
    40,
    0.1,
    stem_filters=16,
    head_filters=64,
)


@pytest.mark.parametrize(
    ("variant", "size", "channels", "classes", "include_top"),
    [
        (TINY, 33, 1, 3, True),
        (TINY, 64, 4, 1, False),
        (dataclasses.replace(TINY, width=1.7, depth=2.3), 47, 3, 10, True),
        (B0, 75, 3, 7, True),
    ],
)
def test_cost_counts_what_the_graph_has(variant, size, channels, classes, include_top):
    model = ke.EfficientNet(
        variant, input_shape=(size, size, channels), classes=classes, include_top=include_top
    )
    network = network_cost(variant, size, classes, channels, include_top)

    multiply_adds = activations = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            height, width, filters = layer.output.shape[1:]
            multiply_adds += np.prod(layer.kernel.shape) * height * width
            activations += height * width * filters
        elif isinstance(layer, layers.SqueezeExcite):
            kernels = layer.reduce.kernel, layer.expand.kernel
            multiply_adds += sum(np.prod(kernel.shape) for kernel in kernels)
            activations += sum(kernel.shape[-1] for kernel in kernels)
        elif isinstance(layer, keras.layers.Dense):
            multiply_adds += np.prod(layer.kernel.shape)
            activations += classes
    assert network.multiply_adds == multiply_adds
    assert network.activations == activations
    assert network.trainable == sum(np.prod(w.shape) for w in model.trainable_weights)
    assert network.parameters == model.count_params()

    blocks = {part.name: part.output_shape for part in network.parts[1:]}
    for block in scaling.expand_blocks(variant):
        last = "add" if block.skip else "project_bn"
        assert blocks[block.name] == model.get_layer(f"{block.name}_{last}").output.shape[1:]


def test_totals_are_the_sums_of_the_parts():
    network = network_cost("B1", classes=10)
    assert [part.name for part in network.parts] == [
        "stem",
        *(block.name for block in scaling.expand_blocks("B1")),
        "head",
        "classifier",
    ]
    for field in ("trainable", "non_trainable", "parameters", "multiply_adds", "activations"):
        assert getattr(network, field) == sum(getattr(part, field) for part in network.parts)
    assert (network.variant, network.image_size) == ("B1", 240)


def test_without_the_top_only_the_classifier_is_missing():
    whole, headless = network_cost("B2"), network_cost("B2", include_top=False)
    assert headless.parts == whole.parts[:-1]


@pytest.mark.parametrize("argument", ["image_size", "classes", "channels"])
def test_numbers_below_1_are_refused(argument):
    with pytest.raises(ke.InputError, match=f"{argument}=0 must be a whole number from 1 to"):
        network_cost("B0", **{argument: 0})


def test_an_unknown_variant_is_refused():
    with pytest.raises(ke.InputError, match="Unknown variant 'B12'"):
        network_cost("B12")
