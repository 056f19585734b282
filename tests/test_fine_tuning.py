"""Fine-tuning with the weights that come with the package, on real photos."""

from pathlib import Path

import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet import InputError
from keras_efficientnet.data.dataset import FileExamples
from keras_efficientnet.fine_tuning import calibrate, find_weights
from keras_efficientnet.training import recipe

FLOWERS = Path(__file__).resolve().parents[2] / "shared" / "data" / "flowers"
needs_flowers = pytest.mark.skipif(not FLOWERS.is_dir(), reason="the flowers are not there")


@pytest.fixture(scope="module")
def flowers():
    """Eight photos of each kind to train on, and eight held out."""
    import dataclasses

    data = ke.data.load(f"folder:{FLOWERS}")

    def few(examples: FileExamples) -> FileExamples:
        labels = examples.labels
        kinds = [np.flatnonzero(labels == label)[:8] for label in np.unique(labels)]
        return examples.subset(np.concatenate(kinds))

    return dataclasses.replace(data, train=few(data.train), test=few(data.test))


@needs_flowers
def test_a_probe_of_the_packaged_weights_knows_flowers(flowers):
    model, (epoch,) = ke.finetune("Lite0", flowers, recipe("probe", images=40), image_size=128)
    assert (epoch["epoch"], epoch["stage"]) == (0, "probe")
    assert epoch["val_accuracy"] > 0.6  # of five kinds
    images, labels = ke.data.evaluation_arrays(flowers.test, 128, flowers.crop_fraction, 99)
    scores = model.predict(images, verbose=0)
    assert (scores.argmax(-1) == labels).mean() == pytest.approx(epoch["val_accuracy"])
    # Calibrated already.
    assert calibrate(model, images, labels) == pytest.approx(1, abs=0.02)


@needs_flowers
def test_fine_tuning_ends_at_its_best_epoch(flowers):
    chosen = recipe("finetune", images=40, epochs=2, learning_rate=1e-4)
    model, history = ke.finetune("Lite0", flowers, chosen, image_size=96)
    assert [row["epoch"] for row in history] == [0, 1, 2]
    images, labels = ke.data.evaluation_arrays(flowers.test, 96, flowers.crop_fraction, 99)
    scores = model.predict(images, verbose=0)
    best = max(row["val_accuracy"] for row in history)
    assert (scores.argmax(-1) == labels).mean() == pytest.approx(best)
    assert best >= history[0]["val_accuracy"]


def test_weights_are_chosen_and_named(capsys):
    variant, weights = find_weights("Lite0", "auto")
    assert (variant.name, weights) == ("Lite0", "imagenet")
    assert variant.pixel_mean == (127.0,) * 3
    assert "Starting from weights 'imagenet' of Lite0" in capsys.readouterr().err
    # A published set brings the padding and the pixels that it was trained with.
    published = [entry for entry in ke.weights.registry.table() if entry.padding == "symmetric"]
    entry = published[0]
    variant, _ = find_weights(entry.variant, entry.name)
    assert variant.padding == "symmetric"
    assert find_weights("B0", "my.h5")[1] == "my.h5"
    with pytest.raises(InputError, match=r"No ImageNet weights of EfficientNet-EdgeTPU-S .* none"):
        find_weights("EdgeTPU-S", "auto")


def test_weights_out_of_reach_say_how_to_go_on(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"Cannot get https://.*--weights none"):
        find_weights("B7", "auto")


def test_what_does_not_fine_tune_is_refused():
    with pytest.raises(InputError, match=r"Recipe 'small' does not fine-tune; use finetune or pro"):
        ke.finetune("Lite0", "digits", recipe("small"))
    model = ke.EfficientNetLite0(weights=None, input_shape=(None, None, 3), classes=10)
    with pytest.raises(InputError, match=r"images of any size; pass image_size="):
        ke.finetune(model, "digits")
