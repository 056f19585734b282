"""The grid search for alpha, beta and gamma (paper, section 3.3, step 1)."""

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_efficientnet import scaling
from keras_efficientnet.bars import Bar
from keras_efficientnet.errors import InputError, require
from keras_efficientnet.study.scalable_networks import (
    ScalableNetwork,
    block_count,
    build,
    built_structure,
    get_network,
    network_cost,
    scale_network,
)

if TYPE_CHECKING:  # the costs need no TensorFlow
    from keras_efficientnet.study.trials import Plan

BUDGETS = ("product", "multiply-adds", "parameters", "latency")
# Only candidates whose product is within this factor of the target are exported and timed.
_TIMED_WITHIN = 1.5
LATENCY_TURNS = 30
MAX_POINTS = 10**6


@dataclass(frozen=True)
class Constraint:
    """What every candidate may cost, relative to the base network.

    Attributes:
        budget: kind of cost. `"product"` is the paper's alpha * beta**2 * gamma**2, before
            any rounding; `"multiply-adds"` and `"parameters"` are those of the scaled
            network, and `"latency"` is that of its float LiteRT file for one image, measured
            here in turns with the base's.
        ratio: wanted cost over the base's, above 1 and at most 16.
        tolerance: share of `ratio` by which a candidate may differ from it, in (0, 1).
        step: of the grid, which begins at 1 in each dimension; from 0.01 to 1.

    Raises:
        InputError: if a value is out of its range.
    """

    budget: str = "product"
    ratio: float = 2.0
    tolerance: float = 0.05
    step: float = 0.2

    def __post_init__(self):
        """Refuses what cannot be searched."""
        for name, valid, accepted in (
            ("budget", self.budget in BUDGETS, f"one of {', '.join(BUDGETS)}"),
            ("ratio", 1 < self.ratio <= 16, "above 1 and at most 16"),
            ("tolerance", 0 < self.tolerance < 1, "above 0 and below 1"),
            ("step", 0.01 <= self.step <= 1, "from 0.01 to 1"),
        ):
            require(valid, name, getattr(self, name), accepted)

    def grid(self) -> list[tuple[float, float, float]]:
        """Returns all alpha, beta, gamma on the grid that could meet the ratio, and the paper's.

        Raises:
            InputError: if the grid has more than a million points.
        """
        end = self.ratio * (1 + self.tolerance) + 1e-9

        def axis(end: float) -> list[float]:
            return [round(1 + i * self.step, 6) for i in range(int((end - 1) / self.step) + 1)]

        sides = axis(math.sqrt(end))
        if (points := len(axis(end)) * len(sides) ** 2) > MAX_POINTS:
            raise InputError(f"The grid has {points:,} points; take a larger step.")
        points = [(alpha, beta, gamma) for alpha in axis(end) for beta in sides for gamma in sides]
        paper = (scaling.ALPHA, scaling.BETA, scaling.GAMMA)
        return sorted({*points, paper})


def search_candidates(
    base: str | ScalableNetwork = "B0", constraint: Constraint | None = None, classes: int = 1000
) -> list[dict[str, Any]]:
    """Lists the coefficients that meet a constraint, scaled at phi = 1.

    Args:
        base: network to scale.
        constraint: what they may cost; `Constraint()`, the paper's, if None.
        classes: outputs of the classifier.

    Returns:
        A row for each: `alpha`, `beta`, `gamma`; `product`, alpha * beta**2 * gamma**2;
        `budget` and `budget_ratio`, the constrained cost over the base's; `image_size`,
        `blocks`, `trainable`, `multiply_adds` of the scaled network, and `ratio` of its
        multiply-adds to the base's.

    Raises:
        InputError: if the base is unknown or nothing meets the constraint.
    """
    constraint = constraint or Constraint()
    base = get_network(base)
    base_cost = network_cost(base, classes)
    rows = []
    with _measure(constraint, base, classes) as measure:
        grid = constraint.grid()
        timed = constraint.budget == "latency"
        for alpha, beta, gamma in Bar(grid, "Timing", disable=not timed, leave=False):
            network, product = scale_network(base, alpha, beta, gamma), alpha * beta**2 * gamma**2
            ratio = measure(network, product)
            if ratio is None or abs(ratio / constraint.ratio - 1) > constraint.tolerance + 1e-9:
                continue
            total = network_cost(network, classes)
            rows.append(
                {
                    "alpha": alpha,
                    "beta": beta,
                    "gamma": gamma,
                    "product": product,
                    "budget": constraint.budget,
                    "budget_ratio": ratio,
                    "image_size": network.resolution,
                    "blocks": block_count(network),
                    "trainable": total.trainable,
                    "multiply_adds": total.multiply_adds,
                    "ratio": total.multiply_adds / base_cost.multiply_adds,
                }
            )
    if not rows:
        raise InputError(
            f"No coefficients on a grid of step {constraint.step} come within "
            f"{100 * constraint.tolerance:g} % of {constraint.ratio:g} times the base's "
            f"{constraint.budget}; take a smaller step or a larger tolerance."
        )
    return rows


