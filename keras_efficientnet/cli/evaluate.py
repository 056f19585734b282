"""`keras-efficientnet evaluate`."""

import dataclasses

import click

from keras_efficientnet.cli.common import (
    DATA_HELP,
    PATH,
    data_options,
    image_size_option,
    json_option,
    open_model,
    percent,
    print_json,
    print_table,
    table,
    trust_option,
)


@click.command()
@click.argument("model", type=PATH)
@data_options("--data", DATA_HELP, required=True)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    help="Which images. [default: test, else val; all of data without splits, but of those that "
    "MODEL was trained on the part held out then]",
)
@image_size_option
@trust_option
@json_option
def evaluate(model, load_data, split, as_json, **opening):
    """Measure the accuracy of MODEL on held-out images.

    MODEL is a .keras, .h5, .tflite or .onnx file or a SavedModel folder, or the name of published
    weights, see predict. Prints accuracy by class and the most frequent confusions. Only images
    that are measured are opened.
    """
    from keras_efficientnet import deploy

    predictor = open_model(model, **opening)
    data = load_data(
        lambda source, **options: deploy.load_measured(predictor, source, split, **options)
    )
    result = deploy.evaluate(predictor, data, "all")
    name, *more = data.splits
    which = "all images" if more or name == "all" else f"the images of the split {name}"
    click.echo(f"Evaluated on {which}: {result.images:,}.", err=True)
    for note in result.notes:
        click.echo(f"Warning: {note}", err=True)
    if as_json:
        print_json(dataclasses.asdict(result))
        return
    top5 = ["top 5 accuracy"] if result.top5_accuracy is not None else []
    rows = table("class", "images", "accuracy", *top5)
    for name, row in [*result.classes.items(), ("all", result)]:
        if row is result:
            rows.add_section()
        shares = [row.accuracy, row.top5_accuracy][: 1 + len(top5)]
        rows.add_row(name, str(row.images), *map(percent, shares))
    print_table(rows)
    for mistake in result.confusions[:5]:
        click.echo(f"{mistake.label} taken for {mistake.taken_for}: {mistake.images}")
