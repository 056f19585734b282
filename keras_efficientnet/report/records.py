"""What a training run reports, as plain records; `report.json` is their `dataclasses.asdict`."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_efficientnet.data.dataset import Dataset, ReadingSummary
from keras_efficientnet.deploy.evaluation import Evaluation, Tally
from keras_efficientnet.deploy.export_report import ExportReport
from keras_efficientnet.errors import InputError

VERSION = 2
MAX_MISTAKES = 24
MATRIX_CLASSES = 60  # `plots.confusion_matrix` has room to name so many


@dataclass(frozen=True)
class RunSettings:
    """All that decides the result of a run.

    Attributes:
        variant: name of the network.
        data: the data set as it was asked for.
        train_images: number of training images.
        image_size: side of the images that the finished network takes, in pixels.
        train_image_size: side of the training images of the last stage.
        seed: of the initial weights, the order of the images and their augmentation.
        weights: file or name of the weights that training started from, None for random ones.
        recipe: the fields of `training.Recipe`.
        precision: dtype policy that the network was trained in.
        accumulation: parts that each batch was cut into.
        class_weights: whether the loss was weighted so that every class counts the same.
        minutes: time that the number of epochs was planned for, in place of the recipe's.
        class_names: in the order of the network's outputs.
        listing: `Dataset.listing`, which tells the same images under another path.
        pixel_range: `Dataset.pixel_range`.
        holdout: share of each class that was held out; None where the data have splits.
        group_by: what tells the group of a file, none of which is on both sides; empty without.
    """

    variant: str
    data: str
    train_images: int
    image_size: int
    train_image_size: int
    seed: int
    weights: str | None
    recipe: Mapping[str, Any]
    precision: str
    accumulation: int
    class_weights: bool
    minutes: float | None = None
    class_names: tuple[str, ...] = ()
    listing: str = ""
    pixel_range: tuple[float, float] | None = None
    holdout: float | None = None
    group_by: str = ""


@dataclass(frozen=True)
class Mistake:
    """A held-out image that was not recognized.

    Attributes:
        index: of the image in the data set's held-out split.
        path: of its file; None where it has none.
        label: its class.
        taken_for: the class that the network decided for.
        score: of that class, from 0 to 1.
    """

    index: int
    path: str | None
    label: str
    taken_for: str
    score: float


@dataclass(frozen=True)
class HeldOutResult:
    """What an exported file made of held-out images.

    Attributes:
        file: name of the file.
        result: accuracy, overall and by class, and the most frequent confusions. It has as many
            images as there was time for.
        precision: of each class that was predicted: the share of those images that are of it.
        class_names: in the order of the network's outputs.
        matrix: number of images of each class (row) that were taken for each (column), in that
            order; None for more than 60 classes.
        mistakes: at most 24, the worst first: those where the score of the predicted class
            exceeds that of the image's class by the most.
    """

    file: str
    result: Evaluation
    precision: Mapping[str, float]
    class_names: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...] | None
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """A finished training run.

    Attributes:
        version: of this schema, 2.
        settings: all that decides the result.
        data: what was read of the data set and what was left out.
        parameters: of the network, trainable or not.
        seconds: that the run took, from reading the data to the checked files; of a resumed
            run, since it was resumed.
        machine: processor and number of cores that latencies were measured on.
        export: the model files, each compared with the trained network.
        evaluation: what one of the files made of held-out images; None if that failed.
        chosen_on: split whose images chose the best epoch and the temperature; None where nothing
            was chosen. `test` says that the figures are of images that chose.
    """

    version: int = VERSION
    settings: RunSettings
    data: ReadingSummary
    parameters: int
    seconds: float
    machine: str
    export: ExportReport
    evaluation: HeldOutResult | None
    chosen_on: str | None = None

    def write(self, path: Path) -> None:
        """Writes `report.json`."""
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
        # A path that is not text has characters that UTF-8 lacks; JSON has escapes for them.
        path.write_bytes((text + "\n").encode("utf-8", "backslashreplace"))


def read_report(path: Path) -> RunReport:
    """Reads a `report.json` of this version.

    Raises:
        OSError: if there is none.
        InputError: if it is not such a report.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] == VERSION:
            return _record(RunReport, content)
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise InputError(f"{str(path)!r} is not a run's report of version {VERSION}.")


def _record(kind: Any, value: Any) -> Any:
    """Undoes `dataclasses.asdict` and what JSON makes of tuples, by the types of the fields."""
    if isinstance(kind, types.UnionType):  # with None
        return None if value is None else _record(typing.get_args(kind)[0], value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        fields = typing.get_type_hints(kind)
        return kind(**{name: _record(fields[name], part) for name, part in value.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(_record(arguments[0], part) for part in value)
    if origin is Mapping:
        return {name: _record(arguments[1], part) for name, part in value.items()}
    return value


def flatten(nested: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Returns every single value of nested mappings by the names that lead to it, joined."""
    flat = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            inner = flatten(value, separator)
            flat |= {f"{name}{separator}{part}": each for part, each in inner.items()}
        else:
            flat[name] = value
    return flat


def summarize_scores(
    scores: np.ndarray,
    labels: np.ndarray,
    data: Dataset,
    *,
    file: str = "",
    indices: Sequence[int] | None = None,
) -> HeldOutResult:
    """Counts what a network made of held-out images.

    Args:
        scores: its outputs, `[count, classes]`.
        labels: class indices, `[count]`.
        data: whose held-out images these are, and whose task says what scores mean.
        file: name of the file that gave the scores.
        indices: of the images in the held-out split; all in order if None.
    """
    names, paths = data.class_names, getattr(data.test, "paths", None)
    indices = range(len(labels)) if indices is None else indices
    tally = Tally(names, data.task)
    tally.add(scores, labels)
    decided, correct = data.task.decide(scores), data.task.correct(scores, labels)
    rows = np.arange(len(labels))
    gaps = scores[rows, decided] - scores[rows, labels]
    worst = rows[~correct][np.argsort(-gaps[~correct], kind="stable")][:MAX_MISTAKES]
    matrix = None
    if len(names) <= MATRIX_CLASSES:
        counts = np.zeros((len(names), len(names)), int)
        np.add.at(counts, (labels, decided), 1)
        matrix = tuple(map(tuple, counts.tolist()))
    return HeldOutResult(
        file,
        tally.result(),
        {
            names[index]: float(correct[decided == index].mean())
            for index in np.unique(decided).tolist()
        },
        names,
        matrix,
        tuple(
            Mistake(
                int(indices[row]),
                str(paths[indices[row]]) if paths else None,
                names[labels[row]],
                names[decided[row]],
                float(scores[row, decided[row]]),
            )
            for row in worst
        ),
    )
