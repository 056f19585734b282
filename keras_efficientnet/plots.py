"""Plots of networks, data and runs: plain data in, a Matplotlib figure out.

Accuracies are given as shares from 0 to 1 and drawn in percent. Numbers may be given as text, as
the `csv` module reads them. `theme("dark")` draws for dark pages, and `to_svg` for both kinds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patches
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from keras_efficientnet.errors import InputError
from keras_efficientnet.plot_style import (
    MARKERS,
    THEMES,
    Picture,
    axes_of,
    colours,
    drawn,
    image_grid,
    log_axis,
    name_points,
    percent_axis,
    theme,
    to_svg,
)

__all__ = [
    "THEMES",
    "Picture",
    "augmentation_samples",
    "confusion_matrix",
    "cost_against_accuracy",
    "cost_growth",
    "grad_cam",
    "learning_curves",
    "learning_rate_schedule",
    "overlay",
    "scaling_comparison",
    "scaling_curves",
    "search_results",
    "size_against_accuracy",
    "theme",
    "to_svg",
]

Row = Mapping[str, Any]

# With more classes than this, a confusion matrix has no room for numbers, or for names.
NUMBERED_CLASSES = 25
NAMED_CLASSES = 60
RANKED_CANDIDATES = 12


@drawn
def size_against_accuracy(rows: Sequence[Row]) -> Picture:
    """Draws parameters against accuracy, the paper's Figure 1.

    Args:
        rows: networks with `name`, `parameters`, `accuracy`, and `family`: a line connects the
            networks of each family, and those without one are drawn as peers.
            `study.published_networks()` returns those of the papers.
    """
    return _against_accuracy(rows, "parameters", 1e6, "Parameters, millions")


@drawn
def cost_against_accuracy(rows: Sequence[Row]) -> Picture:
    """Draws multiply-adds against accuracy, the paper's Figure 5.

    Args:
        rows: as for `size_against_accuracy`, with `multiply_adds`.
    """
    return _against_accuracy(rows, "multiply_adds", 1e9, "Multiply-adds for one image, billions")


def _against_accuracy(rows: Sequence[Row], column: str, unit: float, label: str) -> Picture:
    rows = [row for row in rows if row.get(column) is not None]
    sizes, accuracies = _numbers(rows, column) / unit, _shares(rows, "accuracy")
    families = _groups(rows, "family")
    figure, axes = axes_of(7.6, 5.2)
    for index, (family, members) in enumerate(families.items()):
        chosen = sorted(members, key=lambda member: sizes[member])
        axes.plot(
            sizes[chosen],
            accuracies[chosen],
            marker=MARKERS[index],
            color=colours().series[index],
            label=family,
            zorder=3,
        )
    named = {member for members in families.values() for member in members}
    others = [index for index in range(len(rows)) if index not in named]
    if others:
        axes.plot(
            sizes[others],
            accuracies[others],
            linestyle="",
            marker="o",
            markersize=4.5,
            color=colours().peers,
            label="other networks" if named else None,
        )
    log_axis(axes, "x")
    percent_axis(axes, "y")
    axes.set_xlabel(label)
    axes.set_ylabel("Accuracy (top-1), %")
    axes.margins(0.08)
    if len(families) + bool(others) > 1:
        axes.legend(loc="lower right")
    name_points(figure, axes, sizes, accuracies, [str(row["name"]) for row in rows], named)
    return figure


@drawn
def scaling_curves(rows: Sequence[Row]) -> Picture:
    """Draws the multipliers and the cost against the compound coefficient.

    Args:
        rows: scales with `phi`, `depth`, `width`, `resolution` (multipliers) and
            `multiply_adds`. Rows with a `name` are drawn as points, the others as lines.
            `study.compound_scales()` returns such rows.
    """
    lines = [row for row in rows if not row.get("name")]
    points = [row for row in rows if row.get("name")]
    figure, (left, right) = axes_of(9, 3.9, columns=2)
    panels = (
        (left, "depth", "depth"),
        (left, "width", "width"),
        (left, "resolution", "resolution"),
        (right, "multiply_adds", "multiply-adds"),
    )
    for index, (axes, column, label) in enumerate(panels):
        unit = 1e9 if column == "multiply_adds" else 1
        for chosen, line, marker in ((lines, "-", None), (points, "", MARKERS[index])):
            if chosen:
                phis, values = _numbers(chosen, "phi"), _numbers(chosen, column) / unit
                style = {"linestyle": line, "marker": marker, "color": colours().series[index]}
                axes.plot(phis, values, label=label, **style)
                label = None  # one entry of the legend for both
    names = [str(row["name"]) for row in points]
    dots = f" (points: {names[0]} to {names[-1]})" if names else ""
    left.set_title(f"Multipliers{dots}")
    left.set_ylabel("times the base network's")
    left.legend(loc="upper left")
    right.set_title("Cost")
    right.set_ylabel("multiply-adds for one image, billions")
    log_axis(right, "y")
    for axes in (left, right):
        axes.set_xlabel("compound coefficient φ")
    if points:
        phis, values = _numbers(points, "phi"), _numbers(points, "multiply_adds") / 1e9
        name_points(figure, right, phis, values, names)
    return figure


@drawn
def cost_growth(rows: Sequence[Row]) -> Picture:
    """Draws the growth of measured time and memory beside the growth that cost.py predicts.

    Args:
        rows: measurements in order, with `along`, the quantity that grows, which gets a panel of
            its own; `at`, its value, a number or a name; and `time`, `memory`, `predicted_time`
            and `predicted_memory` in any units: each is drawn as a multiple of its panel's first.
    """
    panels = _groups(rows, "along")
    figure, all_axes = axes_of(3.4 * len(panels), 3.4, columns=len(panels))
    for axes, (along, members) in zip(np.atleast_1d(all_axes), panels.items(), strict=True):
        chosen = [rows[member] for member in members]
        named = any(isinstance(row["at"], str) for row in chosen)
        places = np.arange(len(chosen)) if named else _numbers(chosen, "at")
        for index, name in enumerate(("time", "memory")):
            for column, line in ((name, "-"), (f"predicted_{name}", "--")):
                values = _numbers(chosen, column)
                axes.plot(
                    places,
                    values / values[0],
                    color=colours().series[index],
                    linestyle=line,
                    marker=MARKERS[index] if line == "-" else None,
                    label=f"{name}, {'measured' if line == '-' else 'predicted'}",
                )
        if named:
            axes.set_xticks(places, [str(row["at"]) for row in chosen])
        else:
            log_axis(axes, "x")
            axes.set_xticks(places, [f"{place:g}" for place in places])
        log_axis(axes, "y")
        axes.set_xlabel(along)
        axes.set_ylabel(f"times that of {chosen[0]['at']}")
    np.atleast_1d(all_axes)[0].legend(loc="upper left")
    return figure


@drawn
def scaling_comparison(rows: Sequence[Row]) -> Picture:
    """Draws scaling of single dimensions beside compound scaling, the paper's Figures 3 and 8.

    Args:
        rows: networks with `dimension` (such as `"depth"` or `"compound"`),
            `multiply_adds`, `accuracy`, and, where it is known, `spread`, drawn as error bars.
            The lines begin at the network of dimension `"base"`.
    """
    costs, accuracies = _numbers(rows, "multiply_adds") / 1e9, _shares(rows, "accuracy")
    spreads = _spreads(rows)
    groups = _groups(rows, "dimension")
    base = groups.pop("base", [])
    figure, axes = axes_of(6.6, 4.4)
    for index, (dimension, members) in enumerate(groups.items()):
        chosen = sorted([*base[:1], *members], key=lambda member: costs[member])
        axes.errorbar(
            costs[chosen],
            accuracies[chosen],
            spreads[chosen] if spreads.any() else None,
            marker=MARKERS[index],
            color=colours().series[index],
            label=dimension,
        )
    if base:
        ink = colours().ink
        axes.plot(costs[base], accuracies[base], "o", color=ink, zorder=4, label="base network")
    log_axis(axes, "x")
    percent_axis(axes, "y")
    axes.set_xlabel("Multiply-adds for one image, billions")
    axes.set_ylabel("Accuracy, %" + (" (bars: spread)" if spreads.any() else ""))
    axes.legend(title="scaled", loc="best", alignment="left")
    return figure


@drawn
def search_results(rows: Sequence[Row]) -> Picture:
    """Draws the candidates of a search for alpha, beta and gamma, and ranks the best.

    Args:
        rows: candidates with `alpha`, `beta`, `gamma`, `accuracy`, None for one that is not
            trained yet, and, where it is known, `spread`, drawn as error bars.
    """
    measured = [row for row in rows if row.get("accuracy") not in (None, "")]
    accuracies = _shares(measured, "accuracy")
    ranking = np.argsort(-accuracies, kind="stable")
    figure, (plane, ranks) = axes_of(9.6, 4.4, columns=2)

    waiting = [row for row in rows if row.get("accuracy") in (None, "")]
    if waiting:
        places = _numbers(waiting, "alpha"), _numbers(waiting, "beta")
        plane.scatter(*places, s=40, facecolors="none", edgecolors=colours().peers)
    alphas, betas = _numbers(measured, "alpha"), _numbers(measured, "beta")
    upwards = ranking[::-1]  # the best on top
    dots = plane.scatter(
        alphas[upwards],
        betas[upwards],
        c=accuracies[upwards],
        s=90,
        cmap="viridis",
        edgecolors=colours().muted,
        linewidths=0.8,
        zorder=3,
    )
    best, ring = ranking[0], colours().series[1]
    plane.scatter(alphas[best], betas[best], s=220, facecolors="none", edgecolors=ring, zorder=3)
    bar = figure.colorbar(dots, ax=plane, label="accuracy, %")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.solids.set_rasterized(True)  # pyright: ignore[reportOptionalMemberAccess]
    plane.set_title(
        "Candidates (ringed: the best" + ("; empty: not trained yet)" if waiting else ")")
    )
    plane.set_xlabel("α, growth of depth")
    plane.set_ylabel("β, growth of width")
    plane.margins(0.12)
    _rank(ranks, measured, accuracies, ranking[:RANKED_CANDIDATES])
    return figure


def _rank(axes: Axes, rows: Sequence[Row], accuracies: np.ndarray, chosen: np.ndarray) -> None:
    """Draws the accuracies of the chosen candidates, the first at the top."""
    names = []
    for index in chosen:
        alpha, beta, gamma = (float(rows[index][name]) for name in ("alpha", "beta", "gamma"))
        product = alpha * beta**2 * gamma**2
        names.append(f"{alpha:.2f}  {beta:.2f}  {gamma:.2f}   ({product:.2f})")
    spreads = _spreads(rows)
    axes.errorbar(
        accuracies[chosen],
        range(len(chosen)),
        xerr=spreads[chosen] if spreads.any() else None,
        linestyle="",
        marker="o",
        color=colours().series[0],
    )
    axes.set_yticks(range(len(chosen)), names)
    axes.invert_yaxis()
    axes.set_title(f"The best {len(chosen)}:  α  β  γ  (α·β²·γ²)")
    axes.set_xlabel("accuracy, %" + (" (bars: spread)" if spreads.any() else ""))
    percent_axis(axes, "x")
    axes.margins(x=0.08)


@drawn
def learning_curves(rows: Sequence[Row]) -> Picture:
    """Draws loss, accuracy and learning rate over the epochs of a run.

    Args:
        rows: what `training.fit` returns and `history.csv` contains: `epoch` with any of
            `loss`, `val_loss`, `accuracy`, `val_accuracy` and `learning_rate`; a line marks
            each change of `stage`.
    """
    epochs = _numbers(rows, "epoch")
    panels = [
        (title, names)
        for title, names in (
            ("Loss", ("loss", "val_loss")),
            ("Accuracy, %", ("accuracy", "val_accuracy")),
            ("Learning rate", ("learning_rate",)),
        )
        if any(name in rows[0] for name in names)
    ]
    if not panels:
        raise InputError("The rows have none of loss, accuracy and learning_rate to draw.")
    figure, all_axes = axes_of(3.5 * len(panels), 3.1, columns=len(panels))
    for axes, (title, names) in zip(np.atleast_1d(all_axes), panels, strict=True):
        for index, name in enumerate(names):
            if name not in rows[0]:
                continue
            values = (_shares if title.startswith("Accuracy") else _numbers)(rows, name)
            held_out = name.startswith("val_")
            axes.plot(
                epochs,
                values,
                color=colours().series[index],
                linestyle="-" if held_out or len(names) == 1 else "--",
                marker=MARKERS[index] if len(rows) <= 40 else None,
                markersize=3.5,
                label="held out" if held_out else "training",
            )
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(names) > 1:
            axes.legend(loc="best")
        else:
            axes.set_ylim(bottom=0)
        _mark_stages(axes, rows, epochs)
    return figure


@drawn
def learning_rate_schedule(rows: Sequence[Row]) -> Picture:
    """Draws the learning rate over a run.

    Args:
        rows: `epoch`, which may be a fraction, and `learning_rate`, in order; a line marks each
            change of `stage`. `training.learning_rates` returns those of a recipe.
    """
    epochs, rates = _numbers(rows, "epoch"), _numbers(rows, "learning_rate")
    figure, axes = axes_of(7, 3.4)
    axes.plot(epochs, rates, color=colours().series[0])
    peak = int(np.argmax(rates))
    axes.plot(epochs[peak], rates[peak], "o", color=colours().series[1])
    axes.annotate(
        f"{rates[peak]:.3g} in epoch {epochs[peak]:.3g}",
        (epochs[peak], rates[peak]),
        xytext=(8, 0),
        textcoords="offset points",
        verticalalignment="center",
    )
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate")
    axes.set_ylim(0, 1.1 * rates[peak])
    _mark_stages(axes, rows, epochs)
    return figure


def _mark_stages(axes: Axes, rows: Sequence[Row], epochs: np.ndarray) -> None:
    """Labels each stage and draws a line between stages, if there are several."""
    begins = [
        index
        for index, row in enumerate(rows)
        if not index or row.get("stage") != rows[index - 1].get("stage")
    ]
    for index in begins if len(begins) > 1 else ():
        place = epochs[index]
        if index:
            place = (epochs[index - 1] + place) / 2
            axes.axvline(place, color=colours().muted, linewidth=0.8, linestyle=":")
        axes.annotate(
            f" {rows[index]['stage']}",
            (place, 1),
            xycoords=("data", "axes fraction"),
            color=colours().muted,
            fontsize="small",
            verticalalignment="bottom",
        )
        axes.set_title(axes.get_title(loc="left"), pad=16)


@drawn
def augmentation_samples(
    originals: Sequence[np.ndarray], copies: Sequence[Sequence[np.ndarray]]
) -> Picture:
    """Draws images beside augmented copies of them, a row for each image.

    Args:
        originals: images `[height, width, 3]` with values in 0-255.
        copies: augmented copies of each, of any number. `data.augmented` returns both.
    """
    columns = 1 + max(len(row) for row in copies)
    figure, grid = image_grid(len(originals), columns, originals[0])
    for axes_row, original, row in zip(grid, originals, copies, strict=True):
        for axes, image in zip(axes_row, (original, *row), strict=False):
            axes.imshow(np.asarray(image, np.uint8))
    _head(grid[0][0], "original")
    _head(grid[0][1], "as in training")
    return figure


@drawn
def confusion_matrix(counts: np.ndarray, class_names: Sequence[str]) -> Picture:
    """Draws a confusion matrix, shaded by the share of the true class's images.

    Args:
        counts: images of each true class (row) by predicted class (column), `[classes, classes]`.
        class_names: in the order of rows and columns.
    """
    counts = np.asarray(counts)
    size = len(class_names)
    if counts.shape != (size, size):
        raise InputError(
            f"counts has shape {counts.shape}, but {size} class names need {(size, size)}."
        )
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = float(np.clip(0.42 * size, 2.2, 7))
    named = size <= NAMED_CLASSES
    figure, axes = axes_of(side + 1.6, side + 1.2)
    for row, column in np.argwhere(counts):
        share = shares[row, column]
        axes.add_patch(
            patches.Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                facecolor=colours().series[0],
                alpha=0.15 + 0.85 * float(share),
                linewidth=0,
            )
        )
        if size <= NUMBERED_CLASSES:
            axes.text(
                column,
                row,
                f"{counts[row, column]:g}",
                color=colours().on_series if share > 0.5 else colours().ink,
                fontsize="small",
                horizontalalignment="center",
                verticalalignment="center",
            )
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    axes.grid(visible=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    names = [_shortened(name) for name in class_names] if named else []
    places = range(size) if named else []
    long = max(map(len, names), default=0) > 3
    axes.set_xticks(places, names, rotation=90 if long else 0, fontsize="small", parse_math=False)
    axes.set_yticks(places, names, fontsize="small", parse_math=False)
    for edge in axes.spines.values():
        edge.set(visible=True, color=colours().grid)
    return figure


@drawn
def grad_cam(
    images: Sequence[np.ndarray],
    heatmaps: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
) -> Picture:
    """Draws images beside heatmaps of the evidence for a class, the paper's Figure 7.

    Args:
        images: `[height, width, 3]` with values in 0-255, a row for each.
        heatmaps: for each image, one for each title; see `explain.grad_cam`.
        titles: of the columns of heatmaps, such as the names of the networks.
    """
    figure, grid = image_grid(len(images), 1 + len(titles), images[0])
    for axes_row, image, row in zip(grid, images, heatmaps, strict=True):
        axes_row[0].imshow(np.asarray(image, np.uint8))
        for axes, heatmap in zip(axes_row[1:], row, strict=True):
            axes.imshow(overlay(image, heatmap))
    for axes, title in zip(grid[0], ("input", *titles), strict=True):
        _head(axes, title)
    return figure


def overlay(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Blends a heatmap over an image, which is turned grey where the heatmap is 0.

    Args:
        image: `[height, width, 3]` with values in 0-255.
        heatmap: `[height, width]` from 0 to 1.

    Returns:
        uint8 `[height, width, 3]`.
    """
    image = np.asarray(image, np.float32)
    if image.shape[:2] != heatmap.shape:
        raise InputError(
            f"A heatmap of shape {heatmap.shape} does not fit an image of {image.shape}."
        )
    # In grey, the image's own colours cannot be mistaken for the heatmap's.
    grey = np.repeat(image.mean(2, keepdims=True), 3, 2)
    heat = 255 * matplotlib.colormaps["inferno"](np.clip(heatmap, 0, 1))[..., :3]
    weight = 0.75 * np.clip(heatmap, 0, 1)[..., None] ** 0.7
    return np.rint((1 - weight) * grey + weight * heat).astype(np.uint8)


