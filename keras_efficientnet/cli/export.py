"""`keras-efficientnet export`."""

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
    import_tensorflow()
    from keras_efficientnet.deploy.export import ExportError
    from keras_efficientnet.deploy.export import export as run

    info: dict[str, Any] = {name: text for name, text in texts.items() if text is not None}
    if image_size is not None:
        info["image_size"] = image_size
    if labels is not None:
        info["class_names"] = _class_names(labels)
    failure = None
    try:
        report = run(
            model,
            output or model.absolute().parent,
            formats,
            quantize or "float32",
            load_data,
            info=info,
            dynamic_batch=dynamic_batch,
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
    for name, operators in report["operators"].items():
        counts = ", ".join(f"{count} {operator}" for operator, count in operators.items())
        click.echo(f"Operators of {name}: {counts}.")
    click.echo(f"Written to {report['output']}.")


def _class_names(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels {str(path)!r} cannot be read: {reason(error)}.") from None
    return tuple(text.removesuffix("\n").split("\n"))
