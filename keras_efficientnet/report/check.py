"""What a look at data found, as plain records, and the page that shows it."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from keras_efficientnet.data.dataset import Dataset, ReadingSummary
from keras_efficientnet.report.render import environment, theme_variables, thumbnail

TEMPLATE = "check.html.j2"
# Sets of copies, images of one, and labels that the page shows.
MAX_SETS, MAX_OF_SET, MAX_SUSPECTS = 50, 6, 200


@dataclass(frozen=True)
class CheckedImage:
    """An image that something is said of.

    Attributes:
        path: of its file; None where it has none.
        split: that it is in; `all` of data without splits.
        index: in the split.
        label: its class.
    """

    path: str | None
    split: str
    index: int
    label: str


@dataclass(frozen=True)
class CopySet:
    """Images that are copies of one another.

    Attributes:
        identical: whether their files are the same, byte by byte.
        across_splits: whether they are in several splits.
        labels_differ: whether they are of several classes.
        images: two or more.
    """

    identical: bool
    across_splits: bool
    labels_differ: bool
    images: tuple[CheckedImage, ...]


@dataclass(frozen=True)
class LabelSuspect:
    """An image whose label is probably wrong.

    Attributes:
        image: with its label.
        suggested: class that a probe takes it for.
        probability: of that class.
        own_probability: of its label.
    """

    image: CheckedImage
    suggested: str
    probability: float
    own_probability: float


@dataclass(frozen=True)
class DataCheck:
    """What `check_data` found.

    Attributes:
        data: what was read and what was left out.
        sizes: shorter and longer side in pixels of the `smallest`, `median` and `largest` images,
            each of the two by itself.
        imbalance: images of the largest class for each of the smallest, over all splits.
        copies: sets of copies; those across splits or with different labels first.
        suspects: labels that are probably wrong, the most probable first; None where they were not
            looked for.
    """

    data: ReadingSummary
    sizes: Mapping[str, tuple[int, int]]
    imbalance: float
    copies: tuple[CopySet, ...]
    suspects: tuple[LabelSuspect, ...] | None

    @property
    def shown_copies(self) -> tuple[tuple[CopySet, tuple[CheckedImage, ...]], ...]:
        """Sets of copies that a page has room for, and of each some images."""
        return tuple((each, each.images[:MAX_OF_SET]) for each in self.copies[:MAX_SETS])

    @property
    def shown_suspects(self) -> tuple[LabelSuspect, ...]:
        """Labels that a page has room for."""
        return (self.suspects or ())[:MAX_SUSPECTS]


def render_check(check: DataCheck, data: Dataset) -> str:
    """Returns the page, which needs no other file.

    Args:
        check: what was found.
        data: that it was found in, whose images are shown.
    """
    shown = [image for _, images in check.shown_copies for image in images]
    shown += [suspect.image for suspect in check.shown_suspects]
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            {field.name: getattr(check, field.name) for field in dataclasses.fields(check)},
            title=f"Data {check.data.source}",
            themes=theme_variables(),
            copy_sets=check.shown_copies,
            shown_suspects=check.shown_suspects,
            thumbnails=_thumbnails(shown, data),
        )
    )


def _thumbnails(images: Iterable[CheckedImage], data: Dataset) -> dict[tuple[str, int], str]:
    """Returns a picture of each image by its split and index."""
    wanted: dict[str, set[int]] = {}
    for image in images:
        wanted.setdefault(image.split, set()).add(image.index)
    return {
        (split, index): thumbnail(np.asarray(image))
        for split, indices in wanted.items()
        for index, (image, _) in zip(
            sorted(indices), data.splits[split].some(sorted(indices)), strict=True
        )
    }
