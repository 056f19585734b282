"""One dimension against all three at equal cost (paper, Figure 3 and Tables 3 and 7)."""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from keras_efficientnet import scaling
from keras_efficientnet.errors import InputError, require
from keras_efficientnet.study.paper_tables import SCALED, number
from keras_efficientnet.study.scalable_networks import (
    ScalableNetwork,
    at_budget,
    block_count,
    get_network,
    network_cost,
    scale_network,
)

if TYPE_CHECKING:  # the costs need no TensorFlow
    from keras_efficientnet.study.trials import Plan

DIMENSIONS = ("depth", "width", "resolution")


def scaled_networks(
    base: str | ScalableNetwork = "B0",
    ratio: float = 4.0,
    *,
    alpha: float = scaling.ALPHA,
    beta: float = scaling.BETA,
    gamma: float = scaling.GAMMA,
    classes: int = 1000,
) -> dict[str, ScalableNetwork]:
    """Scales a network to a multiple of its multiply-adds, by each dimension and by all three.

    Channels and repeats are whole numbers, so the cost is met as nearly as rounding allows.
    The compound network is scaled by one coefficient, and then its image side is set to the
    pixel that meets the cost best: resolution has the finest steps of the three.

    Args:
        base: network to scale.
        ratio: wanted multiply-adds over the base's.
        alpha: growth of depth for one unit of the compound coefficient.
        beta: growth of width.
        gamma: growth of resolution.
        classes: outputs of the classifier.

    Returns:
        Networks by `"base"`, `"depth"`, `"width"`, `"resolution"` and `"compound"`.

    Raises:
        InputError: if the base is unknown or the ratio not above 1.
    """
    require(math.isfinite(ratio) and ratio > 1, "ratio", ratio, "a finite number above 1")
    base = get_network(base)
    budget = ratio * _multiply_adds(base, classes)
    measure = partial(_multiply_adds, classes=classes)

    def reach(grow: Callable[[float], ScalableNetwork], start: float) -> ScalableNetwork:
        return at_budget(grow, measure, budget, start)[1]

    def compound(phi: float) -> ScalableNetwork:
        scale = scaling.compound_scale(phi, alpha, beta, gamma)
        return scale_network(base, scale.depth, scale.width, scale.resolution)

    def single(dimension: str, multiplier: float) -> ScalableNetwork:
        return scale_network(base, **{dimension: multiplier})

    found = {"base": base}
    for dimension in DIMENSIONS:
        found[dimension] = reach(partial(single, dimension), 1.0)
    grown = reach(compound, 0.0)
    found["compound"] = reach(lambda m: scale_network(grown, resolution=m), 0.5)
    return found


def paper_networks(base: str = "B0") -> dict[str, ScalableNetwork]:
    """Scales a network by the multipliers of the paper's Table 7 (B0) or Table 3.

    Raises:
        InputError: if the paper has no such table for this base.
    """
    network = get_network(base)
    if network.name not in SCALED:
        raise InputError(f"The paper scales {', '.join(SCALED)} in this way, not {network.name}.")
    return {
        row.dimension: scale_network(network, row.depth, row.width, row.resolution)
        for row in SCALED[network.name]
    }


def comparison_rows(found: dict[str, ScalableNetwork], classes: int = 1000) -> list[dict[str, Any]]:
    """Describes scaled networks beside the paper's.

    Args:
        found: from `scaled_networks` or `paper_networks`.
        classes: outputs of the classifier.

    Returns:
        A row for each: `dimension`; `depth`, `width` and `resolution`, multipliers of the
        base's; `image_size`, `blocks`, `trainable`, `multiply_adds`; `ratio` of multiply-adds
        to the base's; and what the paper prints for the same dimension, of this base or else
        of B0: `paper_base`, `paper_multiply_adds` and `paper_top1`, None where it has no such
        row.
    """
    base = found["base"]
    paper_base = base.name if base.name in SCALED else "B0"
    paper = {row.dimension: row for row in SCALED[paper_base]}
    base_cost = _multiply_adds(base, classes)
    rows = []
    for dimension, network in found.items():
        total = network_cost(network, classes)
        printed = paper.get(dimension)
        rows.append(
            {
                "dimension": dimension,
                "depth": network.depth / base.depth,
                "width": network.width / base.width,
                "resolution": network.resolution / base.resolution,
                "image_size": network.resolution,
                "blocks": block_count(network),
                "trainable": total.trainable,
                "multiply_adds": total.multiply_adds,
                "ratio": total.multiply_adds / base_cost,
                "paper_base": paper_base,
                "paper_multiply_adds": number(printed.multiply_adds) if printed else None,
                "paper_top1": printed.top1 if printed else None,
            }
        )
    return rows


def compare_scaling(found: dict[str, ScalableNetwork], plan: "Plan") -> dict[str, Any]:
    """Trains scaled networks by one recipe and compares compound with single-dimension scaling.

    Args:
        found: from `scaled_networks` or `paper_networks`.
        plan: how they are trained.

    Returns:
        `rows` of `comparison_rows`, each with the fields of `summarize_trial`; and `verdict`:
        `best_single`, the best of the single dimensions, and the fields of
        `accuracy_difference` of the compound network to it.
    """
    from keras_efficientnet.study.trials import (
        Trial,
        accuracy_difference,
        run_trials,
        summarize_trial,
    )

    results = run_trials([Trial(name, network) for name, network in found.items()], plan)
    rows = [
        {**row, **summarize_trial(results, row["dimension"])}
        for row in comparison_rows(found, plan.classes)
    ]
    by_dimension = {row["dimension"]: row for row in rows}
    singles = [name for name in DIMENSIONS if name in by_dimension]
    best = max(singles, key=lambda name: by_dimension[name]["accuracy"])
    verdict = accuracy_difference(by_dimension["compound"], by_dimension[best])
    return {"rows": rows, "verdict": {"best_single": best, **verdict}}


def _multiply_adds(network: ScalableNetwork, classes: int) -> int:
    return network_cost(network, classes).multiply_adds
