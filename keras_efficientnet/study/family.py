"""The family as its papers print it and as it is computed, and compound scaling."""

import math
from typing import Any

from keras_efficientnet import scaling, spec
from keras_efficientnet.cost import network_cost
from keras_efficientnet.errors import InputError
from keras_efficientnet.scaling import Variant
from keras_efficientnet.study import paper_tables
from keras_efficientnet.weights import registry

# What a variant's name begins with; V1 has no prefix of its own.
FAMILIES = {"V1": ("B", "L2"), "Lite": ("Lite",), "EdgeTPU": ("EdgeTPU",), "V2": ("V2",)}

# Where a top-1 accuracy is a published weight's own, its home is the registry.
_WEIGHTS_TOP1 = {
    "Lite": ("imagenet", "float, TPU"),
    "B8": ("advprop", "AdvProp, TPU"),
    "L2": ("noisy-student", "Noisy Student, TPU"),
    "V2": ("imagenet21k-ft1k", "from 21k, AML"),
}


def family_table(family: str = "V1") -> list[dict[str, Any]]:
    """Sets the published figures of a family beside the computed ones.

    Args:
        family: `"V1"`, `"Lite"`, `"EdgeTPU"` or `"V2"`.

    Returns:
        A row for each variant: `variant`, `width`, `depth`, `resolution`, `dropout_rate`,
        `blocks`; computed `trainable`, `parameters` (all) and `multiply_adds`;
        `paper_parameters` and `paper_multiply_adds` as numbers, None where not printed, with
        `parameters_agree` and `multiply_adds_agree`, whether the computed value rounds to the
        printed one; `top1`, accuracy in percent by source; `source` of the printed counts.

    Raises:
        InputError: if the family is unknown.
    """
    if family not in FAMILIES:
        raise InputError(f"Unknown family {family!r}; choose {', '.join(FAMILIES)}.")
    return [
        _family_row(variant)
        for variant in spec.VARIANTS.values()
        if variant.name.startswith(FAMILIES[family])
    ]


def _family_row(variant: spec.VariantSpec) -> dict[str, Any]:
    total = network_cost(variant)
    printed = paper_tables.VARIANTS.get(variant.name, paper_tables.Figures())
    return {
        "variant": variant.name,
        "width": variant.width,
        "depth": variant.depth,
        "resolution": variant.resolution,
        "dropout_rate": variant.dropout_rate,
        "blocks": len(scaling.expand_blocks(variant)),
        "trainable": total.trainable,
        "parameters": total.parameters,
        "paper_parameters": paper_tables.number(printed.parameters),
        "parameters_agree": paper_tables.agrees(total.trainable, printed.parameters),
        "multiply_adds": total.multiply_adds,
        "paper_multiply_adds": paper_tables.number(printed.multiply_adds),
        "multiply_adds_agree": paper_tables.agrees(total.multiply_adds, printed.multiply_adds),
        "top1": top1(variant.name),
        "source": printed.source,
    }


def top1(variant_name: str) -> dict[str, float]:
    """Returns every published top-1 accuracy of a variant in percent, by its source."""
    printed = paper_tables.VARIANTS.get(variant_name, paper_tables.Figures()).top1
    stated = {
        source: entry.top1
        for prefix, (weights, source) in _WEIGHTS_TOP1.items()
        for entry in registry.table()
        if variant_name.startswith(prefix)
        and (entry.variant, entry.name) == (variant_name, weights)
        and entry.top1
    }
    # Lite's are float's ahead of int8's.
    return {**stated, **printed} if variant_name.startswith("Lite") else {**printed, **stated}


def compound_scaling(
    phi: float,
    alpha: float = scaling.ALPHA,
    beta: float = scaling.BETA,
    gamma: float = scaling.GAMMA,
    base: Variant = "B0",
) -> dict[str, Any]:
    """Computes what a compound coefficient means, before and after rounding.

    Args:
        phi: compound coefficient.
        alpha: growth of depth for one unit of `phi`.
        beta: growth of width.
        gamma: growth of resolution.
        base: network to scale.

    Returns:
        `base`, its name; `phi`, `alpha`, `beta`, `gamma`; `constraint`, which is
        alpha * beta**2 * gamma**2, and `from_two`, how far it is from 2; the multipliers
        `depth`, `width` and `resolution`; `image_size`, `blocks`, `trainable`, `parameters` and
        `multiply_adds` of the scaled network; `predicted_ratio` and `ratio` of its multiply-adds
        to the base's, before and after rounding.

    Raises:
        InputError: if a number cannot be scaled by, or the base is unknown.
    """
    base = scaling.get_variant(base)
    scale = scaling.compound_scale(phi, alpha, beta, gamma)
    variant = scale.apply(base)
    total = network_cost(variant)
    constraint = alpha * beta**2 * gamma**2
    return {
        "base": base.name,
        "phi": phi,
        "alpha": alpha,
        "beta": beta,
        "gamma": gamma,
        "constraint": constraint,
        "from_two": constraint - 2,
        "depth": scale.depth,
        "width": scale.width,
        "resolution": scale.resolution,
        "image_size": variant.resolution,
        "blocks": len(scaling.expand_blocks(variant)),
        "trainable": total.trainable,
        "parameters": total.parameters,
        "multiply_adds": total.multiply_adds,
        "predicted_ratio": scale.flops_ratio,
        "ratio": total.multiply_adds / network_cost(base).multiply_adds,
    }


def released_phi(
    alpha: float = scaling.ALPHA, beta: float = scaling.BETA, gamma: float = scaling.GAMMA
) -> list[dict[str, Any]]:
    """Fits a coefficient to each dimension of the released B1-B7.

    They would be equal if one coefficient had scaled the networks; their multipliers were chosen
    by hand.

    Args:
        alpha: growth of depth for one unit of the coefficient.
        beta: growth of width.
        gamma: growth of resolution.

    Returns:
        A row for each: `variant`; `depth`, `width` and `resolution`, the coefficient that
        gives this multiplier, or None where the growth of the dimension is 1.

    Raises:
        InputError: if a growth is not positive.
    """
    scaling.compound_scale(1.0, alpha, beta, gamma)
    base = spec.VARIANTS["B0"]
    rows = []
    for number in range(1, 8):
        variant = spec.VARIANTS[f"B{number}"]
        growths = {
            "depth": (variant.depth / base.depth, alpha),
            "width": (variant.width / base.width, beta),
            "resolution": (variant.resolution / base.resolution, gamma),
        }
        fitted = {
            name: None if growth == 1 else math.log(ratio) / math.log(growth)
            for name, (ratio, growth) in growths.items()
        }
        rows.append({"variant": variant.name, **fitted})
    return rows
