"""Rows for `plots`: published networks, and scales of the base network."""

import math
from collections.abc import Sequence
from typing import Any

from keras_efficientnet import spec
from keras_efficientnet.cost import network_cost
from keras_efficientnet.scaling import CompoundScale, compound_scale
from keras_efficientnet.study import paper_tables
from keras_efficientnet.weights import registry

# Family, the prefix of its variants' names, and the published weights whose accuracy counts.
_FAMILIES = (("EfficientNet", "B"), ("EfficientNetV2", "V2"), ("EfficientNet-Lite", "Lite"))


def published_networks() -> list[dict[str, Any]]:
    """Returns the family and the networks that the paper compares it with, on ImageNet.

    Returns:
        Rows for `plots.size_against_accuracy` and `plots.cost_against_accuracy`: `name`,
        `family` (None for the others), `parameters`, `multiply_adds` (None where not
        printed) and `accuracy`. The family's counts are computed and its accuracies those
        of weights published as `"imagenet"`; the others' are as the paper prints them.
    """
    rows = []
    for family, prefix in _FAMILIES:
        for entry in registry.table():
            if entry.variant.startswith(prefix) and entry.name == "imagenet" and entry.top1:
                total = network_cost(entry.variant)
                rows.append(
                    _row(entry.variant, family, total.trainable, total.multiply_adds, entry.top1)
                )
    printed = {name: baseline.figures for name, baseline in paper_tables.BASELINES.items()}
    for name, figures in {**printed, **paper_tables.OTHERS}.items():
        if figures.parameters:
            multiply_adds = paper_tables.number(figures.multiply_adds)
            top1 = figures.top1["paper"]
            rows.append(_row(name, None, float(figures.parameters), multiply_adds, top1))
    return rows


def compound_scales(phis: Sequence[float] | None = None) -> list[dict[str, Any]]:
    """Returns what the compound coefficient does to B0, and the released networks beside it.

    Args:
        phis: coefficients; 0 to 7 in steps of 0.1 if None.

    Returns:
        Rows for `plots.scaling_curves`: `phi`; the multipliers `depth`, `width` and
        `resolution`; `multiply_adds`; and for B0 to B7 their `name`. Those were not made from
        a coefficient: theirs is the one that would multiply B0's cost by as much.
    """
    rows = []
    for phi in [step / 10 for step in range(71)] if phis is None else phis:
        scale = compound_scale(phi)
        rows.append(_scale(phi, scale, network_cost(scale).multiply_adds))
    base = spec.VARIANTS["B0"]
    base_cost = network_cost(base).multiply_adds
    growth = compound_scale(1).flops_ratio
    for number in range(8):
        variant = spec.VARIANTS[f"B{number}"]
        multiply_adds = network_cost(variant).multiply_adds
        phi = math.log(multiply_adds / base_cost) / math.log(growth)
        resolution = variant.resolution / base.resolution
        released = CompoundScale(phi, variant.depth, variant.width, resolution, 1)
        rows.append({**_scale(phi, released, multiply_adds), "name": variant.name})
    return rows


def _row(name, family, parameters, multiply_adds, top1) -> dict[str, Any]:
    return {
        "name": name,
        "family": family,
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "accuracy": top1 / 100,
    }


def _scale(phi: float, scale: CompoundScale, multiply_adds: int) -> dict[str, Any]:
    return {
        "phi": phi,
        "depth": scale.depth,
        "width": scale.width,
        "resolution": scale.resolution,
        "multiply_adds": multiply_adds,
    }
