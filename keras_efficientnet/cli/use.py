"""`keras-efficientnet evaluate` and `predict`."""

from pathlib import Path

import click

from keras_efficientnet.cli.common import (
    DATA_HELP,
    data_options,
    json_option,
    open_model,
    percent,
    print_json,
    print_table,
    table,
)
from keras_efficientnet.errors import InputError


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@data_options("--data", DATA_HELP, required=True)
@json_option
def evaluate(model, load_data, as_json):
    """Measure the accuracy of MODEL on held-out images.

    MODEL is a .keras file, a SavedModel folder or a .tflite file.
    """
    from keras_efficientnet.deploy.evaluation import evaluate as run

    result = run(open_model(model), load_data())
    if as_json:
        print_json(result)
        return
    rows = table("class", "images", "accuracy")
    for name, row in result["classes"].items():
        rows.add_row(name, str(row["images"]), percent(row["accuracy"]))
    rows.add_section()
    rows.add_row("all", str(result["images"]), percent(result["accuracy"]))
    print_table(rows)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Classes to show for each image.",
)
@json_option
def predict(model, images, top, as_json):
    """Classify IMAGES with MODEL.

    MODEL is a .keras file, a SavedModel folder or a .tflite file; class names and image
    size come from the file itself.
    """
    predictor = open_model(model)
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
        print_json(results)
    elif results:
        rows = table("image", "class", "score")
        for result in results:
            for rank, row in enumerate(result["top"]):
                rows.add_row("" if rank else result["file"], row["label"], percent(row["score"]))
            rows.add_section()
        print_table(rows)
    if errors:
        raise InputError(" ".join(errors))
