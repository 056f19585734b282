"""`report.html`: what a training run gave, on one page that needs nothing else.

Elements are built and never pasted together as text, so that no class name or file name can
become markup; the page's own policy forbids scripts and the network besides.
"""

import base64
import csv
import dataclasses
import io
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from keras_efficientnet import plots
from keras_efficientnet.data import pipeline
from keras_efficientnet.data.dataset import Dataset
from keras_efficientnet.deploy.benchmarking import processor
from keras_efficientnet.deploy.predictor import Predictor
from keras_efficientnet.deploy.runtime import available_cores
from keras_efficientnet.errors import InputError, reason
from keras_efficientnet.files import atomic_write
from keras_efficientnet.native_logs import suppress_native_logs

FILE_NAME = "report.html"
# The file that held-out images are classified with for the details, where it could be made: the
# same on every backend, and quick.
DETAILS_FROM = "model_float32.tflite"
DETAILS_SECONDS = 30.0
LATENCY_SECONDS = 0.5
MAX_MISTAKES = 24
MAX_CONFUSIONS = 10
THUMBNAIL_SIDE = 128
NO_BREAK = "\N{NO-BREAK SPACE}"

_PURPOSES = {
    ".keras": "more training",
    "": "servers",
    ".tflite": "phones",
    ".onnx": "other runtimes",
}


@dataclasses.dataclass(frozen=True)
class Details:
    """What a network made of held-out images.

    Attributes:
        class_names: in the order of the class indices.
        images: uint8 `[count, size, size, 3]`, as the network takes them.
        labels: class indices `[count]`.
        scores: `[count, classes]`.
        file: that gave the scores.
        names: of the images' files, `[count]`; empty where they have none.
    """

    class_names: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    file: str = DETAILS_FROM
    names: tuple[str, ...] = ()

    @property
    def counts(self) -> np.ndarray:
        """Images of each true class (row) that were called each (column)."""
        size = len(self.class_names)
        pairs = self.labels * size + self.scores.argmax(1)
        return np.bincount(pairs, minlength=size**2).reshape(size, size)


def write_report(
    folder: Path,
    report: Mapping[str, Any],
    data: Dataset,
    held_out: tuple[np.ndarray, np.ndarray],
) -> None:
    """Writes `report.html` into a finished run's folder.

    Whatever goes wrong is told on standard error and costs the run nothing.

    Args:
        folder: with the model files and `history.csv`.
        report: content of the run's `report.json`.
        data: what it was trained on.
        held_out: prepared images `[count, size, size, 3]` and class indices `[count]`.
    """
    try:
        with suppress_native_logs():  # LiteRT has notes on every file that it opens
            latencies = _latencies(folder, report["files"])
            file = DETAILS_FROM if DETAILS_FROM in report["files"] else next(iter(report["files"]))
            details = _details(folder / file, data, held_out, latencies.get(file))
        with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
            history = list(csv.DictReader(file))
        page = html(report, history, latencies, details)
        with atomic_write(folder / FILE_NAME, overwrite=True) as path:
            # A file name that is not text has characters that no file can hold.
            path.write_bytes(page.encode("utf-8", "replace"))
    except Exception as error:
        print(f"{FILE_NAME} could not be written: {reason(error)}.", file=sys.stderr)


