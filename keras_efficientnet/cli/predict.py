"""`keras-efficientnet predict`."""

import csv
import glob
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from keras_efficientnet.cli.common import (
    PATH,
    image_size_option,
    json_option,
    open_model,
    percent,
    pixel_range_option,
    print_json,
    print_table,
    table,
    trust_option,
)
from keras_efficientnet.errors import InputError

RESULT_SUFFIXES = (".csv", ".jsonl")


@click.command()
@click.argument("model", type=PATH)
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Classes to give for each image.",
)
@click.option(
    "--output",
    type=PATH,
    help="File for the results: .csv, or .jsonl with a JSON document a line.",
)
@click.option(
    "--explain",
    "pictures",
    type=PATH,
    help="Folder for Grad-CAM pictures of each image's best class; needs a .keras MODEL.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Threads that decode and classify images. [default: number of cores]",
)
@image_size_option
@pixel_range_option
@trust_option
@json_option
def predict(model, paths, output, pictures, as_json, **options):
    r"""Classify images with MODEL.

    MODEL is a .keras, .h5, .tflite or .onnx file or a SavedModel folder; class names and image
    size come from the file itself. Or it is the name of published weights, such as 'imagenet',
    which is Lite0, or 'imagenet:Lite2' ('keras-efficientnet weights list' shows all). PATHS are
    image files, folders, which are searched for images at any depth, and patterns such as
    'photos/**/*.jpg'.

    With --output, results are streamed, so any number of images takes constant memory; the file
    appears when it is complete. Files that cannot be read are named and skipped; the exit code
    is 2 only if none can be read.

    \b
    Examples:
      keras-efficientnet predict imagenet cat.jpg
      keras-efficientnet predict model_int8.tflite cat.jpg dog.jpg
      keras-efficientnet predict model_float32.tflite photos --output labels.csv
      keras-efficientnet predict model.keras cat.jpg --explain heatmaps
    """
    if output and output.suffix not in RESULT_SUFFIXES:
        raise InputError(f"--output {str(output)!r} must end in {' or '.join(RESULT_SUFFIXES)}.")
    files = list(_image_files(paths))
    left_out: list[dict[str, str]] = []
    opening = {name: options[name] for name in ("image_size", "trust")}
    predictor = open_model(model, options["workers"], **opening)
    if limits := options["pixel_range"]:
        predictor.description = predictor.description.replaced({"pixel_range": limits})
    top, overwrite = options["top"], options["overwrite"]
    results = _classified(_answers(predictor, top, pictures, overwrite), files, left_out)
    if output:
        from keras_efficientnet.files import atomic_write

        with atomic_write(output, overwrite) as path:
            _write(path, results)
        read = len(files) - len(left_out)
        if as_json:
            print_json({"output": str(output), "images": read, "skipped": left_out})
        else:
            click.echo(f"Written to {output}: {read} images.")
    elif as_json:
        print_json(list(results))
    else:
        _print(results)
    if pictures and not as_json:
        click.echo(f"Pictures written to {pictures}.")
    if left_out:
        click.echo(f"{len(left_out)} of {len(files)} files were skipped.", err=True)


def _image_files(paths: Iterable[str]) -> Iterator[str]:
    """Yields files as given, and the images of folders and patterns, sorted."""
    from keras_efficientnet.data.folders import Walk
    from keras_efficientnet.data.images import ACCEPTED

    for path in map(os.path.expanduser, paths):
        walk = Walk()
        if os.path.isdir(path):
            files = list(map(str, walk.images(path)))
        elif glob.has_magic(path) and not os.path.exists(path):
            files = sorted(filter(os.path.isfile, glob.iglob(path, recursive=True)))
            if "**" in path:  # of which the pattern skips folders that cannot be read
                for root in glob.glob(path.partition("**")[0] or os.curdir):
                    walk.name_unreadable(root)
        else:
            yield path
            continue
        lines = [f"Left out {each.path}: {each.reason}" for each in walk.unreadable + walk.left_out]
        for line in [*lines, *walk.notes()]:
            click.echo(line, err=True)
        if not files:
            raise InputError(f"{path} has no image files; {ACCEPTED}.")
        yield from files


def _answers(predictor, top: int, pictures: Path | None, overwrite: bool) -> Callable:
    """Returns what makes of files each file, its answer, and the path of its picture or None."""
    if not pictures:
        return lambda files: ((*pair, None) for pair in predictor.stream(files, top))
    from keras_efficientnet.native_logs import suppress_native_logs

    with suppress_native_logs():  # TensorFlow's start-up notes
        from keras_efficientnet.explain import explained
    return lambda files: explained(predictor, files, pictures, top, overwrite)


def _classified(
    answers: Callable, files: list[str], left_out: list[dict[str, str]]
) -> Iterator[dict[str, Any]]:
    """Yields a result for each image, and names and collects the files that are none."""
    from keras_efficientnet.bars import Bar
    from keras_efficientnet.data.images import collected_warnings

    with (
        collected_warnings() as warned,
        Bar(files, desc="Predicting", unit="img", leave=False) as bar,
    ):
        for file, answer, picture in answers(bar):
            for text in warned.pop(os.fspath(file), ()):
                bar.write(f"Warning: {click.format_filename(file)}: {text}", file=sys.stderr)
            # Names that are not text in the system's encoding cannot be printed as they are.
            name = click.format_filename(file)
            if isinstance(answer, InputError):
                left_out.append({"file": name, "error": str(answer)})
                bar.write(f"Skipped: {' '.join(str(answer).split())}", file=sys.stderr)
                continue
            result = {"file": name, "top": [{"label": at, "score": score} for at, score in answer]}
            yield {**result, "explanation": str(picture)} if picture else result
    if len(left_out) == len(files):
        raise InputError(f"No image could be read: {left_out[0]['error']}")


def _print(results: Iterator[dict[str, Any]]) -> None:
    rows = table("image", "class", "score")
    for result in results:
        for rank, row in enumerate(result["top"]):
            rows.add_row("" if rank else result["file"], row["label"], percent(row["score"]))
        rows.add_section()
    print_table(rows)


def _write(path: Path, results: Iterator[dict[str, Any]]) -> None:
    """Writes results as they come, in the format that the suffix names."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            for result in results:
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
            return
        writer = csv.writer(file)
        for index, result in enumerate(results):
            if not index:  # a model may have fewer classes than asked for
                ranks = range(1, len(result["top"]) + 1)
                columns = (f"{name}_{rank}" for rank in ranks for name in ("label", "score"))
                writer.writerow(["file", *columns])
            values = (value for row in result["top"] for value in (row["label"], row["score"]))
            writer.writerow([result["file"], *values])
