"""Evaluation: matched by class names, counted by class, the same in batches of any size."""

import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet import InputError, deploy
from keras_efficientnet.data import sources
from keras_efficientnet.deploy.evaluation import Confusion, Tally
from keras_efficientnet.description import ModelDescription

NAMES = ("chat", "犬", "лиса")


pytest_plugins = "photo_helpers"


def labelled(photos, labels, names):
    examples = sources.ArrayExamples(photos, labels)
    return sources.Dataset("photos", "photos", names, examples, examples, 1.0, False)


def test_evaluation_matches_classes_by_name(model_files, model, photos, expected, tmp_path):
    predictor = ke.Predictor(model_files["keras"])
    best = expected.argmax(1)
    to_data = {0: 2, 1: 0, 2: 1}  # the data lists the same names in another order
    names = ("犬", "лиса", "chat")
    labels = np.array([to_data[label] for label in best])
    result = deploy.evaluate(predictor, labelled(photos, labels, names))
    assert (result.images, result.accuracy, result.confusions) == (24, 1, ())
    assert result.top5_accuracy is None
    counts = {name: int((best == index).sum()) for index, name in enumerate(NAMES)}
    assert {name: row.images for name, row in result.classes.items()} == {
        name: count for name, count in counts.items() if count
    }
    wrong = deploy.evaluate(predictor, labelled(photos, (labels + 1) % 3, names))
    assert wrong.accuracy == 0
    assert {(row.label, row.taken_for): row.images for row in wrong.confusions} == {
        (names[(to_data[index] + 1) % 3], NAMES[index]): counts[NAMES[index]]
        for index in set(best.tolist())
    }
    with pytest.raises(InputError, match="'wolf' is not among the model's: chat"):
        deploy.evaluate(predictor, labelled(photos, best, ("chat", "wolf", "лиса")))
    model.save(tmp_path / "nameless.keras")
    nameless = ke.Predictor(tmp_path / "nameless.keras")
    with pytest.raises(InputError, match="tells 3 classes apart and the data has 4"):
        deploy.evaluate(nameless, labelled(photos, best, ("a", "b", "c", "d")))


def test_evaluation_counts_the_five_best_of_more_classes(small, photos, tmp_path):
    names = tuple("abcdefgh")
    model = ke.EfficientNet(small, classes=8, input_shape=(64, 64, 3))
    description = ModelDescription("small", names, 64, 0.875)
    deploy.save_keras(model, tmp_path / "m.keras", description)
    predictor = ke.Predictor(tmp_path / "m.keras")
    scores = predictor.scores(np.stack([predictor.prepare(photo) for photo in photos]))
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.arange(len(photos)) % 7  # 0 to 6, so that some are among the best five
    labels = order[np.arange(len(photos)), ranks]
    result = deploy.evaluate(predictor, labelled(photos, labels, names))
    assert result.accuracy == pytest.approx(np.mean(ranks == 0))
    assert result.top5_accuracy == pytest.approx(np.mean(ranks < 5))
    for index, name in enumerate(names):
        if (labels == index).any():
            share = np.mean(ranks[labels == index] < 5)
            assert result.classes[name].top5_accuracy == pytest.approx(share)
    assert sum(row.images for row in result.confusions) == np.sum(ranks > 0)


def test_a_tally_counts_alike_in_any_batches():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((50, 7)), rng.integers(0, 4, 50)
    whole, parts = (Tally(("a", "b", "c", "d", "e")) for _ in range(2))
    whole.add(scores, labels)
    for part in np.array_split(np.arange(50), 9):
        parts.add(scores[part], labels[part])
    result = whole.result()
    assert parts.result() == result
    assert result.images == 50 == sum(row.images for row in result.classes.values())
    assert result.accuracy == np.mean(scores.argmax(1) == labels)
    assert list(result.classes) == ["a", "b", "c", "d"]
    taken_for = {row.taken_for for row in result.confusions}
    assert {"e", "class 5", "class 6"} <= taken_for  # one more than the names tell
    counts = [row.images for row in result.confusions]
    assert counts == sorted(counts, reverse=True)


def test_of_equal_scores_the_first_class_wins():
    tally = Tally(tuple("abcdefg"))
    tally.add(np.zeros((3, 7)), np.array([0, 4, 5]))
    result = tally.result()
    assert result.accuracy == pytest.approx(1 / 3)
    assert result.top5_accuracy == pytest.approx(2 / 3)
    assert result.confusions == (Confusion("e", "a", 1), Confusion("f", "a", 1))
