"""What the commands share: options, loading and printing."""

import json
import math
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_efficientnet.errors import InputError

if TYPE_CHECKING:
    from keras_efficientnet.deploy.export_report import ExportReport


# Of a table in a file or pipe, in characters.
MAX_WIDTH = 100_000


class _UserPath(click.Path):
    """A path that may begin with a tilde, which shells leave in `--option=~/folder`."""

    def convert(self, value, param, ctx):
        return super().convert(os.path.expanduser(value), param, ctx)


PATH, PATH_OR_NAME = _UserPath(path_type=Path), _UserPath()
# Options of a data source by the names that `data.load` knows them by, except `strict`.
_READING = (
    "train_split",
    "test_split",
    "holdout",
    "classes_are_folders",
    "group_by",
    "pixel_range",
)


def json_option(command: Callable) -> Callable:
    """Adds `--json`, as the argument `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document instead of a table."
    )(command)


class _PixelRange(click.ParamType):
    """Two numbers with a colon between them."""

    name = "LOW:HIGH"

    def convert(self, value, param, ctx):
        try:
            low, high = map(float, value.split(":"))
        except ValueError:
            self.fail(f"{value!r} must be LOW:HIGH, such as 0:4095.", param, ctx)
        return low, high


pixel_range_option = click.option(
    "--pixel-range",
    type=_PixelRange(),
    help="Values that become black and white in images of more than 8 bits, such as 0:4095.",
)


def data_options(flag: str, help_text: str, **settings: Any) -> Callable:
    """Adds the options of a data source, as one argument `load_data`.

    It loads the data and prints their summary to standard error; None without a source. A function
    may be passed to it that loads them in another way than `data.load`, by the same options. A flag
    without a dash stands for an argument of the command.
    """
    if flag.startswith("-"):
        source_parameter = click.option(flag, "source", help=help_text, **settings)
    else:
        source_parameter = click.argument("source", metavar=flag, **settings)

    def decorate(command: Callable) -> Callable:
        @source_parameter
        @click.option("--train-split", help="With tfds: training split, such as 'train[:80%]'.")
        @click.option("--test-split", help="With tfds: held-out split.")
        @click.option(
            "--strict-data",
            is_flag=True,
            help="Fail on an image that cannot be decoded instead of leaving it out.",
        )
        @click.option(
            "--holdout",
            type=float,
            help="Share of each class to hold out where the data have no held-out split. "
            "[default: 0.2]",
        )
        @click.option(
            "--group-by",
            metavar="parent|REGEX",
            help="With folder: and csv: keep images of one parent folder, or of one match of this "
            "in their paths, on one side of every split.",
        )
        @click.option(
            "--classes-are-folders",
            is_flag=True,
            help="With folder: take folders called train, test and the like for classes.",
        )
        @pixel_range_option
        @wraps(command)
        def with_data(source, strict_data, **options):
            given = {name: options.pop(name) for name in _READING}
            reading = {name: value for name, value in given.items() if value is not None}

            def load_data(load=None):
                from keras_efficientnet.data import sources

                data = (load or sources.load)(source, strict=strict_data, **reading)
                click.echo(data.summary.describe(), err=True)
                return data

            return command(load_data=load_data if source else None, **options)

        return with_data

    return decorate


DATA_HELP = (
    "digits, folder:DIR (one folder of images for each class, with or without train/ and val/), "
    "csv:FILE (columns path and label), tfds:NAME, tfrecord:PATTERN or parquet:PATTERN."
)


def import_tensorflow() -> None:
    """Imports TensorFlow without its start-up notes."""
    from keras_efficientnet.native_logs import suppress_native_logs

    with suppress_native_logs():
        import tensorflow  # noqa: F401


def trust_option(command: Callable) -> Callable:
    """Adds `--trust`, as the argument `trust`."""
    return click.option(
        "--trust",
        is_flag=True,
        help="Open a .tflite MODEL that has not run here before without trying it in a child "
        "process first.",
    )(command)


def open_model(
    model: Path,
    threads: int | None = None,
    *,
    image_size: int | None = None,
    trust: bool = False,
):
    """Opens a model file, or published weights by their name, without TensorFlow's start-up notes.

    Args:
        model: path of a file or SavedModel folder, or a name as `weights.find_pretrained` takes.
        threads: see `Predictor`.
        image_size: see `Predictor`.
        trust: see `Predictor`.
    """
    from keras_efficientnet.native_logs import suppress_native_logs

    model = model_file(model)
    with suppress_native_logs():
        from keras_efficientnet.deploy.predictor import Predictor

        return Predictor(model, threads, image_size=image_size, trust=trust)


def model_file(model: Path) -> Path:
    """Returns the path of a model file, which published weights become by their name."""
    from keras_efficientnet.native_logs import suppress_native_logs

    if model.exists():  # a LiteRT file needs no TensorFlow, whose import takes seconds
        return model
    with suppress_native_logs():
        from keras_efficientnet.weights import is_pretrained, pretrained_file

        return pretrained_file(str(model)) if is_pretrained(str(model)) else model


def image_size_option(command: Callable) -> Callable:
    """Adds `--image-size`."""
    return click.option(
        "--image-size", type=int, help="Side of the input in pixels, of a model that takes any."
    )(command)


def print_files(report: "ExportReport") -> None:
    """Prints accuracy, agreement with the model, size and latency of each exported file."""
    rows = table("file", "accuracy", "agreement", "max difference", "size", "one image")
    for file in report.files:
        rows.add_row(
            file.name,
            *(
                "-" if share is None else percent(share)
                for share in (file.accuracy, file.agreement)
            ),
            f"{file.max_abs_difference:.1e}",
            f"{file.size / 1e6:.1f} MB",
            "-" if file.latency_ms is None else f"{file.latency_ms:.3g} ms",
        )
    print_table(rows)


def table(*columns: str):
    """Makes a table with a left-aligned first column and right-aligned others."""
    from rich.table import Table

    rows = Table()
    for index, column in enumerate(columns):
        rows.add_column(column, justify="left" if index == 0 else "right", no_wrap=index > 0)
    return rows


def narrow_table(*columns: str):
    """Makes a table with one space between its columns, so that many fit."""
    from rich import box

    rows = table(*columns)
    rows.box, rows.padding, rows.columns[0].no_wrap = box.SIMPLE_HEAD, (0, 0), True
    return rows


def print_table(rows) -> None:
    """Prints a table as wide as the terminal; elsewhere, as wide as its content."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else MAX_WIDTH).print(rows)


def print_json(document: Any) -> None:
    """Prints a document for scripts; what the output's encoding lacks is escaped."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    click.echo(json.dumps(document, indent=1, ensure_ascii=not is_unicode))


def count(number: float) -> str:
    """Writes a number in thousands, millions or billions, with three digits."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * unit:
            digits = max(0, 2 - int(math.log10(number / unit)))
            return f"{number / unit:.{digits}f} {name}"
    return f"{number:.0f}"


def percent(share: float) -> str:
    """Writes a share of 1 as a percentage."""
    return f"{100 * share:.1f} %"


def setting(text: str) -> tuple[str, Any]:
    """Splits NAME=VALUE; VALUE becomes an integer, float or None where it reads as one."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InputError(f"--set {text!r} must be NAME=VALUE, such as policy=rand.")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, None if value == "none" else value
