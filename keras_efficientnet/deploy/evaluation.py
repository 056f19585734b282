"""How well a model does on labelled images: overall, by class, and what it confuses."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np

from keras_efficientnet.bars import Bar
from keras_efficientnet.data import images, sources
from keras_efficientnet.data.dataset import Dataset, Examples, Origin
from keras_efficientnet.data.folders import class_name
from keras_efficientnet.deploy.predictor import Predictor
from keras_efficientnet.deploy.runtime import BATCH_SIZE
from keras_efficientnet.errors import InputError, require_choice
from keras_efficientnet.task import SINGLE_LABEL, Task, get_task
from keras_efficientnet.weights.imagenet import imagenet_classes, imagenet_synsets

MOST_CONFUSED = 20
MAX_SHOWN = 10
# Another order of classes is looked for on so many images, in all and of each class, and named
# where it explains this share of them.
MIN_IMAGES, MIN_PER_CLASS, EXPLAINED = 30, 5, 0.7


@dataclass(frozen=True)
class ClassResult:
    """The images of one class.

    Attributes:
        images: their number.
        accuracy: share of them that is decided rightly.
        top5_accuracy: share of them whose class is among the five best; None of a model with
            five classes or fewer.
    """

    images: int
    accuracy: float
    top5_accuracy: float | None = None


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another.

    Attributes:
        label: the class that they are of.
        taken_for: the class that the model decided for.
        images: their number.
    """

    label: str
    taken_for: str
    images: int


@dataclass(frozen=True)
class Evaluation:
    """What a model got right and wrong.

    Attributes:
        images: number of images it was measured on.
        accuracy: see `ClassResult`, here of all images.
        top5_accuracy: likewise.
        classes: result of each class of which there are images.
        confusions: at most `MOST_CONFUSED`, the most frequent first.
        notes: sentences on what may be wrong with the measurement itself.
    """

    images: int
    accuracy: float
    top5_accuracy: float | None
    classes: Mapping[str, ClassResult]
    confusions: tuple[Confusion, ...]
    notes: tuple[str, ...] = ()


