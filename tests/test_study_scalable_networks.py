import dataclasses
import math

import keras
import pytest

import keras_efficientnet as ke
from keras_efficientnet import cost
from keras_efficientnet.study import get_network, paper_tables, scale_network
from keras_efficientnet.study.scalable_networks import (
    TINY,
    at_budget,
    block_count,
    build,
    built_structure,
    network_cost,
)

# Trainable parameters and multiply-adds at 224 px, as torchvision's mobilenet_v2 and resnet50
# have them, and as Howard et al. give MobileNet (4.2 million, 569 million).
COUNTS = {
    "MobileNetV1": (4_231_976, 568_740_352),
    "MobileNetV2": (3_504_872, 300_774_272),
    "ResNet50": (25_557_032, 4_089_184_256),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_closed_form_counts_what_the_literature_counts(name):
    total = network_cost(get_network(name))
    assert (total.trainable, total.multiply_adds) == COUNTS[name]


@pytest.mark.parametrize(
    ("application", "name"), [("MobileNet", "MobileNetV1"), ("MobileNetV2", "MobileNetV2")]
)
def test_the_mobile_networks_are_those_of_keras_applications(application, name):
    peer = getattr(keras.applications, application)(weights=None)
    total = network_cost(get_network(name))
    assert total.trainable == sum(math.prod(v.shape) for v in peer.trainable_variables)
    assert total.multiply_adds == ke.study.multiply_adds(peer)


@pytest.mark.parametrize("name", ["MobileNetV1", "ResNet50", "tiny"])
def test_the_graph_is_what_the_closed_form_counts(name):
    network = scale_network(get_network(name), depth=1.4, width=0.3, resolution=0.2)
    size = network.resolution
    model = build(network, 7, size)
    total = network_cost(network, classes=7)
    assert total.trainable == sum(math.prod(v.shape) for v in model.trainable_variables)
    assert total.multiply_adds == ke.study.multiply_adds(model)
    assert total.activations > 0
    assert model.output_shape == (None, 7)
    assert network_cost(network, 7, 2 * size).multiply_adds > 3 * total.multiply_adds


def test_depth_counts_blocks():
    resnet = get_network("ResNet50")
    assert block_count(resnet) == 3 + 4 + 6 + 3
    assert block_count(scale_network(resnet, depth=1.4)) == 5 + 6 + 9 + 5
    assert block_count(get_network("MobileNetV1")) == 13
    assert block_count(get_network("B3")) == 26


def test_a_base_is_a_name_or_a_spec():
    assert get_network("B3") is ke.spec.VARIANTS["B3"]
    assert get_network("TINY") is get_network(TINY) is TINY
    with pytest.raises(ke.InputError, match=r"Unknown variant 'B11'.*L2.*tiny, MobileNetV1"):
        get_network("B11")


def test_multipliers_that_round_alike_make_the_same_network():
    b0 = get_network("B0")
    same = scale_network(b0, width=1.001, depth=0.99, resolution=1.001)
    same = dataclasses.replace(same, name="other")
    assert built_structure(same) == built_structure(b0)
    for other in ({"width": 1.1}, {"depth": 1.1}, {"resolution": 1.1}):
        assert built_structure(scale_network(b0, **other)) != built_structure(b0)


@pytest.mark.parametrize("dimension", ["depth", "width", "resolution"])
def test_the_nearest_step_of_the_staircase_is_found(dimension):
    def grow(multiplier):
        return scale_network(TINY, **{dimension: multiplier})

    def measure(network):
        return network_cost(network, 10).multiply_adds

    for ratio in (1.5, 3.3):
        budget = ratio * measure(TINY)
        growth, found = at_budget(grow, measure, budget, 1.0)
        assert built_structure(grow(growth)) == built_structure(found)
        every = [measure(grow(1 + step / 200)) for step in range(1500)]
        best = min(every, key=lambda cost: abs(math.log(cost / budget)))
        assert abs(math.log(measure(found) / budget)) <= abs(math.log(best / budget)) + 1e-9


def test_a_budget_out_of_reach_is_refused():
    with pytest.raises(ke.InputError, match="No network of this kind"):
        at_budget(lambda m: TINY, lambda n: 1.0, 2.0, 1.0)


@pytest.mark.parametrize("base", paper_tables.SCALED)
def test_the_papers_scaled_networks_cost_about_what_it_prints(base):
    for row in paper_tables.SCALED[base]:
        network = scale_network(get_network(base), row.depth, row.width, row.resolution)
        ratio = network_cost(network).multiply_adds / float(row.multiply_adds)
        assert 0.8 < ratio < 1.12, (row, ratio)


def test_a_computed_value_agrees_where_it_rounds_to_the_printed_digits():
    printed = paper_tables.VARIANTS["B1"].multiply_adds
    assert printed is not None
    assert (float(printed), str(printed)) == (0.7e9, "7.0E+8")
    assert paper_tables.agrees(0.7049e9, printed) is True
    assert paper_tables.agrees(0.6949e9, printed) is False
    assert paper_tables.agrees(1.0, None) is None


def test_every_baseline_is_built_by_keras_and_weighs_what_is_printed():
    assert {"ResNet50", "ResNet152", "MobileNetV2"} <= set(paper_tables.BASELINES)
    for name in paper_tables.BASELINES:
        assert callable(getattr(keras.applications, name))
    # Paper, Table 7, compound: the multipliers of B3 on B0's resolution.
    compound = paper_tables.SCALED["B0"][-1]
    b3 = ke.spec.VARIANTS["B3"]
    assert (compound.depth, compound.width) == (b3.depth, b3.width)
    assert cost.network_cost(b3).trainable == 12_233_232
