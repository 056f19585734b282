"""`keras-efficientnet train`."""

from pathlib import Path
from typing import Any

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
@data_options("--data", DATA_HELP, default="digits", show_default=True)
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
@json_option
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
    import_tensorflow()
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
        print_json(report)
        return
    print_artifacts(report)
    click.echo(f"Written to {report['output']} in {report['seconds']:.0f} s.")
