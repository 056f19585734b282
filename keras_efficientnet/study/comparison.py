"""One dimension against all three at equal cost (paper, Figure 3 and Tables 3 and 7)."""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from keras_efficientnet import scaling
from keras_efficientnet.errors import InputError
from keras_efficientnet.study import paper_tables, scalable_networks
from keras_efficientnet.study.scalable_networks import ScalableNetwork

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
    The compound network is the coefficient's with its image side then set to the pixel that
    meets the cost best: the finest of the three dimensions takes up what rounding left.

    Args:
        base: what is scaled.
        ratio: multiply-adds wanted, over the base's.
        alpha: compound growth of depth.
        beta: of width.
        gamma: of resolution.
        classes: outputs of the classifier.

    Returns:
        Networks by `"base"`, `"depth"`, `"width"`, `"resolution"` and `"compound"`.

    Raises:
        InputError: if the base is unknown or the ratio not above 1.
    """
    if not (math.isfinite(ratio) and ratio > 1):
        raise InputError(f"ratio={ratio!r} must be a finite number above 1.")
    base = scalable_networks.get_network(base)
    budget = ratio * _multiply_adds(base, classes)
    measure = partial(_multiply_adds, classes=classes)

    def reach(grow: Callable[[float], ScalableNetwork], start: float) -> ScalableNetwork:
        return scalable_networks.at_budget(grow, measure, budget, start)[1]

    def compound(phi: float) -> ScalableNetwork:
        scale = scaling.compound_scale(phi, alpha, beta, gamma)
        return scalable_networks.scale_network(base, scale.depth, scale.width, scale.resolution)

    def single(dimension: str, multiplier: float) -> ScalableNetwork:
        return scalable_networks.scale_network(
            base, *(multiplier if name == dimension else 1.0 for name in DIMENSIONS)
        )

    found = {"base": base}
    for dimension in DIMENSIONS:
        found[dimension] = reach(partial(single, dimension), 1.0)
    grown = reach(compound, 0.0)
    found["compound"] = reach(lambda m: scalable_networks.scale_network(grown, resolution=m), 0.5)
    return found


def paper_networks(base: str = "B0") -> dict[str, ScalableNetwork]:
    """Scales a network by the multipliers of the paper's Table 7 (B0) or Table 3.

    Raises:
        InputError: if the paper has no such table for this base.
    """
    network = scalable_networks.get_network(base)
    if network.name not in paper_tables.SCALED:
        raise InputError(
            f"The paper scales {', '.join(paper_tables.SCALED)} in this way and not {network.name}."
        )
    return {
        row.dimension: scalable_networks.scale_network(
            network, row.depth, row.width, row.resolution
        )
        for row in paper_tables.SCALED[network.name]
    }


def comparison_rows(found: dict[str, ScalableNetwork], classes: int = 1000) -> list[dict[str, Any]]:
    """Describes scaled networks beside the paper's.

    Args:
        found: from `scaled_networks` or `paper_networks`.
        classes: outputs of the classifier.

    Returns:
        A row for each: `dimension`; `depth`, `width` and `resolution`, multipliers of the
        base's; `image_size`, `blocks`, `trainable`, `multiply_adds`; `ratio` of multiply-adds
        to the base's; and the paper's row of the same dimension, of this base or else of B0,
        as `paper_base`, `paper_multiply_adds` and `paper_top1`, None where it has none.
    """
    base = found["base"]
    paper_base = base.name if base.name in paper_tables.SCALED else "B0"
    paper = {row.dimension: row for row in paper_tables.SCALED[paper_base]}
    base_cost = _multiply_adds(base, classes)
    rows = []
    for dimension, network in found.items():
        total = scalable_networks.network_cost(network, classes)
        printed = paper.get(dimension)
        rows.append(
            {
                "dimension": dimension,
                "depth": network.depth / base.depth,
                "width": network.width / base.width,
                "resolution": network.resolution / base.resolution,
                "image_size": network.resolution,
                "blocks": total.blocks,
                "trainable": total.trainable,
                "multiply_adds": total.multiply_adds,
                "ratio": total.multiply_adds / base_cost,
                "paper_base": paper_base,
                "paper_multiply_adds": (
                    paper_tables.number(printed.multiply_adds, paper_tables.BILLION)
                    if printed
                    else None
                ),
                "paper_top1": printed.top1 if printed else None,
            }
        )
    return rows


def compare_scaling(found: dict[str, ScalableNetwork], plan: "Plan") -> dict[str, Any]:
    """Trains scaled networks by one recipe and sets compound against single dimensions.

    Args:
        found: from `scaled_networks` or `paper_networks`.
        plan: how they are trained.

    Returns:
        `rows` of `comparison_rows`, each with `trials.summary`; and `verdict`: `best_single`,
        the best of the single dimensions, and `trials.difference` of the compound network to
        it, `differences`, `mean` and `standard_error`.
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
    return scalable_networks.network_cost(network, classes).multiply_adds
