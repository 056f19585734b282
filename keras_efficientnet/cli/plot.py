"""`keras-efficientnet plot`: plots of networks, recipes, data and runs."""

import csv
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from keras_efficientnet.cli.common import (
    DATA_HELP,
    PATH,
    data_options,
    import_tensorflow,
    json_option,
    print_json,
)
from keras_efficientnet.errors import InputError

SUFFIXES = (".svg", ".png", ".pdf")


@click.group()
def plot() -> None:
    r"""Plot the family, a recipe, augmented images, or a run.

    An .svg file follows the reader's light or dark colour scheme.

    \b
    Examples:
      keras-efficientnet plot family
      keras-efficientnet plot history saved_models/digits-b0 --output curves.png
    """


def check_suffix(option: str, path: Path) -> None:
    """Refuses a file name that does not end as a picture's.

    Raises:
        InputError: if so.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{option} {str(path)!r} must end in {', '.join(SUFFIXES)}.")


def write_picture(path: Path, draw: Callable, mode: str = "light") -> None:
    """Draws for light or dark pages, and writes the format that the suffix names."""
    from keras_efficientnet import plots

    with plots.theme(mode):
        figure = draw()
    if path.suffix == ".svg":
        path.write_text(plots.to_svg(figure), encoding="utf-8")
    else:
        figure.savefig(path, dpi=150)


def picture(command: Callable) -> Callable:
    """Makes a command of `plot` from a function that returns rows and a function that draws them.

    `--json` prints the rows.
    """

    @plot.command(help=command.__doc__)
    @click.option(
        "--output",
        type=PATH,
        help=f"File to write: {', '.join(SUFFIXES)}. [default: NAME.svg]",
    )
    @click.option("--dark", is_flag=True, help="Draw for dark pages.")
    @click.option("--overwrite", is_flag=True, help="Replace an existing output.")
    @json_option
    @wraps(command)
    def draw(output, dark, overwrite, as_json, **options):
        output = output or Path(f"{command.__name__.rstrip('_')}.svg")
        check_suffix("--output", output)
        from keras_efficientnet.files import atomic_write

        with atomic_write(output, overwrite) as path:
            rows, function = command(**options)
            write_picture(path, function, "dark" if dark else "light")
        if as_json:
            print_json({"output": str(output), "rows": rows})
        else:
            click.echo(f"Written to {output}.")

    return draw


@picture
@click.option(
    "--against",
    type=click.Choice(["parameters", "multiply-adds"]),
    default="parameters",
    show_default=True,
    help="What accuracy is plotted against.",
)
def family(against):
    """Size or cost against accuracy on ImageNet: the family and others, as published."""
    from keras_efficientnet import plots, study

    rows = study.published_networks()
    draw = plots.size_against_accuracy if against == "parameters" else plots.cost_against_accuracy
    return rows, lambda: draw(rows)


@picture
def scaling():
    """Depth, width, resolution and cost against the compound coefficient."""
    from keras_efficientnet import plots, study

    rows = study.compound_scales()
    return rows, lambda: plots.scaling_curves(rows)


@picture
@click.option("--recipe", "recipe_name", default="paper", show_default=True)
@click.option("--epochs", type=int, help="[default: the recipe's]")
@click.option("--batch-size", type=int, help="[default: the recipe's]")
def schedule(recipe_name, epochs, batch_size):
    """The learning rate of a recipe over its epochs."""
    import_tensorflow()
    from keras_efficientnet import plots
    from keras_efficientnet.training import learning_rates, recipe

    given = {"epochs": epochs, "batch_size": batch_size}
    chosen = recipe(recipe_name, **{name: n for name, n in given.items() if n is not None})
    rows = learning_rates(chosen)
    return rows, lambda: plots.learning_rate_schedule(rows)


@picture
@data_options("--data", DATA_HELP, default="digits", show_default=True)
@click.option("--recipe", "recipe_name", default="paper", show_default=True)
@click.option("--model", "variant", default="B0", show_default=True, help="Sets the magnitude.")
@click.option("--image-size", type=int, help="In pixels. [default: the data's or the variant's]")
@click.option("--seed", type=int, default=0, show_default=True)
def augmentation(load_data, recipe_name, variant, image_size, seed):
    """Training images beside copies augmented as a recipe does."""
    from keras_efficientnet import plots, scaling

    size = image_size or scaling.get_variant(variant).resolution
    import_tensorflow()
    from keras_efficientnet.data import augmented
    from keras_efficientnet.training import recipe

    used = recipe(recipe_name, variant).augmentation
    data = load_data()
    originals, copies = augmented(data, image_size or data.image_size or size, used, seed=seed)
    return vars(used), lambda: plots.augmentation_samples(originals, copies)


@picture
@click.argument("run", type=PATH)
def history(run):
    """The learning curves of RUN, a folder written by train."""
    from keras_efficientnet import plots

    rows = _read(run / "history.csv")
    return rows, lambda: plots.learning_curves(rows)


@picture
@click.argument("file", type=PATH)
def search(file):
    """Candidates for alpha, beta and gamma in FILE, a CSV file with their accuracies."""
    from keras_efficientnet import plots

    rows = _read(file)
    return rows, lambda: plots.search_results(rows)


@picture
@click.argument("file", type=PATH)
def comparison(file):
    """Scaling of single dimensions beside compound scaling in FILE, a CSV file of accuracies."""
    from keras_efficientnet import plots

    rows = _read(file)
    return rows, lambda: plots.scaling_comparison(rows)


def _read(path: Path) -> list[dict[str, Any]]:
    """Reads a CSV file.

    Raises:
        InputError: if it cannot be read, or has no rows.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or "it is not a CSV file"
        raise InputError(f"{str(path)!r} cannot be read: {why}.") from error
    if not rows:
        raise InputError(f"{str(path)!r} has no rows.")
    return rows
