"""The command line: parse, call one function, print. Heavy imports stay inside commands."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from keras_efficientnet._version import __version__
from keras_efficientnet.errors import InputError

BAD_INPUT = 2

# TensorFlow reads this when it is imported; its start-up notes are not for users.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main() -> None:
    """Entry point: any bad input becomes one sentence and exit code 2."""
    try:
        group.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        _fail("Interrupted.", 130)
    except click.ClickException as error:
        _fail(error.format_message(), BAD_INPUT)
    except InputError as error:
        _fail(str(error), BAD_INPUT)
    except OSError as error:
        if error.errno is None:  # not the system's, so not the user's to mend
            raise
        _fail(f"{error.strerror}: {error.filename or 'output'}.", BAD_INPUT)


def _fail(message: str, code: int) -> None:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="keras-efficientnet")
def group() -> None:
    """EfficientNet: train on images, check the result, take it to a phone.

    Start with `keras-efficientnet train`: it trains on handwritten digits in a few
    minutes and writes verified model files to saved_models/digits-b0.
    """


def _json_option(command: Callable) -> Callable:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document instead of a table."
    )(command)


def _data_options(flag: str, help_text: str, **settings: Any) -> Callable:
    """A data source with the split names that go with it, as one argument `load_data`."""

    def decorate(command: Callable) -> Callable:
        @click.option(flag, "source", help=help_text, **settings)
        @click.option("--train-split", help="With tfds: training split, such as 'train[:80%]'.")
        @click.option("--test-split", help="With tfds: held-out split.")
        @wraps(command)
        def with_data(source, train_split, test_split, **options):
            def load_data():
                from keras_efficientnet.data import sources

                return sources.load(source, train_split=train_split, test_split=test_split)

            return command(load_data=load_data if source else None, **options)

        return with_data

    return decorate


DATA_HELP = (
    "digits, folder:DIR (one folder of images for each class, with or without train/ and val/) "
    "or tfds:NAME."
)


@group.command()
@_data_options("--data", DATA_HELP, default="digits", show_default=True)
@click.option(
    "--model",
    "variant",
    default="B0",
    show_default=True,
    help="Variant, such as B3, Lite0 or V2-S.",
)
@click.option(
    "--image-size",
    type=int,
    help="Side of the input in pixels. [default: the data's or the variant's]",
)
@click.option("--epochs", type=int, help="Passes over the training images. [default: 22]")
@click.option("--batch-size", type=int, help="Images in a step. [default: 64]")
@click.option(
    "--learning-rate", type=float, help="Peak, at this batch size. [default: 0.008 for 256 images]"
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of weights, order and augmentation."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write. [default: saved_models/DATA-MODEL]",
)
@click.option("--weights", type=click.Path(), help="Published name or file to start from.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@_json_option
def train(
    load_data,
    variant,
    image_size,
    epochs,
    batch_size,
    learning_rate,
    seed,
    output,
    weights,
    overwrite,
    as_json,
):
    r"""Train a classifier; export and check it.

    Writes a .keras file, a SavedModel, a float and an int8 LiteRT file, labels, the
    training history and a report. Every file is reloaded in a fresh process and compared
    with the Keras model on all held-out images.

    \b
    Examples:
      keras-efficientnet train
      keras-efficientnet train --data folder:photos --model B3 --epochs 50
      keras-efficientnet train --data tfds:tf_flowers --image-size 128
    """
    from keras_efficientnet import scaling

    scaling.get_variant(variant)  # before the seconds that TensorFlow takes to load
    _import_tensorflow()
    from keras_efficientnet.training.recipes import REFERENCE_BATCH_SIZE, recipe
    from keras_efficientnet.training.run import train as run

    overrides: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    if learning_rate is not None:
        batch = recipe("small", **overrides).batch_size
        overrides["base_learning_rate"] = learning_rate * REFERENCE_BATCH_SIZE / batch
    report = run(
        load_data(),
        variant,
        training_recipe=recipe("small", **overrides),
        image_size=image_size,
        seed=seed,
        weights=weights,
        output=output,
        overwrite=overwrite,
    )
    if as_json:
        _print_json(report)
        return
    _print_artifacts(report)
    click.echo(f"Written to {report['output']} in {report['seconds']:.0f} s.")


@group.command()
@click.argument("model", type=click.Path(path_type=Path))
@_data_options("--data", DATA_HELP, required=True)
@_json_option
def evaluate(model, load_data, as_json):
    """Measure the accuracy of MODEL on held-out images.

    MODEL is a .keras file, a SavedModel folder or a .tflite file.
    """
    from keras_efficientnet.deploy.evaluation import evaluate as run

    result = run(_open_model(model), load_data())
    if as_json:
        _print_json(result)
        return
    table = _table("class", "images", "accuracy")
    for name, row in result["classes"].items():
        table.add_row(name, str(row["images"]), _percent(row["accuracy"]))
    table.add_section()
    table.add_row("all", str(result["images"]), _percent(result["accuracy"]))
    _print_table(table)


@group.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Classes to show for each image.",
)
@_json_option
def predict(model, images, top, as_json):
    """Classify IMAGES with MODEL.

    MODEL is a .keras file, a SavedModel folder or a .tflite file; class names and image
    size come from the file itself.
    """
    predictor = _open_model(model)
    results, errors = [], []
    for image in images:
        try:
            classes = predictor.classify(image, top)
        except InputError as error:  # the other images still get their answer
            errors.append(str(error))
            continue
        results.append(
            {
                "file": str(image),
                "top": [{"label": name, "score": score} for name, score in classes],
            }
        )
    if as_json:
        _print_json(results)
    elif results:
        table = _table("image", "class", "score")
        for result in results:
            for rank, row in enumerate(result["top"]):
                table.add_row("" if rank else result["file"], row["label"], _percent(row["score"]))
            table.add_section()
        _print_table(table)
    if errors:
        raise InputError(" ".join(errors))


@group.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["savedmodel", "tflite"]),
    default="tflite",
    show_default=True,
)
@click.option(
    "--quantize",
    type=click.Choice(["float32", "float16", "dynamic", "int8"]),
    default="float32",
    show_default=True,
    help="Of a tflite file; int8 needs --calibration.",
)
@_data_options("--calibration", f"Training data for the ranges of int8: {DATA_HELP}")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder to write into. [default: the model's]"
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@_json_option
def export(model, file_format, quantize, load_data, output, overwrite, as_json):
    r"""Convert MODEL, a .keras file or a SavedModel folder, and check the result.

    Writes saved_model/ or model_QUANTIZE.tflite. The result is reloaded in a fresh process
    and compared with MODEL, on the held-out images of --calibration where it is given and
    on random pixels where it is not.

    \b
    Examples:
      keras-efficientnet export model.keras
      keras-efficientnet export model.keras --quantize int8 --calibration folder:photos
    """
    _import_tensorflow()
    from keras_efficientnet.deploy.convert import convert

    report = convert(
        model,
        file_format,
        quantize,
        load_data() if load_data else None,
        output=output,
        overwrite=overwrite,
    )
    if as_json:
        _print_json(report)
        return
    _print_artifacts(report)
    click.echo(f"Written to {report['output']}.")


@group.command()
@click.argument("variant")
@click.option(
    "--image-size", type=int, help="Side of the input in pixels. [default: the variant's]"
)
@click.option(
    "--classes", type=int, default=1000, show_default=True, help="Outputs of the classifier."
)
@_json_option
def info(variant, image_size, classes, as_json):
    """Show the blocks, parameters and multiply-adds of VARIANT, such as B0."""
    from keras_efficientnet import cost, scaling

    spec = scaling.get_variant(variant)
    total = cost.cost(spec, image_size=image_size, classes=classes)
    blocks = {block.name: block for block in scaling.expand_blocks(spec)}
    if as_json:
        _print_json(_info_document(spec, total, blocks))
        return
    table = _table("part", "block", "kernel", "stride", "SE", "output", "params", "M MACs")
    for part in total.parts:
        block = blocks.get(part.name)
        described = (
            (block.kind, str(block.kernel_size), str(block.stride), str(block.se_filters or "-"))
            if block
            else ("", "", "", "")
        )
        shape = "x".join(str(size) for size in part.output_shape)
        table.add_row(
            part.name,
            *described,
            shape,
            f"{part.parameters:,}",
            f"{part.multiply_adds / 1e6:,.1f}",
        )
    _print_table(table)
    click.echo(
        f"EfficientNet-{spec.name} at {total.image_size} px: "
        f"{total.trainable:,} trainable of {total.parameters:,} parameters, "
        f"{total.multiply_adds / 1e9:.3f} G multiply-adds "
        f"(MACs), width x{spec.width:g}, depth x{spec.depth:g}, dropout {spec.dropout_rate:g}."
    )


def _import_tensorflow() -> None:
    """Imports TensorFlow without its start-up notes."""
    from keras_efficientnet.quiet import silenced

    with silenced():
        import tensorflow  # noqa: F401


def _open_model(path: Path):
    from keras_efficientnet.deploy.predictor import Predictor
    from keras_efficientnet.quiet import silenced

    with silenced():
        return Predictor(path)


def _info_document(spec, total, blocks) -> dict[str, Any]:
    return {
        "variant": spec.name,
        "image_size": total.image_size,
        "width": spec.width,
        "depth": spec.depth,
        "dropout_rate": spec.dropout_rate,
        "trainable": total.trainable,
        "parameters": total.parameters,
        "multiply_adds": total.multiply_adds,
        "activations": total.activations,
        "parts": [
            {
                **dataclasses.asdict(part),
                **({"block": dataclasses.asdict(blocks[part.name])} if part.name in blocks else {}),
            }
            for part in total.parts
        ],
    }


def _print_artifacts(report: dict[str, Any]) -> None:
    """One row for each file: what it is worth, how near to the original, how large."""
    accuracy = report.get("test_accuracy", {})
    table = _table("file", "accuracy", "agreement", "max difference", "size")
    for (name, agreement), (file, size) in zip(
        report["agreement"].items(), report["files"].items(), strict=True
    ):
        table.add_row(
            file,
            _percent(accuracy[name]) if name in accuracy else "-",
            _percent(agreement),
            f"{report['max_abs_difference'][name]:.1e}",
            f"{size / 1e6:.1f} MB",
        )
    _print_table(table)


def _table(*columns: str):
    from rich.table import Table

    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index > 0)
    return table


def _print_table(table) -> None:
    from rich.console import Console

    Console().print(table)


@group.group()
def weights() -> None:
    """Find, look into and convert pretrained weights."""


@weights.command("list")
@click.argument("variant", required=False)
@_json_option
def list_weights(variant, as_json):
    """List the published weights, of VARIANT or of all variants.

    A name goes with its variant: EfficientNetB0(weights="noisy-student").
    """
    from keras_efficientnet import scaling
    from keras_efficientnet.weights import registry

    wanted = scaling.get_variant(variant).name if variant else None
    entries = [entry for entry in registry.table() if wanted in (None, entry.variant)]
    if as_json:
        _print_json([dataclasses.asdict(entry) for entry in entries])
        return
    table = _table("variant", "name", "top-1 %", "classes", "padding", "source")
    for entry in entries:
        top1 = f"{entry.top1:.1f}" if entry.top1 else "-"
        table.add_row(
            entry.variant, entry.name, top1, str(entry.classes), entry.padding, entry.source
        )
    _print_table(table)


@weights.command()
@click.argument("file", type=click.Path())
@_json_option
def inspect(file, as_json):
    """Say what weight file FILE holds, without building a network."""
    _import_tensorflow()
    from keras_efficientnet.weights import inspect as look

    found = look(file)
    if as_json:
        _print_json(dataclasses.asdict(found))
        return
    fit = "fits" if found.fits else "is nearest to"
    click.echo(f"{found.path}: {found.layout}, {len(found.tensors)} tensors")
    click.echo(f"{fit} EfficientNet-{found.variant}, {found.channels} channels in")
    click.echo(f"classes: {found.classes or 'no classifier'}")
    for title, names in (("missing", found.missing), ("unknown", found.unknown)):
        for name in names:
            click.echo(f"{title}: {name}")


@weights.command()
@click.argument("file", type=click.Path())
@click.option("--model", "variant", required=True, help="Variant that the weights are of.")
@click.option(
    "--output", type=click.Path(), required=True, help="File ending in .weights.h5 or .keras."
)
@click.option(
    "--padding",
    type=click.Choice(["same", "symmetric"]),
    help="For PyTorch files that do not say which they were trained with.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@_json_option
def convert(file, variant, output, padding, overwrite, as_json):
    """Turn weight file FILE, of any layout, into one that Keras loads."""
    _import_tensorflow()
    from keras_efficientnet.weights import convert as run

    report = run(file, variant, output, overwrite=overwrite, padding=padding)
    if as_json:
        _print_json({**dataclasses.asdict(report), "output": output})
        return
    click.echo(str(report))
    click.echo(f"Written to {output}.")


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
