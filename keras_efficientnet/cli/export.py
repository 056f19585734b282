"""`keras-efficientnet export`."""

import os
from pathlib import Path

import click

from keras_efficientnet.cli.common import (
    DATA_HELP,
    data_options,
    import_tensorflow,
    json_option,
    print_artifacts,
    print_json,
)


@click.command()
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
@data_options("--calibration", f"Training data for the ranges of int8: {DATA_HELP}")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder to write into. [default: the model's]"
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@json_option
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
    # The converters are TensorFlow's, whatever backend has trained.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import_tensorflow()
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
        print_json(report)
        return
    print_artifacts(report)
    click.echo(f"Written to {report['output']}.")
