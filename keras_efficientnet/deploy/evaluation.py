"""How well a model does on labelled images: overall, by class, and what it confuses."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from tqdm import tqdm

from keras_efficientnet.data import images
from keras_efficientnet.data.dataset import Dataset
from keras_efficientnet.data.folders import class_name
from keras_efficientnet.deploy.predictor import Predictor
from keras_efficientnet.deploy.runtime import BATCH_SIZE
from keras_efficientnet.errors import InputError, require_choice
from keras_efficientnet.task import SINGLE_LABEL, Task, get_task
from keras_efficientnet.weights.imagenet import imagenet_classes, imagenet_synsets

MOST_CONFUSED = 20


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
    """

    images: int
    accuracy: float
    top5_accuracy: float | None
    classes: Mapping[str, ClassResult]
    confusions: tuple[Confusion, ...]


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

    def _of(self, chosen: np.ndarray) -> ClassResult:
        means = {name: float(values[chosen].mean()) for name, values in self._measures.items()}
        return ClassResult(images=int(chosen.sum()), **means)

    def _name(self, index: int) -> str:
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"


def unseen_split(predictor: Predictor, data: Dataset) -> str:
    """Returns the split to evaluate a model on: `"test"`, or `"all"` of data without splits.

    Of data without splits that the model was trained on, `"test"` is the part held out then.
    """
    trained_on = data.listing and predictor.description.listing == data.listing
    return "test" if data.holdout is None or trained_on else "all"


def evaluate(predictor: Predictor, data: Dataset, split: str = "test") -> Evaluation:
    """Classifies every image of a split of a data set.

    Args:
        predictor: the model. Its classes are matched with the data's by name, or by
            index where the file carries no names; those of ImageNet also by WordNet ID.
        data: whose images are used, prepared as the model was evaluated in training.
        split: `"train"`, `"val"` or `"test"`, or `"all"` for all of them.

    Raises:
        InputError: if the data has a class that the model does not know, or no such split.
    """
    require_choice("split", split, (*data.splits, "all"))
    chosen = list(data.splits.values()) if split == "all" else [data.splits[split]]
    description = predictor.description
    known = description.class_names or data.class_names
    # Model files of other packages may have names in another Unicode form.
    indices = {class_name(name): index for index, name in enumerate(known)}
    if known == imagenet_classes():
        indices |= {synset: index for index, synset in enumerate(imagenet_synsets())}
    if missing := sorted(set(data.class_names) - set(indices)):
        raise InputError(
            f"The data's class {missing[0]!r} is not among the model's: {', '.join(known[:10])}"
            f"{' ...' if len(known) > 10 else ''}."
        )
    to_model = np.array([indices[name] for name in data.class_names])
    tally = Tally(known, get_task(description.task))
    examples = chain.from_iterable(chosen)
    with tqdm(total=sum(map(len, chosen)), unit="img", desc="Evaluating", leave=False) as bar:
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
            if scores.shape[1] < len(known):
                raise InputError(
                    f"The model tells {scores.shape[1]} classes apart and the data has "
                    f"{len(known)}; evaluate it on data of its own classes."
                )
            tally.add(scores, to_model[[label for _, label in batch]])
            bar.update(len(batch))
    return tally.result()
