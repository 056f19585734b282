"""Intervals and tests of shares, against published or hand-computed values."""

import numpy as np
import pytest

from keras_efficientnet.deploy.significance import (
    ClassAgreement,
    accuracy_change,
    by_class,
    wilson,
    worse_classes,
)


def test_wilson_intervals():
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for (count, total), low, high in (
        ((81, 263), 0.2553, 0.3662),
        ((15, 148), 0.0624, 0.1605),
        ((0, 20), 0.0000, 0.1611),
        ((1, 29), 0.0061, 0.1718),
    ):
        found = wilson(count, total)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_a_change_of_accuracy():
    before = np.array([True] * 90 + [False] * 10)
    after = before.copy()
    after[:6] = False  # lost
    after[90:91] = True  # gained
    change = accuracy_change(before, after)
    assert (change.lost, change.gained) == (6, 1)
    assert change.difference == pytest.approx(-0.05)
    assert change.p_value == pytest.approx(2 * (1 + 7) / 2**7)  # two-sided, of 7 coin tosses
    assert change.interval.low < -0.05 < change.interval.high
    same = accuracy_change(before, before)
    assert (same.difference, same.p_value) == (0, 1)
    assert same.interval.low < 0 < same.interval.high


def test_a_class_that_loses_more_than_chance_explains_is_found():
    # 1,188 good parts and 12 defects: 99.6 % agree, and a third of the defects do not.
    classes = np.array([0] * 1188 + [1] * 12)
    agree = np.ones(1200, bool)
    agree[[0, *range(1188, 1192)]] = False
    found = by_class(classes, agree)
    assert found == [ClassAgreement(0, 1188, 1187), ClassAgreement(1, 12, 8)]
    assert worse_classes(found, 0.97) == [found[1]]
    assert worse_classes(found, 0.5) == []


def test_few_images_and_small_losses_make_no_verdict():
    assert worse_classes([ClassAgreement(0, 9, 0)], 0.97) == []
    assert worse_classes([ClassAgreement(0, 20, 19), ClassAgreement(1, 30, 28)], 0.97) == []
