"""What follows from the kind of label."""

import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet.task import SINGLE_LABEL, TASKS, get_task

SCORES = np.array([[0.1, 0.7, 0.2], [0.4, 0.4, 0.2], [0.2, 0.3, 0.5]])


def test_tasks_are_found_by_the_name_that_is_stored():
    assert get_task("single-label") is SINGLE_LABEL
    assert list(TASKS) == ["single-label"]
    with pytest.raises(ke.InputError, match="Unknown task 'guess'; choose single-label"):
        get_task("guess")


def test_the_best_class_is_the_decision_and_the_first_of_equals():
    np.testing.assert_array_equal(SINGLE_LABEL.decide(SCORES), [1, 0, 2])
    np.testing.assert_array_equal(SINGLE_LABEL.correct(SCORES, np.array([1, 1, 2])), [1, 0, 1])


def test_models_agree_where_they_name_the_same_class_first():
    other = np.array([[0.0, 0.6, 0.4], [0.3, 0.4, 0.3], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(SINGLE_LABEL.agree(SCORES, other), [1, 0, 1])


def test_top_five_counts_with_more_than_five_classes():
    labels = np.array([1, 1, 2])
    assert set(SINGLE_LABEL.measure(SCORES, labels)) == {"accuracy"}
    # All scores equal: the first five classes are the best five.
    measures = SINGLE_LABEL.measure(np.ones((3, 6)), np.array([0, 4, 5]))
    np.testing.assert_array_equal(measures["accuracy"], [1, 0, 0])
    np.testing.assert_array_equal(measures["top5_accuracy"], [1, 1, 0])


@pytest.mark.parametrize("from_logits", [True, False])
def test_the_loss_is_smoothed_cross_entropy(from_logits):
    labels = np.array([1, 1, 2])
    given = np.log(SCORES) if from_logits else SCORES
    target = 0.9 * np.eye(3)[labels] + 0.1 / 3
    expected = -(target * np.log(SCORES)).sum(-1).mean()
    assert float(SINGLE_LABEL.loss(0.1, from_logits)(labels, given)) == pytest.approx(expected)
    (accuracy,) = SINGLE_LABEL.metrics()
    assert float(np.mean(accuracy(labels, given))) == pytest.approx(2 / 3)