def _head(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize="small", fontweight="normal", parse_math=False)


def _shortened(name: str, length: int = 18) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _spreads(rows: Sequence[Row]) -> np.ndarray:
    """Returns the spreads in percent, 0 where they are not known."""
    return np.array([100 * float(row.get("spread") or 0) for row in rows])


def _groups(rows: Sequence[Row], column: str) -> dict[str, list[int]]:
    """Returns the indices of the rows of each group that the column names, in order."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if row.get(column):
            groups.setdefault(str(row[column]), []).append(index)
    if len([name for name in groups if name != "base"]) > len(MARKERS):
        raise InputError(
            f"The rows have {len(groups)} kinds of {column!r}; one picture can distinguish at "
            f"most {len(MARKERS)}."
        )
    return groups


def _numbers(rows: Sequence[Row], column: str) -> np.ndarray:
    """Returns one column as numbers.

    Raises:
        InputError: if there are no rows, or one has no number there.
    """
    if not rows:
        raise InputError("There are no rows to draw.")
    values = []
    for index, row in enumerate(rows):
        try:
            values.append(float(row[column]))
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"Row {index} has {column}={row.get(column)!r}, but must have a number there."
            ) from None
    return np.array(values)


def _shares(rows: Sequence[Row], column: str) -> np.ndarray:
    """Returns a column of shares in percent."""
    shares = _numbers(rows, column)
    for index, share in enumerate(shares):
        if not 0 <= share <= 1:
            raise InputError(
                f"Row {index} has {column}={share:g}, but must have a share from 0 to 1 there."
            )
    return 100 * shares
