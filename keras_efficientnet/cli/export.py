"""`keras-efficientnet export`."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from keras_efficientnet.cli.common import (
    DATA_HELP,
    data_options,
    import_tensorflow,
    json_option,
    percent,
    print_artifacts,
    print_json,
)
from keras_efficientnet.errors import InputError, reason


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
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
    type=click.Choice(["float32", "float16", "dynamic", "int8", "int16x8"]),
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
    help="Share of held-out images on which int8 must name the same class as MODEL.",
)
@click.option(
    "--qat-epochs",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Passes over the training images that fine-tune MODEL for int8, without labels.",
)
@click.option("--dynamic-batch", is_flag=True, help="Take any number of images at once, not one.")
@click.option(
    "--image-size", type=int, help="Side of the input in pixels, of a model that takes any."
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="Text file of the class names, one a line. [default: the model's own]",
)
@click.option("--description", help="A sentence for the files' metadata.")
@click.option("--author", help="Likewise.")
@click.option("--license", help="Likewise, such as Apache-2.0.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder to write into. [default: the model's]"
)
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@json_option
def export(
    model,
    formats,
    quantize,
    load_data,
    min_agreement,
    qat_epochs,
    dynamic_batch,
    image_size,
    labels,
    output,
    overwrite,
    as_json,
    **texts,
):
    """Convert MODEL, a .keras file or a SavedModel folder, and check every result.

    Writes model.keras, saved_model/, model_QUANTIZE.tflite and model.onnx, as asked for, and
    a model card. Each is reloaded in a fresh process and compared with MODEL before it is
    put in place: on the held-out images of --calibration where it is given, and on random
    pixels where it is not. .tflite files hold built-in operators only and standard metadata.

    \b
    Examples:
      keras-efficientnet export model.keras
      keras-efficientnet export model.keras --quantize float16 --quantize int8 \\
          --calibration folder:photos
      keras-efficientnet export model.keras --format saved_model --format onnx
    """
    if quantize and "tflite" not in formats:
        raise InputError("--quantize goes with --format tflite.")
    # The converters are TensorFlow's, whatever backend has trained.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import_tensorflow()
    from keras_efficientnet.deploy.exporting import ExportError
    from keras_efficientnet.deploy.exporting import export as run
    from keras_efficientnet.deploy.int8_search import Int8Options

    description: dict[str, Any] = {name: text for name, text in texts.items() if text is not None}
    if image_size is not None:
        description["image_size"] = image_size
    if labels is not None:
        description["class_names"] = _class_names(labels)
    failure = None
    try:
        report = run(
            model,
            output or model.absolute().parent,
            formats,
            quantize or "float32",
            load_data,
            description=description,
            dynamic_batch=dynamic_batch,
            int8=Int8Options(min_agreement, qat_epochs),
            overwrite=overwrite,
        )
    except ExportError as error:
        report, failure = error.report, error
    if as_json:
        print_json(report)
    elif report["files"]:
        _print(model, report)
    if failure:
        click.echo(f"Error: {' '.join(str(failure).split())}", err=True)
        sys.exit(1)


def _print(model: Path, report: dict[str, Any]) -> None:
    print_artifacts(report)
    if "source_accuracy" in report:
        click.echo(f"{model.name} itself: {percent(report['source_accuracy'])} right.")
    click.echo(f"Compared on {report['images']} {report['compared_on']}.")
    if (int8 := report["quantization"].get("tflite_int8")) is not None:
        _print_int8(int8)
    for name, operators in report["operators"].items():
        counts = ", ".join(f"{count} {operator}" for operator, count in operators.items())
        click.echo(f"Operators of {name}: {counts}.")
    click.echo(f"Written to {report['output']}.")


def _print_int8(report: dict[str, Any]) -> None:
    """Says what the int8 file took, a line for each step."""
    size, latency = percent(report["size"]), percent(report["latency"])
    click.echo(f"int8 has {size} of the float file's size and {latency} of its latency.")
    for swish in report["equalized"]:
        click.echo(f"  {swish['layer']}: channels equalized, {swish['gain']:+.1f} dB.")
    for part in report["in_float"]:
        click.echo(
            f"  {part['part']} stays float: {part['gain']:+.1f} dB, {part['size'] / 1e3:+.0f} kB, "
            f"latency x{part['latency']:.2f}."
        )


def _class_names(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels {str(path)!r} cannot be read: {reason(error)}.") from None
    return tuple(text.removesuffix("\n").split("\n"))
