"""Rows of studies as tables, files and pictures: what `scale` and `compare` share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from keras_efficientnet.cli.common import (
    PATH,
    count,
    json_option,
    narrow_table,
    percent,
    print_json,
    print_table,
)
from keras_efficientnet.cli.plot import SUFFIXES, check_suffix, write_picture

Row = Mapping[str, Any]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio >= 1 else f"{ratio:.2f}x"


def gain(difference: Row) -> str:
    """Writes a difference of accuracies with its standard error."""
    error = difference["standard_error"]
    spread = "" if error is None else f" ± {100 * error:.1f}"
    return f"{100 * difference['mean']:+.1f}{spread} points"


# Heading and text of a field, where they are not its name and a plain number. A column without
# a heading adds to the one before it.
_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "variant": ("", str),
    "network": ("", str),
    "dimension": ("", str),
    "change": ("change", str),
    "resolution": ("resol.", _number),
    "image_size": ("px", _number),
    "trainable": ("params", count),
    "paper_parameters": ("paper\nM", lambda value: f"{value / 1e6:g}"),
    "parameters_agree": ("", {True: "", False: "*"}.__getitem__),
    "multiply_adds": ("MACs", count),
    "paper_multiply_adds": ("paper\nG", lambda value: f"{value / 1e9:g}"),
    "multiply_adds_agree": ("", {True: "", False: "*"}.__getitem__),
    "ratio": ("MACs\nratio", _number),
    "budget_ratio": ("budget\nratio", _number),
    "top1": ("top-1 %", lambda by_source: " / ".join(f"{v:.1f}" for v in by_source.values())),
    "paper_top1": ("paper\ntop-1", "{:.1f}".format),
    "accuracy": ("accuracy", percent),
    "spread": ("", lambda value: f"± {100 * value:.1f}"),
    "against_base": ("against base", gain),
    "time": ("time", "{:.2f}x".format),
    "latency_ms": ("latency\nms", "{:.1f}".format),
    "peak_memory": ("memory\nMB", lambda value: f"{value / 1e6:.0f}"),
    "file_size": ("file\nMB", lambda value: f"{value / 1e6:.1f}"),
    "baseline": ("for", str),
    "fewer_multiply_adds": ("MACs", _times),
    "paper_fewer_multiply_adds": ("printed", _times),
    "fewer_parameters": ("params", _times),
    "top1_gain": ("top-1", "{:+.1f}".format),
    "holds": ("", {True: "yes", False: "no"}.__getitem__),
}


def print_rows(rows: Sequence[Row], *fields: str) -> None:
    """Prints some fields of rows as a table, without those that no row has."""
    columns = [
        (field, *_COLUMNS.get(field, (field, _number)))
        for field in fields
        if any(row.get(field) not in (None, {}) for row in rows)
    ]
    shown = narrow_table(*(heading for _, heading, _ in columns))
    for row in rows:
        shown.add_row(
            *(
                text(row[field]) if row.get(field) not in (None, {}) else "-" if heading else ""
                for field, heading, text in columns
            )
        )
    print_table(shown)


def print_sources(rows: Sequence[Row]) -> None:
    """Says where the accuracies of a table come from, in the order in which they are printed."""
    by_sources: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        name = row.get("variant") or row["network"]
        by_sources.setdefault(tuple(row["top1"]), []).append(name)
    for sources, names in by_sources.items():
        if sources:
            click.echo(f"Top-1 of {', '.join(names)}: {' / '.join(sources)}.")


def print_plan(plan) -> None:
    """Says how the networks of a table were trained."""
    click.echo(
        f"{len(plan.data.train):,} training and {len(plan.data.test):,} held-out images of "
        f"{plan.data.name}, {plan.recipe.epochs} epochs, {plan.seeds} "
        f"seed{'s' if plan.seeds > 1 else ''}; chance is {percent(1 / plan.classes)}. "
        f"Accuracy ± standard deviation over the seeds, differences ± standard error of the "
        f"mean, seed by seed. Results in {plan.results}."
    )


@dataclass(frozen=True)
class Output:
    """Where rows go besides the terminal, and in which form.

    Attributes:
        csv_file: of the rows.
        picture: of the accuracies.
        as_json: print one document in place of a table.
    """

    csv_file: Path | None
    picture: Path | None
    as_json: bool

    def check_picture(self, trained: bool) -> None:
        """Refuses, before anything is trained, a picture that could not be drawn after it."""
        if self.picture:
            check_suffix("--plot", self.picture)
            if not trained:
                raise click.UsageError("--plot draws accuracies, and needs --data or --small.")

    def write(self, rows: Sequence[Row], document: Any = None, draw: str = "") -> bool:
        """Writes rows where they are wanted; returns whether no table is to be printed.

        Args:
            rows: of a study.
            document: what `--json` prints; the rows if None.
            draw: the function of `plots` that draws the picture.
        """
        if self.picture:
            from keras_efficientnet import plots
            from keras_efficientnet.files import atomic_write

            with atomic_write(self.picture, overwrite=True) as path:
                write_picture(path, lambda: getattr(plots, draw)(rows))
        if self.csv_file:
            from keras_efficientnet.study import write_rows

            write_rows(self.csv_file, rows)
        if self.as_json:
            print_json(document or rows)
        return self.as_json


def output_options(command: Callable) -> Callable:
    """Adds `--csv` and `--json`, and takes `plot_option`'s value, as one argument `output`."""

    @click.option(
        "--csv",
        "csv_file",
        type=PATH,
        help="Write the rows to this file too.",
    )
    @json_option
    @wraps(command)
    def with_output(csv_file, as_json, picture=None, **options):
        return command(output=Output(csv_file, picture, as_json), **options)

    return with_output


plot_option = click.option(
    "--plot",
    "picture",
    type=PATH,
    help=f"Draw the accuracies to this file too: {', '.join(SUFFIXES)}.",
)