class Tally:
    """Evaluates scores that come batch by batch, and keeps a few numbers of each image.

    Args:
        class_names: in the order of the class indices; the model may have more.
        task: what a label is.
    """

    def __init__(self, class_names: tuple[str, ...], task: Task = SINGLE_LABEL):
        self.class_names, self.task = class_names, task
        self._labels, self._decisions = np.empty(0, int), np.empty(0, int)
        self._measures: dict[str, np.ndarray] = {}

    def add(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Counts a batch.

        Args:
            scores: `[count, classes]`.
            labels: class indices `[count]`.
        """
        self._labels = np.append(self._labels, labels)
        self._decisions = np.append(self._decisions, self.task.decide(scores))
        for name, values in self.task.measure(scores, np.asarray(labels)).items():
            self._measures[name] = np.append(self._measures.get(name, []), values)

    def result(self) -> Evaluation:
        """Returns the evaluation of all batches, at least one."""
        wrong = self._decisions != self._labels
        pairs = zip(self._labels[wrong].tolist(), self._decisions[wrong].tolist(), strict=True)
        total = self._of(np.full(len(self._labels), True))
        return Evaluation(
            images=total.images,
            accuracy=total.accuracy,
            top5_accuracy=total.top5_accuracy,
            classes={
                self._name(label): self._of(self._labels == label)
                for label in np.unique(self._labels).tolist()
            },
            confusions=tuple(
                Confusion(self._name(label), self._name(other), count)
                for (label, other), count in Counter(pairs).most_common(MOST_CONFUSED)
            ),
        )

    def other_order(self) -> list[str]:
        """Returns a sentence where another order of the classes explains a low accuracy."""
        from scipy.optimize import linear_sum_assignment

        present, rows = np.unique(self._labels, return_inverse=True)
        taken, columns = np.unique(self._decisions, return_inverse=True)
        if len(rows) < max(MIN_IMAGES, MIN_PER_CLASS * len(present)):
            return []  # so few images fit some order by chance
        counts = np.zeros((len(present), len(taken)), int)
        np.add.at(counts, (rows, columns), 1)
        best_rows, best_columns = linear_sum_assignment(counts, maximize=True)
        explained = counts[best_rows, best_columns].sum() / len(rows)
        accuracy = float(np.mean(self._labels == self._decisions))
        if explained < EXPLAINED or accuracy > explained / 2:
            return []
        moved = [
            f"{self._name(int(taken[column]))} for the data's {self._name(int(present[row]))}"
            for row, column in zip(best_rows, best_columns, strict=True)
            if taken[column] != present[row]
        ]
        return [
            f"An accuracy of {100 * accuracy:.1f} % would be {100 * explained:.1f} % with another "
            f"order of the classes ({', '.join(moved[:3])}{' ...' if len(moved) > 3 else ''}): "
            "the model's class names are probably in the wrong order."
        ]

    def _of(self, chosen: np.ndarray) -> ClassResult:
        means = {name: float(values[chosen].mean()) for name, values in self._measures.items()}
        return ClassResult(images=int(chosen.sum()), **means)

    def _name(self, index: int) -> str:
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"


def load_measured(
    predictor: Predictor, source: str, split: str | None = None, **options: Any
) -> Dataset:
    """Opens those images of a data set that a model is to be measured on, and no others.

    Args:
        predictor: the model, which knows what it was trained on.
        source: name of the data, see `data.load`.
        split: see `data.sources.load_measured`.
        options: of `data.load`.

    Raises:
        InputError: see `data.sources.load_measured`.
    """
    known = predictor.description
    if options.get("pixel_range") is not None:
        known.check_range(options["pixel_range"])
    options["pixel_range"] = known.pixel_range
    origin = Origin(known.listing, known.holdout, known.group_by) if known.listing else None
    return sources.load_measured(source, split, origin=origin, **options)


def evaluate(predictor: Predictor, data: Dataset, split: str = "test") -> Evaluation:
    """Classifies every image of a split of a data set.

    Args:
        predictor: the model. Its classes are matched with the data's by name, or by
            index where the file carries no names, of which `Evaluation.notes` tell; those of
            ImageNet also by WordNet ID.
        data: whose images are used, prepared as the model was evaluated in training.
        split: `"train"`, `"val"` or `"test"`, or `"all"` for all of them.

    Raises:
        InputError: if the data has a class that the model does not know, or no such split.
    """
    require_choice("split", split, (*data.splits, "all"))
    chosen = list(data.splits.values()) if split == "all" else [data.splits[split]]
    description = predictor.description
    known = description.class_names or data.class_names
    to_model = _class_indices(known, data, chosen)
    tally = Tally(known, get_task(description.task))
    examples = chain.from_iterable(chosen)
    with Bar(total=sum(map(len, chosen)), unit="img", desc="Evaluating", leave=False) as bar:
        while batch := list(islice(examples, BATCH_SIZE)):
            pixels = [
                images.prepare(
                    image,
                    description.image_size,
                    description.crop_fraction,
                    description.interpolation,
                )
                for image, _ in batch
            ]
            scores = predictor.scores(np.stack(pixels))
            outputs = scores.shape[1]
            if outputs < len(known) or (outputs > len(known) and not description.class_names):
                raise InputError(
                    f"The model tells {outputs} classes apart and the data has {len(known)}; "
                    "evaluate it on data of its own classes, or export it with class names."
                )
            tally.add(scores, to_model[[label for _, label in batch]])
            bar.update(len(batch))
    notes = [] if description.class_names else [by_position(data.class_names)]
    return replace(tally.result(), notes=(*notes, *tally.other_order()))


def by_position(class_names: Sequence[str]) -> str:
    """Returns the sentence on a model without class names that gets those of data."""
    names = ", ".join(class_names[:MAX_SHOWN]) + (" ..." if len(class_names) > MAX_SHOWN else "")
    return (
        "The model carries no class names; its outputs are taken for the data's classes by "
        f"position alone, in this order: {names}."
    )


def _class_indices(known: Sequence[str], data: Dataset, chosen: Sequence[Examples]) -> np.ndarray:
    """Returns the model's index of each class of the data; -1 of those without an image.

    Raises:
        InputError: if the model does not know the class of an image.
    """
    # Model files of other packages may have names in another Unicode form.
    indices = {class_name(name): index for index, name in enumerate(known)}
    if tuple(known) == imagenet_classes():
        indices |= {synset: index for index, synset in enumerate(imagenet_synsets())}
    labels = [part for examples in chosen if (part := examples.known_labels) is not None]
    present = np.arange(len(data.class_names))
    if len(labels) == len(chosen):
        present = np.unique(np.concatenate(labels))
    if missing := sorted({data.class_names[index] for index in present} - set(indices)):
        raise InputError(
            f"The data's class {missing[0]!r} is not among the model's: "
            f"{', '.join(known[:MAX_SHOWN])}{' ...' if len(known) > MAX_SHOWN else ''}."
        )
    return np.array([indices.get(name, -1) for name in data.class_names])
