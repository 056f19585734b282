"""Ablations: one part of the network or the recipe changed at a time."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_efficientnet.errors import InputError
from keras_efficientnet.spec import VariantSpec
from keras_efficientnet.study.scalable_networks import ScalableNetwork, get_network, network_cost
from keras_efficientnet.study.trials import (
    Plan,
    Trial,
    accuracy_difference,
    run_trials,
    summarize_trial,
)
from keras_efficientnet.training import Progressive, Recipe

PROGRESSIVE_STAGES = 3


def _without_se(network: VariantSpec, recipe: Recipe) -> tuple[VariantSpec, Recipe]:
    stages = tuple(dataclasses.replace(stage, se_ratio=0) for stage in network.stages)
    return dataclasses.replace(network, stages=stages), recipe


def _relu(network: VariantSpec, recipe: Recipe) -> tuple[VariantSpec, Recipe]:
    return dataclasses.replace(network, activation="relu"), recipe


def _without_stochastic_depth(network: VariantSpec, recipe: Recipe) -> tuple[VariantSpec, Recipe]:
    return network, dataclasses.replace(recipe, drop_connect_rate=0.0)


def _progressive(network: VariantSpec, recipe: Recipe) -> tuple[VariantSpec, Recipe]:
    """Lets the image size grow and nothing else: regularization stays as it is."""
    dropout = network.dropout_rate if recipe.dropout_rate is None else recipe.dropout_rate
    growth = Progressive(
        stages=min(PROGRESSIVE_STAGES, recipe.epochs),
        magnitude=recipe.augmentation.magnitude,
        dropout_rate=dropout,
        mixup_alpha=recipe.augmentation.mixup_alpha,
    )
    return network, dataclasses.replace(recipe, progressive=growth)


# By the name that `only` takes: what is changed, in words and as a function.
ABLATIONS = {
    "se": ("without SE", _without_se),
    "swish": ("ReLU for swish", _relu),
    "stochastic-depth": ("without stochastic depth", _without_stochastic_depth),
    "progressive": ("growing images", _progressive),
}


def ablate(
    base: str | ScalableNetwork, plan: Plan, only: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Trains a network with one thing changed at a time, by one recipe.

    Args:
        base: the network that is changed.
        plan: how it is trained.
        only: names in `ABLATIONS`; all if None.

    Returns:
        A row for the unchanged network and one for each change: `name`, `change`, `trainable`,
        `multiply_adds`, the fields of `summarize_trial`, and `time`, the training time over the
        unchanged network's; each change also has `against_base`, the `accuracy_difference` to
        the unchanged network.

    Raises:
        InputError: if a name is unknown, or the network is no chain of MBConv blocks.
    """
    base = get_network(base)
    if not isinstance(base, VariantSpec):
        raise InputError(f"{base.name} has none of the parts that are changed; use another base.")
    only = only or list(ABLATIONS)
    for name in only:
        if name not in ABLATIONS:
            raise InputError(f"Unknown ablation {name!r}; choose {', '.join(ABLATIONS)}.")
    trials = [Trial("base", base, plan.recipe)]
    trials += [Trial(name, *ABLATIONS[name][1](base, plan.recipe)) for name in only]
    results = run_trials(trials, plan)
    rows = []
    for trial in trials:
        cost = network_cost(trial.network, plan.classes)
        row: dict[str, Any] = {
            "name": trial.name,
            "change": ABLATIONS[trial.name][0] if rows else "none",
            "trainable": cost.trainable,
            "multiply_adds": cost.multiply_adds,
            **summarize_trial(results, trial.name),
        }
        if rows:
            row["against_base"] = accuracy_difference(row, rows[0])
        rows.append(row)
        row["time"] = row["seconds"] / rows[0]["seconds"]
    return rows