def search_coefficients(
    base: str | ScalableNetwork, candidates: list[dict[str, Any]], plan: "Plan"
) -> list[dict[str, Any]]:
    """Trains every candidate at phi = 1 and ranks them.

    Candidates that round to the same network are trained once.

    Args:
        base: network to scale.
        candidates: from `search_candidates`.
        plan: how they are trained.

    Returns:
        The candidates with `rank` from 1 and the fields of `summarize_trial`, the best first;
        of equally accurate ones the cheaper first.
    """
    from keras_efficientnet.study.trials import Trial, run_trials, summarize_trial

    base = get_network(base)
    names = ["{alpha:g}, {beta:g}, {gamma:g}".format(**row) for row in candidates]
    trials = [
        Trial(name, scale_network(base, row["alpha"], row["beta"], row["gamma"]))
        for name, row in zip(names, candidates, strict=True)
    ]
    results = run_trials(trials, plan)
    rows = [
        {**row, **summarize_trial(results, name)}
        for name, row in zip(names, candidates, strict=True)
    ]
    rows.sort(key=lambda row: (-row["accuracy"], row["multiply_adds"]))
    return [{"rank": rank, **row} for rank, row in enumerate(rows, start=1)]


@contextlib.contextmanager
def _measure(
    constraint: Constraint, base: ScalableNetwork, classes: int
) -> Iterator[Callable[[ScalableNetwork, float], float | None]]:
    """Gives a function of a network and its product that returns its cost over the base's.

    It returns None for a network that is too far off to be measured.
    """
    if constraint.budget == "product":
        yield lambda network, product: product
    elif constraint.budget == "latency":
        with tempfile.TemporaryDirectory() as folder:
            yield _Latency(constraint, base, classes, Path(folder))
    else:
        field = constraint.budget.replace("-", "_").replace("parameters", "trainable")
        base_cost = getattr(network_cost(base, classes), field)
        yield lambda network, _: getattr(network_cost(network, classes), field) / base_cost


class _Latency:
    """Exports each network once and times it in turns with the base's."""

    def __init__(self, constraint: Constraint, base: ScalableNetwork, classes: int, folder: Path):
        self.constraint, self.classes, self.folder = constraint, classes, folder
        self.known: dict[str, float] = {}
        self.base = self._export(base, "base")

    def __call__(self, network: ScalableNetwork, product: float) -> float | None:
        off = product / self.constraint.ratio
        if not 1 / _TIMED_WITHIN <= off <= _TIMED_WITHIN:
            return None
        key = repr(built_structure(network))
        if key not in self.known:
            self.known[key] = self._ratio(network)
        return self.known[key]

    def _ratio(self, network: ScalableNetwork) -> float:
        from keras_efficientnet.deploy import benchmark

        file = self._export(network, str(len(self.known)))
        report = benchmark([self.base, file], threads=[1], repeats=LATENCY_TURNS, batch=1)
        file.unlink()
        return 1 / report["results"][1]["speedup"]["median"]

    def _export(self, network: ScalableNetwork, name: str) -> Path:
        from keras_efficientnet import deploy

        file = self.folder / f"{name}.tflite"
        deploy.export_tflite(build(network, self.classes, network.resolution), file)
        return file
