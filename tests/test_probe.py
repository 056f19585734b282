import keras
import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

import keras_efficientnet as ke
from keras_efficientnet import InputError
from keras_efficientnet.data.dataset import ArrayExamples
from keras_efficientnet.training import extract_features, fit_probe, probe, set_classifier

CLASSES = 4


@pytest.fixture(scope="module")
def clouds():
    """Features of four overlapping classes, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % CLASSES
    centres = rng.normal(size=(CLASSES, 30))
    return (centres[labels] + rng.normal(size=(120, 30))).astype(np.float32), labels


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    return ArrayExamples(rng.integers(0, 256, (70, 40, 40, 3), np.uint8), np.arange(70) % CLASSES)


@pytest.fixture(scope="module")
def model(small):
    return ke.EfficientNet(small, input_shape=(40, 40, 3), classes=CLASSES)


def objective(kernel, bias, features, labels, strength):
    scores = log_softmax(features @ kernel + bias, -1)
    return strength * -scores[np.arange(len(labels)), labels].sum() + 0.5 * np.square(kernel).sum()


def test_a_probe_is_the_solved_optimum(clouds):
    features, labels = clouds
    found = fit_probe(features, labels, CLASSES)
    assert found.strength in probe.STRENGTHS
    scale = np.sqrt(np.square(features).mean())
    exact = LogisticRegression(C=found.strength, tol=1e-10, max_iter=100_000)
    exact.fit(features / scale, labels)
    best = objective(exact.coef_.T, exact.intercept_, features / scale, labels, found.strength)
    mine = objective(found.kernel * scale, found.bias, features / scale, labels, found.strength)
    assert mine == pytest.approx(best, rel=1e-4)
    assert (found.logits(features).argmax(-1) == labels).mean() > 0.9


def test_the_scale_of_features_does_not_matter(clouds):
    features, labels = clouds
    one, other = fit_probe(features, labels, CLASSES), fit_probe(1000 * features, labels, CLASSES)
    assert one.strength == other.strength
    np.testing.assert_allclose(
        one.logits(features), other.logits(1000 * features), rtol=1e-3, atol=1e-3
    )


def test_regularization_is_chosen_by_images_left_out():
    """Pure noise is best left alone; classes far apart are not."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    noise = rng.normal(size=(200, 50))
    assert fit_probe(noise, labels, 2).strength == probe.STRENGTHS[0]
    assert fit_probe(noise + 2 * labels[:, None], labels, 2).strength > probe.STRENGTHS[0]


def test_two_views_of_an_image_are_one_image(clouds):
    features, labels = clouds
    once = fit_probe(features, labels, CLASSES)
    twice = fit_probe(np.stack([features, features], 1), labels, CLASSES)
    assert once.strength == twice.strength
    np.testing.assert_allclose(once.logits(features), twice.logits(features), atol=0.02)


def test_two_classes_and_classes_without_images(clouds):
    features, labels = clouds
    two = labels < 2
    found = fit_probe(features[two], labels[two], CLASSES)
    assert found.kernel.shape == (30, CLASSES)
    logits = found.logits(features[two])
    assert (logits.argmax(-1) == labels[two]).mean() > 0.9
    assert np.isfinite(logits).all()
    assert logits[:, 2:].max() < logits[:, :2].max(-1).min()
    binary = LogisticRegression(C=found.strength, tol=1e-8, max_iter=10_000)
    scale = np.sqrt(np.square(features[two]).mean())
    binary.fit(features[two] / scale, labels[two])
    difference = logits[:, 1] - logits[:, 0]
    expected = binary.decision_function(features[two] / scale)
    np.testing.assert_allclose(difference, expected, atol=0.02)


@pytest.mark.parametrize("count", [1, 2])
def test_a_few_images_a_class_are_enough(clouds, count):
    features, labels = clouds
    few = np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(CLASSES)])
    found = fit_probe(features[few], labels[few], CLASSES)
    assert (found.logits(features[few]).argmax(-1) == labels[few]).all()


def test_balanced_classes_count_alike(clouds):
    features, labels = clouds
    kept = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:3]])
    rare = labels == 1

    def recall(balanced):
        found = fit_probe(features[kept], labels[kept], 2, balanced=balanced)
        return (found.logits(features[rare]).argmax(-1) == 1).mean()

    assert recall(balanced=True) >= recall(balanced=False)


def test_one_class_is_refused(clouds):
    features, _ = clouds
    with pytest.raises(InputError, match="at least two classes"):
        fit_probe(features, np.zeros(len(features), int), CLASSES)


def test_features_are_what_the_classifier_sees(model, examples):
    features, labels = extract_features(model, examples, 40)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(labels, examples.labels)
    kernel, bias = model.get_layer("predictions").get_weights()
    logits = features @ kernel + bias
    expected = model.predict(examples.pixels, verbose=0)
    np.testing.assert_allclose(np.exp(log_softmax(logits, -1)), expected, atol=1e-5)

    both, _ = extract_features(model, examples, 40, mirror=True)
    np.testing.assert_allclose(both[:, 0], features, atol=1e-5)
    mirrored = ArrayExamples(examples.pixels[:, :, ::-1], examples.labels)
    np.testing.assert_allclose(both[:, 1], extract_features(model, mirrored, 40)[0], atol=1e-5)


def test_the_network_computes_what_the_probe_does(model, examples):
    features, labels = extract_features(model, examples, 40)
    found = fit_probe(features, labels, CLASSES)
    set_classifier(model, found)
    expected = np.exp(log_softmax(found.logits(features), -1))
    np.testing.assert_allclose(model.predict(examples.pixels, verbose=0), expected, atol=1e-4)


def test_what_has_no_classifier_or_no_images_is_refused(small, examples):
    headless = ke.EfficientNet(small, include_top=False, input_shape=(40, 40, 3))
    with pytest.raises(InputError, match=r"no layer 'predictions'.*include_top=True"):
        extract_features(headless, examples, 40)
    with pytest.raises(InputError, match="no images"):
        extract_features(
            keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="predictions")]),
            examples.subset([]),
            40,
        )
