"""`keras-efficientnet data`."""

import dataclasses

import click

from keras_efficientnet.cli.common import (
    PATH,
    data_options,
    import_tensorflow,
    json_option,
    print_json,
    print_table,
    table,
)


@click.group()
def data():
    """Look at data before training."""


@data.command()
@data_options("SOURCE", "")
@click.option(
    "--labels/--no-labels",
    default=True,
    show_default=True,
    help="Look for wrong labels; it takes as long as classifying all images, and needs cleanlab.",
)
@click.option(
    "--output",
    type=PATH,
    help="Page to write, with a small picture of every image that is named, such as check.html.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@json_option
def check(load_data, labels, output, overwrite, as_json):
    r"""Look for what is wrong with SOURCE, without training.

    SOURCE is digits, folder:DIR, csv:FILE, tfds:NAME, tfrecord:PATTERN or parquet:PATTERN. Prints
    counts and sizes, images that are copies of one another within and across splits, also in
    another size or encoding, and labels that are probably wrong: those that a linear probe on
    pretrained features doubts.

    \b
    Examples:
      keras-efficientnet data check folder:photos
      keras-efficientnet data check csv:photos.csv --no-labels --json
      keras-efficientnet data check folder:photos --output check.html
    """
    from keras_efficientnet.data import sources
    from keras_efficientnet.files import atomic_write

    import_tensorflow()
    dataset = load_data(lambda source, **options: sources.load_measured(source, "all", **options))
    from keras_efficientnet.data_check import check_data

    if not output:
        found = check_data(dataset, labels)
    else:
        from keras_efficientnet.report import render_check

        with atomic_write(output, overwrite) as path:
            found = check_data(dataset, labels)
            # A file name that is not text has characters that no file can hold.
            path.write_bytes(render_check(found, dataset).encode("utf-8", "replace"))
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    _print(found)
    if output:
        click.echo(f"Written to {output}.")


def _print(found):
    """Prints what a check found."""
    smallest, median, largest = (
        "{} x {}".format(*found.sizes[name]) for name in ("smallest", "median", "largest")
    )
    click.echo(f"Sizes from {smallest} to {largest} pixels, median {median}.")
    click.echo(f"The largest class has {found.imbalance} times the images of the smallest.")
    click.echo(f"{len(found.copies)} sets of copies.")
    for each in found.copies[:20]:
        kind = "Identical" if each.identical else "Nearly identical"
        kind += ", in several splits" * each.across_splits
        kind += ", with different labels" * each.labels_differ
        click.echo(f"{kind}: {', '.join(map(_name, each.images[:6]))}")
    if found.suspects is None:
        return
    click.echo(f"{len(found.suspects)} labels are probably wrong, the most probable first.")
    rows = table("image", "label", "rather")
    for suspect in found.suspects[:20]:
        rows.add_row(_name(suspect.image), suspect.image.label, suspect.suggested)
    if found.suspects:
        print_table(rows)


def _name(image) -> str:
    return click.format_filename(image.path) if image.path else f"{image.split} {image.index}"
