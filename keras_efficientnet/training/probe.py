"""A linear probe: the classifier that is best on a frozen network's features, solved not stepped.

Multinomial logistic regression on the pooled features is a convex problem with one solution, so
there is no learning rate to choose and no epoch to wait for (Kornblith et al., "Do Better
ImageNet Models Transfer Better?", https://arxiv.org/abs/1805.08974, section 3).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np

from keras_efficientnet.bars import Bar
from keras_efficientnet.data import images
from keras_efficientnet.data.dataset import Examples
from keras_efficientnet.errors import InputError
from keras_efficientnet.training.freezing import CLASSIFIER

BATCH_SIZE = 32
# From strong to hardly any regularization, of features whose mean square is 1.
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
FOLDS = 4
# Cross-validation looks at so many images at most: its choice hardly changes with more.
MAX_CHOOSING = 4_000
# The logit of a class that has no training image, relative to all others'.
ABSENT_CLASS_BIAS = -10.0


@dataclass(frozen=True)
class Probe:
    """A linear classifier of features.

    Attributes:
        kernel: float32 `[features, classes]`.
        bias: float32 `[classes]`.
        strength: inverse of the L2 regularization (scikit-learn's `C`), as cross-validation chose.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns the logits `[count, classes]` of features `[count, features]`."""
        return features @ self.kernel + self.bias


def extract_features(
    model: keras.Model,
    examples: Examples,
    image_size: int,
    crop_fraction: float = 1.0,
    mirror: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes what a network's classifier sees of images, without changing the network.

    Args:
        model: a network that a builder of this package returned, with its classifier.
        examples: labelled images, such as `data.load("folder:photos").train`.
        image_size: side in pixels that the images are prepared at.
        crop_fraction: centre crop, see `data.images.prepare`.
        mirror: compute the features of every image's mirror image too.

    Returns:
        Features, float32 `[count, features]`, or `[count, 2, features]` with mirror images, and
        class indices, int `[count]`.

    Raises:
        InputError: if the model has no classifier of this package, or there is no image.
    """
    network = _without_classifier(model)
    if not len(examples):
        raise InputError("There are no images to compute features of.")
    features, labels = [], []
    with Bar(total=len(examples), desc="Computing features", unit="img", dynamic_ncols=True) as bar:
        for pixels, batch_labels in _batches(examples, image_size, crop_fraction):
            views = [pixels, pixels[:, :, ::-1]] if mirror else [pixels]
            features.append(np.stack([_predict(network, view) for view in views], 1))
            labels += batch_labels
            bar.update(len(pixels))
    found = np.concatenate(features)
    return found if mirror else found[:, 0], np.asarray(labels)


def fit_probe(
    features: np.ndarray, labels: np.ndarray, classes: int, *, balanced: bool = False
) -> Probe:
    """Solves multinomial logistic regression; cross-validation chooses its regularization.

    Args:
        features: float `[count, features]`, or `[count, views, features]` where an image has
            several, such as itself and its mirror image.
        labels: class indices, int `[count]`.
        classes: number of outputs. A class without an image gets the lowest logit.
        balanced: weight the loss so that every class counts equally.

    Raises:
        InputError: if the images are all of one class.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError("A probe needs images of at least two classes.")
    views = features if features.ndim == 3 else features[:, None]
    # A scale common to all features leaves the problem as it is, and STRENGTHS their meaning.
    scale = float(np.sqrt(np.mean(np.square(views), dtype=np.float64))) or 1.0
    views = (views / scale).astype(np.float32)
    strength = _choose_strength(views, labels, balanced)
    weights, biases = _solve(views, labels, strength, balanced)
    kernel = np.zeros((views.shape[-1], classes), np.float32)
    bias = np.full(classes, biases.min() + ABSENT_CLASS_BIAS, np.float32)
    kernel[:, present], bias[present] = weights.T / scale, biases
    return Probe(kernel, bias, strength)


def predict_unseen(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns what a probe that has not seen an image makes of it, for every image.

    Args:
        features: float `[count, features]`.
        labels: class indices, int `[count]`, of at least two images of each class from 0 on.
        groups: number of each image's group, int `[count]`, such as its copies; a probe has seen
            none of a group, or may have seen all of it.

    Returns:
        Probabilities, float `[count, classes]`, of as many probes as there are `FOLDS`, or fewer
        where a class has fewer images.
    """
    from scipy.special import softmax
    from sklearn.model_selection import StratifiedGroupKFold

    views = (features / (float(np.sqrt(np.mean(np.square(features)))) or 1.0))[:, None]
    strength = _choose_strength(views, labels, balanced=False)
    folds = StratifiedGroupKFold(
        min(FOLDS, np.bincount(labels).min()), shuffle=True, random_state=0
    )
    probabilities = np.zeros((len(labels), labels.max() + 1))
    for train, test in folds.split(views, labels, groups):
        present = np.unique(labels[train])
        weights, biases = _solve(views[train], labels[train], strength, balanced=False)
        logits = views[test, 0] @ weights.T + biases
        probabilities[np.ix_(test, present)] = softmax(logits, -1)
    return probabilities


def set_classifier(model: keras.Model, probe: Probe) -> None:
    """Makes a solved probe the classifier of the network whose features it was solved on."""
    model.get_layer(CLASSIFIER).set_weights([probe.kernel, probe.bias])


def _without_classifier(model: keras.Model) -> keras.Model:
    try:
        classifier = model.get_layer(CLASSIFIER)
    except ValueError:
        raise InputError(
            f"Model {model.name!r} has no layer {CLASSIFIER!r}, so that it has no features to "
            "probe; pass a network that a builder returned with include_top=True."
        ) from None
    return keras.Model(model.inputs, classifier.input)


def _batches(
    examples: Examples, size: int, crop_fraction: float
) -> Iterator[tuple[np.ndarray, list[int]]]:
    pixels, labels = [], []
    for image, label in examples:
        pixels.append(images.prepare(image, size, crop_fraction))
        labels.append(label)
        if len(pixels) == BATCH_SIZE:
            yield np.stack(pixels), labels
            pixels, labels = [], []
    if pixels:
        yield np.stack(pixels), labels


def _predict(network: keras.Model, pixels: np.ndarray) -> np.ndarray:
    # Filled up, so that the network is compiled for one size of batch alone.
    missing = BATCH_SIZE - len(pixels)
    filled = np.concatenate([pixels, np.repeat(pixels[-1:], missing, 0)])
    return np.asarray(network.predict_on_batch(filled), np.float32)[: len(pixels)]


def _choose_strength(views: np.ndarray, labels: np.ndarray, balanced: bool) -> float:
    """Returns the strength with the least cross-validated cross-entropy."""
    from scipy.special import softmax
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold, train_test_split

    common = np.isin(labels, np.flatnonzero(np.bincount(labels) >= 2))
    indices = np.flatnonzero(common)
    if len(indices) > MAX_CHOOSING:
        indices, _ = train_test_split(
            indices, train_size=MAX_CHOOSING, stratify=labels[indices], random_state=0
        )
    counts = np.bincount(labels[indices])
    folds = min(FOLDS, counts[counts > 0].min(initial=FOLDS))
    if folds < 2 or np.count_nonzero(counts) < 2:
        return 0.1  # one image a class: there is nothing to choose by
    losses = np.zeros(len(STRENGTHS))
    splits = StratifiedKFold(folds, shuffle=True, random_state=0)
    for train, test in splits.split(indices, labels[indices]):
        train, test = indices[train], indices[test]
        known = np.unique(labels[train])
        seen = test[np.isin(labels[test], known)]
        for position, strength in enumerate(STRENGTHS):
            # One view of each: others take time and hardly change the choice.
            weights, biases = _solve(views[train, :1], labels[train], strength, balanced)
            logits = views[seen, 0] @ weights.T + biases
            losses[position] += log_loss(labels[seen], softmax(logits, -1), labels=known)
    return STRENGTHS[int(losses.argmin())]


def _solve(
    views: np.ndarray, labels: np.ndarray, strength: float, balanced: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights `[classes, features]` and biases `[classes]` of the labels' classes."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    count, copies, width = views.shape
    solver = LogisticRegression(
        # The loss sums over views: as many times the images would need as many times the penalty.
        C=strength / copies,
        class_weight="balanced" if balanced else None,
        max_iter=1000,
    )
    # The products are too small for several threads, which would wait for one another.
    with threadpool_limits(1):
        solver.fit(views.reshape(count * copies, width), np.repeat(labels, copies))
    weights, biases = solver.coef_, solver.intercept_
    if len(weights) == 1:  # of two classes, scikit-learn gives the difference
        weights, biases = np.concatenate([-weights, weights]) / 2, np.tile(biases, 2) / 2
        biases = biases * np.array([-1, 1])
    return weights, biases
