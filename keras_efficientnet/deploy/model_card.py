"""The model card: what a folder of model files is, for the people who get it."""

import html
from pathlib import Path

from keras_efficientnet.cost import network_cost
from keras_efficientnet.deploy.export_report import ExportedFile, ExportReport
from keras_efficientnet.deploy.exportable import ExportableModel
from keras_efficientnet.errors import InputError
from keras_efficientnet.files import atomic_write

FILE_NAME = "model_card.md"
_HEADER = [
    "| file | accuracy | agreement | largest difference | compared on | size |",
    "|---|---:|---:|---:|---|---:|",
]
NAMED_CLASSES = 100
NOT_STATED = "Not stated."


def update(path: Path, exportable: ExportableModel, report: ExportReport) -> None:
    """Writes a model card, or brings the table of files in one that is there up to date.

    Whatever else a card says is left alone: it may have been edited since.

    Args:
        path: of the card.
        exportable: the model that the files were made of.
        report: what `export` returns.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else _card(exportable)
    lines = text.rstrip("\n").split("\n")
    if _HEADER[0] not in lines:  # a card from elsewhere
        lines += ["", "## Files", "", *_HEADER]
    begin = end = lines.index(_HEADER[0]) + len(_HEADER)
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    rows = [*lines[begin:end], *(_row(file, report) for file in report.files)]
    lines[begin:end] = {row.split(" | ")[0]: row for row in rows}.values()
    with atomic_write(path, overwrite=True) as written:
        written.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(file: ExportedFile, report: ExportReport) -> str:
    """A line of the table."""
    shares = (file.accuracy, file.agreement)
    accuracy, agreement = ("-" if share is None else f"{100 * share:.1f} %" for share in shares)
    images = f"{report.images} {report.compared_on}"
    if report.reported_images:
        images += f", accuracy on {report.reported_images}"
    return (
        f"| `{file.name}` | {accuracy} | {agreement} | {file.max_abs_difference:.1e} | "
        f"{images} | {file.size / 1e6:.1f} MB |"
    )


def _card(exportable: ExportableModel) -> str:
    """A card without any file in its table."""
    description = exportable.description
    sections = {
        "Files": "\n".join(
            [
                *_HEADER,
                "",
                "Every file was loaded by a fresh interpreter and compared with the model that it",
                "was made of: agreement is the share of images on which both decide alike, and the",
                "largest difference is that of any output. Of labelled images, one half gives the",
                "agreement and the other half the accuracy.",
            ]
        ),
        "Data": f"{_plain(description.data) or NOT_STATED}{_classes(description.class_names)}",
        "Recipe": f"```\n{description.recipe.replace('```', '` ` `')}\n```"
        if description.recipe
        else NOT_STATED,
        "Intended use": _intended_use(exportable),
        "Licence": _plain(description.license)
        or f"{NOT_STATED} Ask whoever made the model before you use it or pass it on.",
    }
    facts = [f"| {name} | {value} |" for name, value in _facts(exportable).items()]
    parts = [
        f"# {_plain(description.title)}",
        _plain(description.summary),
        "\n".join(["| | |", "|---|---|", *facts]),
    ]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join(part for part in parts if part)


def _plain(text: str) -> str:
    """Writes a text that strangers may have chosen as one line without HTML, links or cells."""
    text = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"&#{ord(sign)};" if sign in "|[]`" else sign for sign in text)


def _facts(exportable: ExportableModel) -> dict[str, str]:
    description, (height, width, channels) = exportable.description, exportable.shape
    facts = {
        "architecture": _plain(description.title),
        "input": f"{width} x {height} pixels of {channels} channels, 0-255",
        "preprocessing": description.preprocessing,
        "output": _output(exportable),
        "author": _plain(description.author) or NOT_STATED,
    }
    if exportable.model:
        parameters = exportable.model.count_params()
        facts["parameters"] = f"{parameters:,}"
        try:
            whole = network_cost(description.variant, height, exportable.output_shape[-1], channels)
        except InputError:  # none of the published networks
            return facts
        if whole.parameters == parameters:  # and not one with another head
            facts["multiply-adds"] = f"{whole.multiply_adds / 1e9:.3g} G"
    return facts


def _output(exportable: ExportableModel) -> str:
    if not exportable.classifies:
        return f"features of shape {exportable.output_shape}"
    kind = "probability" if exportable.gives_probabilities else "score"
    return f"a {kind} for each of {exportable.output_shape[0]} classes"


def _classes(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    some = ", ".join(map(_plain, names[:NAMED_CLASSES]))
    more = len(names) - NAMED_CLASSES
    return f"\n\nClasses: {some}{f' and {more} more' if more > 0 else ''}."


def _intended_use(exportable: ExportableModel) -> str:
    if not exportable.classifies:
        return (
            "Turns an image into features for another model to work on. Measure that one on your "
            "own images before you rely on it."
        )
    return (
        "Tells apart, in one image, the classes above, on images like those that it was trained "
        "on. It gives one of them the best score whatever the image shows, and a score is no "
        "calibrated probability of being right. Measure it on your own images, for each class "
        "and for the people concerned, before you rely on it; it is not meant for decisions about "
        "people or where a mistake can do harm without somebody to look."
    )
