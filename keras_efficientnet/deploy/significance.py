"""What a number of images says: intervals of shares, and which differences chance explains."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
# With fewer images of a class there is no verdict on it.
MIN_CLASS_IMAGES = 10


@dataclass(frozen=True)
class Interval:
    """Values between which a true one lies, with a confidence of 95 %.

    Attributes:
        low: the lower end.
        high: the upper end.
    """

    low: float
    high: float


@dataclass(frozen=True)
class AccuracyChange:
    """How the accuracy of a file differs from that of the model on the same labelled images.

    Attributes:
        difference: accuracy of the file less that of the model.
        interval: of the difference (Agresti & Min, 2005).
        lost: images that the model decides rightly and the file does not.
        gained: images that the file decides rightly and the model does not.
        p_value: of McNemar's exact test: how likely chance alone makes `lost` and `gained` differ
            as much.
    """

    difference: float
    interval: Interval
    lost: int
    gained: int
    p_value: float


@dataclass(frozen=True)
class ClassAgreement:
    """The images of one class on which a file decides as the model does.

    Attributes:
        index: of the class.
        images: their number.
        agreeing: of them, those on which both decide alike.
    """

    index: int
    images: int
    agreeing: int


def wilson(count: int, total: int) -> Interval:
    """Returns Wilson's score interval of a share.

    Args:
        count: of successes.
        total: of trials, at least 1.
    """
    from scipy.stats import binomtest

    found = binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def accuracy_change(before: np.ndarray, after: np.ndarray) -> AccuracyChange:
    """Compares two models on the same images.

    Args:
        before: whether the one is right, bool `[count]`.
        after: whether the other is.
    """
    from scipy.stats import binomtest, norm

    total = len(before)
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    # Half an image more in each cell keeps the interval from having no width.
    one, other, images = lost + 0.5, gained + 0.5, total + 2
    centre = (other - one) / images
    spread = np.sqrt(one + other - (other - one) ** 2 / images) / images
    reach = norm.ppf((1 + CONFIDENCE) / 2) * spread
    changed = lost + gained
    return AccuracyChange(
        difference=(gained - lost) / total,
        interval=Interval(float(centre - reach), float(centre + reach)),
        lost=lost,
        gained=gained,
        p_value=float(binomtest(lost, changed).pvalue) if changed else 1.0,
    )


def by_class(classes: np.ndarray, agree: np.ndarray) -> list[ClassAgreement]:
    """Counts agreement for each class.

    Args:
        classes: class index of each image, `[count]`.
        agree: whether both models decide alike, bool `[count]`.
    """
    return [
        ClassAgreement(
            int(index), int((classes == index).sum()), int(agree[classes == index].sum())
        )
        for index in np.unique(classes)
    ]


def worse_classes(found: Sequence[ClassAgreement], share: float) -> list[ClassAgreement]:
    """Returns the classes whose agreement lies below a share by more than chance explains.

    All classes together are named without cause in one of twenty cases at most (Bonferroni).

    Args:
        found: classes of fewer images than `MIN_CLASS_IMAGES` are left out.
        share: that is asked for.
    """
    from scipy.stats import binom

    judged = [each for each in found if each.images >= MIN_CLASS_IMAGES]
    level = (1 - CONFIDENCE) / max(len(judged), 1)
    return [each for each in judged if binom.cdf(each.agreeing, each.images, share) < level]
