"""Images that are copies of one another: the same bytes, or the same picture encoded anew.

A picture's fingerprint is a thumbnail in grey. Two are compared without their brightness and
contrast, by the distance of their unit vectors, which a correlation r puts at sqrt(2 - 2 r). Of
photographs encoded as JPEG at quality 20 to 95 or resized to 40 % it was at most 0.06; between
different ones of the same kind at least 0.22 (hands before one wall), mostly above 0.5.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_efficientnet.data.dataset import KINDS, ImageFile
from keras_efficientnet.data.splits import SPLITS
from keras_efficientnet.data.threads import in_threads

SIDE = 16
NEAR = 0.12
"""Distance of fingerprints below which two images show the same picture."""
FLAT = 2.0
"""Images whose grey levels deviate less are plain: there is no picture to compare."""
# Images that each is compared with, at most, and values that a step of this takes into memory.
_NEIGHBOURS = 16
_AT_ONCE = 2**23


def fingerprint(image: Image.Image) -> bytes:
    """Returns the grey levels of an image's thumbnail, of `SIDE` by `SIDE` pixels."""
    return image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC).tobytes()


def near_pairs(fingerprints: Sequence[bytes]) -> np.ndarray:
    """Finds images that show the same picture.

    Args:
        fingerprints: of the images; an empty one is compared with none.

    Returns:
        Index pairs, int `[pairs, 2]`, the smaller index first. In a crowd of more than 16 images
        that are all alike, each is paired with its nearest 16 at least.
    """
    from scipy.spatial import KDTree

    known = [index for index, content in enumerate(fingerprints) if content]
    levels = np.frombuffer(b"".join(fingerprints), np.uint8).reshape(len(known), SIDE**2)
    vectors = levels - levels.mean(1, keepdims=True, dtype=np.float32)
    usable = vectors.std(1) >= FLAT
    vectors, indices = vectors[usable], np.array(known, int)[usable]
    if len(vectors) < 2:
        return np.empty((0, 2), int)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Sums of 4 by 4 pixels over 4 are a projection, which never lengthens a distance: no pair is
    # lost, and few others are left to look at.
    seen = vectors.reshape(-1, 4, 4, 4, 4).sum((2, 4)).reshape(-1, 16) / 4
    _, found = KDTree(seen).query(
        seen, min(len(seen), _NEIGHBOURS + 1), distance_upper_bound=NEAR, workers=-1
    )
    first, rank = np.nonzero(found < len(seen))
    pairs = np.stack([first, found[first, rank]], 1)
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], 1), axis=0)
    near = [
        np.linalg.norm(vectors[part[:, 0]] - vectors[part[:, 1]], axis=1) < NEAR
        for part in np.array_split(pairs, 1 + pairs.size * SIDE**2 // _AT_ONCE)
    ]
    return indices[pairs[np.concatenate(near)]]


def identical_pairs(files: Sequence[ImageFile]) -> np.ndarray:
    """Finds files of the same bytes; only those of equal fingerprint and size are read.

    Returns:
        Index pairs, int `[pairs, 2]`, of each file with the first of the same bytes.
    """
    alike: dict[tuple[bytes, int], list[int]] = {}
    for index, file in enumerate(files):
        alike.setdefault((file.fingerprint, file.path.stat().st_size), []).append(index)
    candidates = [index for group in alike.values() if len(group) > 1 for index in group]
    digests = in_threads(_digest, [files[index].path for index in candidates])
    first: dict[bytes, int] = {}
    pairs = [
        (first.setdefault(digest, index), index)
        for index, digest in zip(candidates, digests, strict=True)
    ]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], int).reshape(-1, 2)


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def connected(count: int, pairs: np.ndarray) -> np.ndarray:
    """Returns a number for each of `count` images, equal for those that pairs connect."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(links, directed=False)[1]


@dataclass(frozen=True)
class Copies:
    """Which of some images are copies of one another.

    Attributes:
        files: the images.
        identical: index pairs, int `[pairs, 2]`, see `identical_pairs`.
        near: likewise, see `near_pairs`; without files of the same bytes.
    """

    files: Sequence[ImageFile]
    identical: np.ndarray
    near: np.ndarray

    @classmethod
    def find(cls, files: Sequence[ImageFile]) -> "Copies":
        """Compares all images with one another."""
        identical = identical_pairs(files)
        near = near_pairs([file.fingerprint for file in files])
        same = connected(len(files), identical)
        return cls(files, identical, near[same[near[:, 0]] != same[near[:, 1]]])

    @property
    def sets(self) -> np.ndarray:
        """A number for each image, equal for those that are copies of one another."""
        return connected(len(self.files), np.concatenate([self.identical, self.near]))

    def of_other_classes(self) -> np.ndarray:
        """Index pairs of images that are the same, or nearly, and have different labels."""
        pairs = np.concatenate([self.identical, self.near])
        labels = np.array([file.label for file in self.files], int)
        return pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]

    def across(self, splits: Sequence[str], one: str, other: str) -> Iterator[tuple[str, Any]]:
        """Yields how images of two splits are alike, and the index pairs of those that are.

        Args:
            splits: the split of each image.
            one: name of a split.
            other: of another; each of its images is in one pair at most.
        """
        here, there = (np.flatnonzero(np.array(splits) == name) for name in (one, other))
        same = connected(len(self.files), self.identical)
        first = dict(zip(same[here][::-1].tolist(), here[::-1].tolist(), strict=True))
        identical = {index: first[same[index]] for index in there.tolist() if same[index] in first}
        near: dict[int, int] = {}
        for pair in self.near.tolist():
            for source, copy in (pair, pair[::-1]):
                if splits[source] == one and splits[copy] == other and copy not in identical:
                    near.setdefault(copy, source)
        for how, found in (("identical", identical), ("nearly identical", near)):
            if found:
                yield how, sorted((source, copy) for copy, source in found.items())

    def describe(self, splits: Sequence[str], class_names: Sequence[str]) -> list[str]:
        """Returns sentences on copies in different splits or with different labels.

        Args:
            splits: the split of each image.
            class_names: by class index.
        """
        path = [file.path for file in self.files]
        notes = []
        present = [name for name in SPLITS if name in set(splits)]
        for one, other in itertools.combinations(present, 2):
            for how, pairs in self.across(splits, one, other):
                source, copy = pairs[0]
                notes.append(
                    f"{len(pairs)} {KINDS[other]} images are {how} to {KINDS[one]} images, such "
                    f"as {path[copy]} to {path[source]}."
                )
        if len(odd := self.of_other_classes()):
            shown = " and ".join(
                f"{path[index]} ({class_names[self.files[index].label]})" for index in odd[0]
            )
            notes.append(
                f"{len(odd)} pairs of images that are the same, or nearly, have different labels, "
                f"such as {shown}."
            )
        return notes
