import keras
import numpy as np
import pytest

from keras_efficientnet.losses import SmoothedCrossentropy, accuracy


@pytest.mark.parametrize("from_logits", [False, True])
def test_it_equals_the_formula_for_indices_and_distributions(from_logits):
    logits = np.array([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]], np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = np.array([[1, 0, 0], [0, 0, 1]]) * 0.9 + 0.1 / 3
    expected = -(target * np.log(probabilities)).sum(1).mean()
    loss = SmoothedCrossentropy(0.1, from_logits=from_logits)
    given = logits if from_logits else probabilities
    for labels in (np.array([0, 2]), np.array([[0], [2]]), np.eye(3, dtype="float32")[[0, 2]]):
        assert float(loss(labels, given)) == pytest.approx(expected, rel=1e-5)


def test_it_survives_saving():
    loss = SmoothedCrossentropy(0.1, from_logits=True)
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert (restored.label_smoothing, restored.from_logits) == (0.1, True)


def test_accuracy_takes_labels_of_either_kind():
    scores = np.array([[0.2, 0.8], [0.9, 0.1], [0.3, 0.7]], np.float32)
    for labels in ([1, 1, 1], [[1], [1], [1]], [[0.4, 0.6], [0.0, 1.0], [0.2, 0.8]]):
        right = accuracy(np.array(labels), scores)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(right), [1, 0, 1])