def html(
    report: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    latencies: Mapping[str, float],
    details: Details,
) -> str:
    """Returns the page.

    Args:
        report: content of the run's `report.json`.
        history: rows of `history.csv`.
        latencies: milliseconds for one image, by file.
        details: about the held-out images.
    """
    title = f"EfficientNet-{report['variant']} on {report['data']}"
    sections = [
        _summary(report, title, latencies),
        _files(report, latencies),
        _section(
            "Learning curves",
            _picture(plots.learning_curves(history), "Loss, accuracy and learning rate by epoch"),
        ),
        _classes(details, report["test_images"]),
        _confusions(details),
        _mistakes(details),
        _recipe(report),
        _skipped(report.get("skipped") or []),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = _tag(
        "html",
        _tag(
            "head",
            _tag("meta", charset="utf-8"),
            _tag("meta", {"http-equiv": "Content-Security-Policy"}, content=policy),
            _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            _tag("meta", name="color-scheme", content="light dark"),
            _tag("title", title),
            _tag("style", _style()),
        ),
        _tag("body", _tag("main", *(section for section in sections if section is not None))),
        lang="en",
    )
    return "<!doctype html>\n" + ElementTree.tostring(page, "unicode", method="html") + "\n"


def _latencies(folder: Path, files: Iterable[str]) -> dict[str, float]:
    """Measures the median time for one image in milliseconds, of files that are quick to open."""
    import keras

    tensorflow = keras.backend.backend() == "tensorflow"
    latencies = {}
    for file in files:
        if not (tensorflow or file.endswith(".tflite")):
            continue  # it would have to be compiled, or be another framework's
        try:
            predictor = Predictor(folder / file)
        except InputError:
            continue  # no runtime for it here
        size = predictor.description.image_size
        image = np.zeros((1, size, size, 3), np.uint8)
        predictor.scores(image)
        seconds: list[float] = []
        while sum(seconds) < LATENCY_SECONDS:
            start = time.perf_counter()
            predictor.scores(image)
            seconds.append(time.perf_counter() - start)
        latencies[file] = 1000 * statistics.median(seconds)
    return latencies


def _details(
    file: Path,
    data: Dataset,
    held_out: tuple[np.ndarray, np.ndarray],
    latency: float | None,
) -> Details:
    """Classifies held-out images, as many as there is time for, spread evenly."""
    images, labels = held_out
    count = len(images)
    if latency:
        count = min(count, max(1, int(DETAILS_SECONDS / (latency / 1000))))
    chosen = pipeline.spread(len(images), count)
    names: tuple[str, ...] = ()
    if paths := getattr(data.test, "paths", None):
        kept = pipeline.spread(len(paths), len(images))
        names = tuple(str(paths[kept[index]]) for index in chosen)
    scores = Predictor(file).scores(images[chosen])
    return Details(data.class_names, images[chosen], labels[chosen], scores, file.name, names)


def _summary(
    report: Mapping[str, Any], title: str, latencies: Mapping[str, float]
) -> ElementTree.Element:
    accuracies = report["test_accuracy"]
    smallest = min(report["files"], key=report["files"].get)
    figures = [
        ("held-out accuracy", _percent(accuracies.get("keras", max(accuracies.values())))),
        ("parameters", f"{report['parameters'] / 1e6:.2f} M"),
        (f"smallest file ({smallest})", _megabytes(report["files"][smallest])),
    ]
    if latencies:
        quickest = min(latencies, key=lambda file: latencies[file])
        figures.append((f"one image ({quickest})", _milliseconds(latencies[quickest])))
    minutes, seconds = divmod(round(report["seconds"]), 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    text = (
        f"{report['train_images']:,} training images and {report['test_images']:,} held-out ones "
        f"of {report['image_size']} px, {report['epochs']} epochs by the recipe "
        f"{report['recipe']['name']}, seed {report['seed']}, {took}."
    )
    tiles = [_tag("div", _tag("b", value), _tag("span", name)) for name, value in figures]
    return _tag("header", _tag("h1", title), _tag("p", text), _tag("div", *tiles, class_="tiles"))


def _files(report: Mapping[str, Any], latencies: Mapping[str, float]) -> ElementTree.Element:
    def value(of: str, name: str, form) -> str:
        number = report.get(of, {}).get(name)
        return "-" if number is None else form(number)

    rows = []
    for file, size in report["files"].items():
        name = _artifact(file)
        latency = latencies.get(file)
        rows.append(
            (
                file,
                _PURPOSES.get(Path(file).suffix, ""),
                value("test_accuracy", name, _percent),
                value("agreement", name, _percent),
                value("max_abs_difference", name, "{:.1e}".format),
                _megabytes(size),
                "-" if latency is None else _milliseconds(latency),
            )
        )
    columns = ("file", "for", "accuracy", "agreement", "largest difference", "size", "one image")
    failed = [f"{name} could not be made: {why}" for name, why in report.get("failed", {}).items()]
    return _section(
        "Files",
        _table(columns, rows, left=2),
        _tag(
            "p",
            "Each was reloaded by a fresh process and compared with the network on the held-out "
            "images: the share of images with the same answer, and the largest difference of a "
            "score. The time for one image is the network's alone, on "
            f"{processor()} with {available_cores()} cores.",
            class_="note",
        ),
        *(_tag("p", text) for text in [*failed, *report.get("warnings", [])]),
    )


def _artifact(file: str) -> str:
    """Returns the name that reports have for a file."""
    path = Path(file)
    if path.suffix == ".tflite":
        return f"tflite_{path.stem.removeprefix('model_')}"
    return path.suffix.removeprefix(".") or file


def _classes(details: Details, test_images: int) -> ElementTree.Element:
    counts = details.counts
    correct = counts.diagonal()
    of_class, called = counts.sum(1), counts.sum(0)
    present = [index for index in range(len(of_class)) if of_class[index]]
    rows = []
    for index in sorted(present, key=lambda index: correct[index] / of_class[index]):
        share = correct[index] / of_class[index]
        bar = _tag("i", style=f"width:{100 * share:.0f}%")
        rows.append(
            (
                details.class_names[index],
                str(of_class[index]),
                _percent(share),
                _percent(correct[index] / called[index]) if called[index] else "-",
                _tag("div", bar, class_="bar"),
            )
        )
    columns = ("class", "images", "found (recall)", "right when named (precision)", "")
    note = f"From {details.file}, the worst class first."
    if len(details.labels) < test_images:
        note += f" From {len(details.labels):,} of the {test_images:,} held-out images."
    table = _tag("div", _table(columns, rows), class_="tall")
    return _section("Classes", table, _tag("p", note, class_="note"))


def _confusions(details: Details) -> ElementTree.Element | None:
    counts = details.counts.copy()
    parts = []
    if len(details.class_names) <= plots.NAMED_CLASSES:
        figure = plots.confusion_matrix(counts, details.class_names)
        parts.append(_picture(figure, "Confusion matrix"))
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [np.unravel_index(index, counts.shape) for index in order]
    names = details.class_names
    rows = [
        (names[true], names[predicted], str(counts[true, predicted]))
        for true, predicted in pairs
        if counts[true, predicted]
    ]
    if rows:
        parts.append(_table(("class", "taken for", "images"), rows, left=2))
    return _section("Confusions", _tag("div", *parts, class_="beside")) if parts else None


def _mistakes(details: Details) -> ElementTree.Element | None:
    every = np.arange(len(details.labels))
    predicted = details.scores.argmax(1)
    # The surer of the wrong class and the less of the right one, the worse.
    gaps = details.scores[every, predicted] - details.scores[every, details.labels]
    wrong = every[predicted != details.labels]
    figures = []
    for index in wrong[np.argsort(-gaps[wrong], kind="stable")][:MAX_MISTAKES]:
        true, other = (details.class_names[i] for i in (details.labels[index], predicted[index]))
        score = float(details.scores[index, predicted[index]])
        caption = [_tag("b", true), f" taken for {other}, {_percent(score)}"]
        if details.names:
            name = details.names[index]
            caption.append(_tag("small", Path(name).name, title=name))
        image = _thumbnail(details.images[index], f"{true} taken for {other}")
        figures.append(_tag("figure", image, _tag("figcaption", *caption)))
    if not figures:
        return _section("Mistakes", _tag("p", "None."))
    return _section(
        "Worst mistakes",
        _tag("div", *figures, class_="gallery"),
        _tag(
            "p",
            f"{len(figures)} of {len(wrong)} wrong answers, the surest first; images as the "
            "network sees them.",
            class_="note",
        ),
    )


def _recipe(report: Mapping[str, Any]) -> ElementTree.Element:
    # What is measured of each file stands elsewhere.
    settings = {
        name: value
        for name, value in report.items()
        if name == "recipe" or not isinstance(value, Mapping | list)
    }
    rows = [(name, str(value)) for name, value in _flat(settings).items()]
    return _section("Recipe and settings", _tag("div", _table(("", ""), rows, 2), class_="tall"))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _skipped(skipped: list[Mapping[str, str]]) -> ElementTree.Element | None:
    if not skipped:
        return None
    rows = [(row["file"], row["reason"]) for row in skipped]
    table = _tag("div", _table(("file", "why"), rows, left=2), class_="tall")
    return _section(f"Left out: {len(rows)} images", table)


def _section(title: str, *parts: ElementTree.Element) -> ElementTree.Element:
    return _tag("section", _tag("h2", title), *parts)


def _table(columns: tuple[str, ...], rows: Iterable[tuple], left: int = 1) -> ElementTree.Element:
    """Makes a table whose first `left` columns stand to the left and the others to the right."""

    def cells(kind: str, row: tuple) -> list[ElementTree.Element]:
        return [
            _tag(kind, value, **({} if index < left else {"class_": "number"}))
            for index, value in enumerate(row)
        ]

    head = [_tag("thead", _tag("tr", *cells("th", columns)))] if any(columns) else []
    body = _tag("tbody", *(_tag("tr", *cells("td", row)) for row in rows))
    return _tag("table", *head, body)


def _picture(figure: plots.Picture, text: str) -> ElementTree.Element:
    content = base64.b64encode(plots.to_svg(figure).encode()).decode()
    return _tag("img", src=f"data:image/svg+xml;base64,{content}", alt=text, class_="picture")


def _thumbnail(pixels: np.ndarray, text: str) -> ElementTree.Element:
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    encoded = base64.b64encode(content.getvalue()).decode()
    return _tag("img", src=f"data:image/jpeg;base64,{encoded}", alt=text)


def _tag(
    name: str,
    /,
    *children: str | ElementTree.Element | dict[str, str],
    **attributes: str,
) -> ElementTree.Element:
    """Makes an element of texts and elements; a dict among them adds attributes."""
    element = ElementTree.Element(
        name, {key.rstrip("_"): str(value) for key, value in attributes.items()}
    )
    last = None
    for child in children:
        if isinstance(child, dict):
            element.attrib.update(child)
        elif isinstance(child, str):
            if last is None:
                element.text = (element.text or "") + child
            else:
                last.tail = (last.tail or "") + child
        else:
            element.append(child)
            last = child
    return element


def _percent(share: float) -> str:
    return f"{100 * share:.1f}{NO_BREAK}%"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}{NO_BREAK}MB"


def _milliseconds(latency: float) -> str:
    return f"{latency:.3g}{NO_BREAK}ms"


def _style() -> str:
    """Returns the page's style sheet, in the colours of the pictures."""
    themes = {
        name: "".join(f"--{role.replace('_', '-')}:{code};" for role, code in theme.codes().items())
        for name, theme in plots.THEMES.items()
    }
    return (
        f":root{{color-scheme:light dark;{themes['light']}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{themes['dark']}}}}}" + _RULES
    )


_RULES = """
body{margin:0;background:var(--surface);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:64rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.6rem;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
p{margin:.4rem 0}
.note,.tiles span,small,th{color:var(--muted);font-size:.85rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:.8rem}
.tiles div{border:1px solid var(--grid);border-radius:.5rem;padding:.7rem .9rem}
.tiles{margin:1rem 0;overflow-wrap:anywhere}
.tiles b{display:block;font-size:1.5rem;line-height:1.2}
.picture{max-width:100%;height:auto;background:var(--surface)}
.tall{max-height:26rem;overflow:auto}
table{border-collapse:collapse}
td,th{padding:.25rem .9rem .25rem 0;text-align:left;font-weight:normal;overflow-wrap:anywhere;
vertical-align:top}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr{border-bottom:1px solid var(--grid)}
.bar{width:8rem;height:.6rem;margin-top:.45rem;background:var(--grid);border-radius:.3rem}
.bar i{display:block;height:100%;background:var(--series0);border-radius:.3rem}
.beside{display:flex;flex-wrap:wrap;gap:1.5rem;align-items:start}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(8rem,1fr));gap:1rem}
figure{margin:0}
figure img{width:100%;border-radius:.3rem}
figcaption{font-size:.85rem;line-height:1.3;overflow-wrap:anywhere}
figcaption small{display:block}
"""
