"""`keras-efficientnet export`."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_efficientnet.cli.common import (
    DATA_HELP,
    PATH,
    data_options,
    image_size_option,
    import_tensorflow,
    json_option,
    model_file,
    percent,
    print_files,
    print_json,
)
from keras_efficientnet.errors import InputError, reason

if TYPE_CHECKING:
    from keras_efficientnet.deploy.export_report import ExportedFile, ExportReport, Int8Report


@click.command()
@click.argument("model", type=PATH)
@click.option(
    "--format",
    "formats",
    type=click.Choice(["keras", "saved_model", "tflite", "onnx"]),
    multiple=True,
    default=["tflite"],
    help="Repeatable. [default: tflite]",
)
@click.option(
    "--quantize",
    type=click.Choice(["float32", "float16", "dynamic", "weight8", "int8", "int16x8"]),
    multiple=True,
    help="Of tflite files, repeatable; int8 and int16x8 need --calibration. [default: float32]",
)
@data_options(
    "--calibration",
    f"Training data for the ranges of int8 and int16x8, and to compare the files on: {DATA_HELP}",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    default=0.97,
    show_default=True,
    help="Share of held-out images on which a quantized file must decide as MODEL does.",
)
@click.option(
    "--strict-gate",
    is_flag=True,
    help="Let the lower end of that share's 95 % interval decide.",
)
@click.option(
    "--qat-epochs",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Passes over training images that fine-tune MODEL for int8, without labels.",
)
@click.option("--dynamic-batch", is_flag=True, help="Take any number of images at once, not one.")
@image_size_option
@click.option(
    "--labels",
    type=PATH,
    help="Text file of the class names, one a line. [default: the model's own]",
)
@click.option("--description", "summary", help="A sentence for the files' metadata.")
@click.option("--author", help="Likewise.")
@click.option("--license", help="Likewise, such as Apache-2.0.")
@click.option(
    "--output",
    type=PATH,
    help="Folder to write into. [default: that of MODEL; of published weights, this one]",
)
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@json_option
def export(model, formats, quantize, load_data, labels, output, as_json, **settings):
    """Convert MODEL, a .keras or .h5 file or a SavedModel folder, and check every result.

    Or MODEL is the name of published weights, such as imagenet:Lite2, see predict.

    Writes model.keras, saved_model/, model_QUANTIZE.tflite and model.onnx, as asked for, and
    a model card. Each is reloaded by a fresh interpreter and compared with MODEL before it is
    put in place: on the held-out images of --calibration where it is given, and on random
    pixels where it is not. .tflite files have built-in operators only and standard metadata.

    \b
    Examples:
      keras-efficientnet export model.keras
      keras-efficientnet export model.keras --quantize float16 --quantize int8 \\
          --calibration folder:photos
      keras-efficientnet export model.keras --format saved_model --format onnx
      keras-efficientnet export imagenet:Lite2 --output phone
    """
    if quantize and "tflite" not in formats:
        raise InputError("--quantize goes with --format tflite.")
    # The converters are TensorFlow's, whatever backend has trained.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import_tensorflow()
    from keras_efficientnet.deploy.export_options import ExportOptions
    from keras_efficientnet.deploy.export_report import ExportError
    from keras_efficientnet.deploy.exporting import export as run

    named = ("image_size", "summary", "author", "license")
    description = {name: settings[name] for name in named if settings[name] is not None}
    if labels is not None:
        description["class_names"] = _class_names(labels)
    asked = ("min_agreement", "strict_gate", "qat_epochs", "dynamic_batch")
    failure = None
    try:
        report = run(
            model_file(model),
            output or model.absolute().parent,
            formats,
            quantize or "float32",
            load_data,
            description=description,
            options=ExportOptions(**{name: settings[name] for name in asked}),
            overwrite=settings["overwrite"],
        )
    except ExportError as error:
        report, failure = error.report, error
    if as_json:
        print_json(asdict(report))
    elif report.files:
        _print(model, report)
    if failure:
        click.echo(f"Error: {' '.join(str(failure).split())}", err=True)
        sys.exit(1)


def _print(model: Path, report: "ExportReport") -> None:
    for file in report.files:
        if file.int8 and file.int8.disappointment:
            click.echo(file.int8.disappointment)
    print_files(report)
    if report.source_accuracy is not None:
        click.echo(
            f"{model.name} itself: {percent(report.source_accuracy)} right, of "
            f"{report.reported_images} images; accuracy is that on them."
        )
    click.echo(f"Compared on {report.images} {report.compared_on}.")
    for file in report.files:
        if file.number_format != "float32":
            _print_certainty(file)
    for file in report.files:
        if file.int8:
            _print_int8(file.int8)
    for file in report.files:
        if file.operators:
            counts = ", ".join(f"{count} {name}" for name, count in file.operators.items())
            click.echo(f"Operators of {file.name}: {counts}.")
    click.echo(f"Written to {report.directory}.")


def _print_certainty(file: "ExportedFile") -> None:
    """Says how sure the figures of a quantized file are."""
    if (agreement := file.agreement_interval) is None:
        return
    line = f"{file.name}: agreement {percent(agreement.low)} to {percent(agreement.high)}"
    if (change := file.accuracy_change) is not None:
        low, high = (100 * end for end in (change.interval.low, change.interval.high))
        line += (
            f", accuracy {100 * change.difference:+.1f} points ({low:+.1f} to {high:+.1f}; "
            f"McNemar's p = {change.p_value:.2f})"
        )
    if file.unjudged_classes:
        line += f", {file.unjudged_classes} classes with too few images for a verdict"
    click.echo(f"{line}.")


def _print_int8(report: "Int8Report") -> None:
    """Says what int8 took, a line for each step."""
    size, latency = percent(report.size), percent(report.latency)
    click.echo(f"int8 has {size} of the float32 file's size and {latency} of its latency.")
    for swish in report.equalized:
        click.echo(f"  {swish.layer}: channels equalized, {swish.gain:+.1f} dB.")
    for part in report.float_parts:
        click.echo(
            f"  {part.part} stays in float32: {part.gain:+.1f} dB, {part.size / 1e3:+.0f} kB, "
            f"latency x{part.latency:.2f}."
        )


def _class_names(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels {str(path)!r} cannot be read: {reason(error)}.") from None
    return tuple(text.removesuffix("\n").split("\n"))
