"""`report.html`: a run's report on one page that needs no other file.

Jinja2 escapes every text that goes into the template, and the page's own policy forbids scripts
and the network besides.
"""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from keras_efficientnet import plots
from keras_efficientnet.data.dataset import ReadingSummary
from keras_efficientnet.deploy.export_report import ExportedFile
from keras_efficientnet.report.records import RunReport, flatten

TEMPLATE = "report.html.j2"
LISTED_CONFUSIONS = 10
THUMBNAIL_SIDE = 128
NO_BREAK = "\N{NO-BREAK SPACE}"
_PURPOSES = {
    "keras": "more training",
    "saved_model": "servers",
    "tflite": "phones",
    "onnx": "other runtimes",
}


def render(
    report: RunReport, history: Sequence[Mapping[str, Any]], images: Sequence[np.ndarray] = ()
) -> str:
    """Returns the page.

    Args:
        report: of the run.
        history: what `training.fit` returns, a row for each epoch.
        images: of `report.evaluation.mistakes`, in their order, uint8 `[height, width, 3]`.
    """
    evaluation = report.evaluation
    settings = flatten(dataclasses.asdict(report.settings))
    del settings["class_names"]  # they have a table of their own
    content = {
        **vars(report),
        "title": f"EfficientNet-{report.settings.variant} on {report.settings.data}",
        "themes": theme_variables(),
        "tiles": _tiles(report),
        "file_rows": [_file_row(file) for file in report.export.files],
        "curves": _picture(plots.learning_curves(history)),
        "settings_rows": {**settings, "parameters": report.parameters}.items(),
    }
    if evaluation:
        found, matrix = evaluation.result, evaluation.matrix
        content |= {
            "classes": sorted(found.classes.items(), key=lambda item: item[1].accuracy),
            "matrix": matrix
            and _picture(plots.confusion_matrix(np.array(matrix), evaluation.class_names)),
            "confusion_rows": [
                (pair.label, pair.taken_for, pair.images)
                for pair in found.confusions[:LISTED_CONFUSIONS]
            ],
            "mistakes": list(zip(evaluation.mistakes, map(thumbnail, images), strict=True)),
            "wrong": round(found.images * (1 - found.accuracy)),
        }
    return environment().get_template(TEMPLATE).render(content)


def _tiles(report: RunReport) -> list[tuple[str, str]]:
    """Returns the figures at the top of the page and what they are."""
    files, accuracy = report.export.files, report.export.source_accuracy
    smallest = min(files, key=lambda file: file.size)
    tiles = [
        ("-" if accuracy is None else _percent(accuracy), "held-out accuracy"),
        (f"{report.parameters / 1e6:.2f} M", "parameters"),
        (_megabytes(smallest.size), f"smallest file ({smallest.name})"),
    ]
    latencies = {file.latency_ms: file.name for file in files if file.latency_ms is not None}
    if latencies:
        least = min(latencies)
        tiles.append((_milliseconds(least), f"one image ({latencies[least]})"))
    return tiles


def _file_row(file: ExportedFile) -> tuple[str, ...]:
    return (
        file.name,
        _PURPOSES[file.format],
        "-" if file.accuracy is None else _percent(file.accuracy),
        "-" if file.agreement is None else _percent(file.agreement),
        f"{file.max_abs_difference:.1e}",
        _megabytes(file.size),
        "-" if file.latency_ms is None else _milliseconds(file.latency_ms),
    )


def environment() -> jinja2.Environment:
    """Returns what renders the package's templates."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_efficientnet.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": _percent,
        "duration": _duration,
        "file_name": lambda path: Path(path).name,
        "class_rows": _class_rows,
        "left_out_rows": lambda data: [(each.path, each.reason) for each in data.left_out],
    }
    return environment


def _picture(figure: plots.Picture) -> str:
    return _data_url("image/svg+xml", plots.to_svg(figure).encode())


def thumbnail(pixels: np.ndarray) -> str:
    """Returns a small JPEG picture of an image, uint8 `[height, width, 3]`, as a data URL."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return _data_url("image/jpeg", content.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def theme_variables() -> dict[str, str]:
    """Returns each theme's colours as variables of the style sheet, by its name."""
    return {name: _variables(theme.codes()) for name, theme in plots.THEMES.items()}


def _class_rows(data: ReadingSummary) -> list[tuple[str, ...]]:
    """Returns a row for each class: its name, and its images in each split."""
    counted = [data.classes[name] for name in data.images if name in data.classes]
    names = dict.fromkeys(name for split in counted for name in split)
    return [(name, *(f"{split.get(name, 0):,}" for split in counted)) for name in names]


def _variables(codes: Mapping[str, str]) -> str:
    """Returns a theme's colours as variables of the style sheet."""
    return "".join(f"--{role.replace('_', '-')}:{code};" for role, code in codes.items())


def _percent(share: float) -> str:
    return f"{100 * share:.1f}{NO_BREAK}%"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f}{NO_BREAK}MB"


def _milliseconds(latency: float) -> str:
    return f"{latency:.3g}{NO_BREAK}ms"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
