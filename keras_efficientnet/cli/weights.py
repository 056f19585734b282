"""`keras-efficientnet weights`."""

import dataclasses

import click

from keras_efficientnet.cli.common import (
    PATH_OR_NAME,
    import_tensorflow,
    json_option,
    print_json,
    print_table,
    table,
)
from keras_efficientnet.spec import PIXELS


@click.group()
def weights() -> None:
    """Find, look into and convert pretrained weights."""


@weights.command("list")
@click.argument("variant", required=False)
@json_option
def list_weights(variant, as_json):
    """List the published weights, of VARIANT or of all variants.

    A name goes with its variant: EfficientNetB0(weights="noisy-student").
    """
    from keras_efficientnet import scaling
    from keras_efficientnet.weights import registry

    wanted = scaling.get_variant(variant).name if variant else None
    entries = [entry for entry in registry.table() if wanted in (None, entry.variant)]
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
        return
    rows = table("variant", "name", "top-1 %", "px", "classes", "padding", "from", "source")
    for entry in entries:
        top1 = f"{entry.top1:.1f}" if entry.top1 else "-"
        place = "package" if entry.packaged else "download"
        numbers = (top1, str(entry.size), str(entry.classes))
        rows.add_row(entry.variant, entry.name, *numbers, entry.padding, place, entry.source)
    print_table(rows)


prefix_option = click.option("--prefix", help="Which network to take from a file of several.")


@weights.command()
@click.argument("file", type=PATH_OR_NAME)
@prefix_option
@json_option
def inspect(file, prefix, as_json):
    """Say what weight file FILE holds, without building a network."""
    import_tensorflow()
    from keras_efficientnet.weights import inspect as look

    found = look(file, prefix)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    fit = f"{'fits' if found.fits else 'is nearest to'} EfficientNet-{found.variant}"
    if found.variant is None:
        fit = "fits no published variant"
    click.echo(f"{found.path}: {found.layout}, {len(found.tensors)} tensors")
    click.echo(f"{fit}, {found.channels} channels in")
    click.echo(f"classes: {found.classes or 'no classifier'}")
    for name in found.origin.unknown:
        click.echo(f"{name}: unknown")
    for title, names in (("missing", found.missing), ("unknown", found.unknown)):
        for name in names:
            click.echo(f"{title}: {name}")


@weights.command()
@click.argument("file", type=PATH_OR_NAME)
@click.option("--model", "variant", required=True, help="Variant that the weights are of.")
@click.option(
    "--output", type=PATH_OR_NAME, required=True, help="File ending in .weights.h5 or .keras."
)
@click.option(
    "--padding",
    type=click.Choice(["same", "symmetric"]),
    help="For files that do not say which they were trained with.",
)
@click.option(
    "--pixels",
    type=click.Choice(list(PIXELS)),
    help="For files that do not say what they were trained on.",
)
@prefix_option
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@json_option
def convert(file, variant, output, padding, pixels, prefix, overwrite, as_json):
    """Turn weight file FILE, of any layout, into one that Keras loads."""
    import_tensorflow()
    from keras_efficientnet.weights import convert as run

    report = run(file, variant, output, overwrite, padding, pixels, prefix)
    if as_json:
        print_json({**dataclasses.asdict(report), "output": output})
        return
    click.echo(str(report))
    click.echo(f"Written to {output}.")
