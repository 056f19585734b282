"""A look at data before training: counts, sizes, copies, and labels that are probably wrong."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from keras_efficientnet.data.dataset import Dataset, Examples, FileExamples, ImageFile
from keras_efficientnet.data.duplicates import Copies, connected, fingerprint, near_pairs
from keras_efficientnet.data.groups import links, number_groups
from keras_efficientnet.report.check import CheckedImage, CopySet, DataCheck, LabelSuspect
from keras_efficientnet.training.label_errors import find_label_errors
from keras_efficientnet.training.probe import extract_features
from keras_efficientnet.weights import open_pretrained

PRETRAINED = "imagenet"
"""Weights whose features tell classes apart; they are installed with the package."""


def check_data(data: Dataset, labels: bool = True) -> DataCheck:
    """Looks for what is wrong with a data set.

    Args:
        data: such as `data.sources.load_measured("folder:photos", "all")`, of any splits.
        labels: look for wrong labels, too, which takes about as long as classifying all images.

    Raises:
        InputError: if labels are to be looked at and cannot be, see `find_label_errors`.
    """
    splits = {name: _files(examples) for name, examples in data.splits.items()}
    files = [file for part in splits.values() for file in part]
    images = [
        CheckedImage(
            str(file.path) if isinstance(data.splits[name], FileExamples) else None,
            name,
            index,
            data.class_names[file.label],
        )
        for name, part in splits.items()
        for index, file in enumerate(part)
    ]
    in_files = all(isinstance(each, FileExamples) for each in data.splits.values())
    near = near_pairs([file.fingerprint for file in files])
    copies = Copies.find(files) if in_files else Copies(files, near[:0], near)
    sides = np.sort([(file.height, file.width) for file in files], 1)
    counts = np.bincount([file.label for file in files])
    counts = counts[counts > 0]
    return DataCheck(
        data=data.summary,
        sizes={
            "smallest": _pair(sides.min(0)),
            "median": _pair(np.median(sides, 0)),
            "largest": _pair(sides.max(0)),
        },
        imbalance=round(float(counts.max() / counts.min()), 2),
        copies=_copy_sets(copies, images),
        suspects=_suspects(data, copies, images) if labels else None,
    )


def _files(examples: Examples) -> Sequence[ImageFile]:
    """Returns what is known of image files; of other images, the same without a path."""
    if isinstance(examples, FileExamples):
        return examples.files
    return [_described(image, label) for image, label in examples]


def _described(image: Image.Image, label: int) -> ImageFile:
    return ImageFile(Path(), label, 1, image.height, image.width, fingerprint(image))


def _pair(values: np.ndarray) -> tuple[int, int]:
    shorter, longer = np.rint(values).astype(int).tolist()
    return shorter, longer


def _copy_sets(copies: Copies, images: Sequence[CheckedImage]) -> tuple[CopySet, ...]:
    same = connected(len(images), copies.identical)
    members: dict[int, list[int]] = {}
    for index, number in enumerate(copies.sets.tolist()):
        members.setdefault(number, []).append(index)
    found = [
        CopySet(
            identical=len({same[index] for index in indices}) == 1,
            across_splits=len({images[index].split for index in indices}) > 1,
            labels_differ=len({images[index].label for index in indices}) > 1,
            images=tuple(images[index] for index in indices),
        )
        for indices in members.values()
        if len(indices) > 1
    ]
    return tuple(sorted(found, key=lambda each: not (each.across_splits or each.labels_differ)))


def _suspects(
    data: Dataset, copies: Copies, images: Sequence[CheckedImage]
) -> tuple[LabelSuspect, ...]:
    network, description = open_pretrained(PRETRAINED)
    size = description.image_size
    parts = [
        extract_features(network, examples, size, description.crop_fraction)
        for examples in data.splits.values()
    ]
    features, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    # A probe that has seen a copy, or another frame of the clip, would repeat its label.
    groups = number_groups(file.group for file in copies.files)
    together = connected(len(images), np.concatenate([links(groups), links(copies.sets)]))
    suspects, probabilities = find_label_errors(features, labels, together)
    return tuple(
        LabelSuspect(
            images[index],
            data.class_names[int(probabilities[index].argmax())],
            round(float(probabilities[index].max()), 4),
            round(float(probabilities[index, labels[index]]), 4),
        )
        for index in suspects.tolist()
    )
