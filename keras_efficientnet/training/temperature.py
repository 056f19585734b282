"""Temperature scaling: probabilities that mean what they say.

One number divides the logits so that the held-out images' likelihood is largest; no decision
changes (Guo et al., "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599).
"""

import keras
import numpy as np

from keras_efficientnet.training.freezing import CLASSIFIER

TEMPERATURES = (0.05, 20.0)
BINS = 15


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature that gives labels the largest likelihood.

    Args:
        logits: `[count, classes]`, or the logarithms of probabilities.
        labels: class indices, int `[count]`.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def cross_entropy(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), -1)
        return -scaled[np.arange(len(labels)), labels].mean()

    bounds = tuple(np.log(TEMPERATURES))
    return float(np.exp(minimize_scalar(cross_entropy, bounds=bounds, method="bounded").x))


def divide_logits(model: keras.Model, temperature: float) -> None:
    """Divides a network's logits, in the weights of its classifier: every export has it inside."""
    classifier = model.get_layer(CLASSIFIER)
    classifier.set_weights([values / temperature for values in classifier.get_weights()])


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> float:
    """Returns by how much confidence and accuracy differ, on average.

    Images are grouped by the probability of the predicted class into bins of equal width; the
    result is the mean of `|accuracy - mean probability|` of the bins, weighted by their images.

    Args:
        probabilities: `[count, classes]`.
        labels: class indices, int `[count]`.
        bins: number of groups.
    """
    confidence = probabilities.max(-1)
    correct = probabilities.argmax(-1) == labels
    group = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(group, correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
