"""The registry's entries, and downloads through Keras' cache from a server on this machine."""

import functools
import hashlib
import http.server
import shutil
import tarfile
import threading
from dataclasses import replace

import keras
import numpy as np
import pytest
from weights_helpers import APPLICATIONS, images, outputs, randomize

import keras_efficientnet as ke
from keras_efficientnet import spec
from keras_efficientnet.weights import download, registry


@pytest.fixture(scope="module")
def network():
    return ke.EfficientNetB0(input_shape=(64, 64, 3))


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder that a web server shows, and an empty cache; yields both and the address."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("KERAS_HOME", str(cache))
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    # One thread, so that leaving the block has closed every connection.
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, cache / "models", f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


def publish(monkeypatch, entry):
    """Puts an entry in the place of the published one of that name."""
    others = [e for e in registry.table() if (e.variant, e.name) != (entry.variant, entry.name)]
    monkeypatch.setattr(registry, "_PUBLISHED", (entry, *others))


def test_entries_are_those_of_keras_applications():
    from keras.src.applications import efficientnet, efficientnet_v2

    for variant in APPLICATIONS:
        entry = registry.find(variant, "imagenet")
        module = efficientnet_v2 if variant.startswith("V2") else efficientnet
        key = variant.removeprefix("V2").lower()
        key = key.removeprefix("-") if "b" in key else key
        assert (entry.hash, entry.notop_hash) == module.WEIGHTS_HASHES[key]
        name = f"efficientnet{variant.lower()}"
        assert entry.url == f"{module.BASE_WEIGHTS_PATH}{name}.h5"
        assert entry.notop_url == f"{module.BASE_WEIGHTS_PATH}{name}_notop.h5"


@pytest.mark.torch
def test_entries_are_those_of_torchvision():
    torch_peers = pytest.importorskip("torch_peers", exc_type=ImportError)
    published = {}
    for weights in torch_peers.torchvision.models.list_models(include="efficientnet*"):
        for member in torch_peers.torchvision.models.get_model_weights(weights):
            published[member.url] = member.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    entries = [entry for entry in registry.table() if entry.layout == "torchvision-pth"]
    assert len(entries) == 11
    for entry in entries:
        assert entry.top1 == published[entry.url]


def test_the_table_is_consistent():
    table = registry.table()
    names = [(entry.variant, entry.name) for entry in table]
    assert len(names) == len(set(names))
    files = [download.cache_name(entry, entry.url) for entry in table]
    assert len(files) == len(set(files))
    for entry in table:
        assert entry.variant in spec.VARIANTS
        assert entry.url.startswith("https://")
        assert entry.hash is None or len(entry.hash) in (8, 32)
    assert {e.name for e in table if e.variant == "B7"} == {
        "imagenet",
        "autoaugment",
        "advprop",
        "noisy-student",
        "randaugment",
        "torchvision",
    }
    assert {e.name for e in table if e.variant == "V2-XL"} == {"imagenet21k", "imagenet21k-ft1k"}
    # TPU README and AML README.
    assert registry.find("B8", "advprop").top1 == 85.5
    assert registry.find("L2", "noisy-student").top1 == 88.4
    assert registry.find("V2-S", "imagenet21k").url.endswith("/v2/efficientnetv2-s-21k.tgz")
    assert registry.find("V2-S", "imagenet21k-ft1k").top1 == 84.9


def test_adversarial_pixels():
    entry = registry.find("B0", "advprop")
    mean, std = entry.spec().pixel_mean, entry.spec().pixel_std
    for pixel in (0, 255, 100):
        assert (pixel - mean[0]) / std[0] == pytest.approx(pixel * 2 / 255 - 1)


def test_an_unknown_name_lists_the_known(network):
    with pytest.raises(ke.InputError, match="imagenet, baseline, autoaugment, advprop"):
        ke.load_weights(network, "imagenette")
    with pytest.raises(ke.InputError, match="none are published in a usable form"):
        registry.find("EdgeTPU-S", "imagenet")


def test_other_pixels_are_refused_before_any_download(network):
    with pytest.raises(ke.InputError, match=r"need pixel_mean=\(127.5, 127.5, 127.5\)"):
        ke.load_weights(network, "advprop")
    with pytest.raises(ke.InputError, match="need padding='symmetric'"):
        ke.load_weights(network, "torchvision")


def test_download_verify_and_load(network, served, monkeypatch):
    folder, models, address = served
    source = randomize(ke.EfficientNetB0(input_shape=(64, 64, 3)))
    source.save(folder / "efficientnetb0.h5")
    digest = hashlib.md5((folder / "efficientnetb0.h5").read_bytes()).hexdigest()
    entry = registry.find("B0", "imagenet")
    publish(monkeypatch, replace(entry, url=f"{address}/efficientnetb0.h5", hash=digest))
    assert ke.load_weights(network, "imagenet").complete
    np.testing.assert_array_equal(outputs(network, images()), outputs(source, images()))
    assert (models / "efficientnetb0.h5").exists()

    (folder / "efficientnetb0.h5").unlink()
    built = ke.EfficientNetB0(input_shape=(64, 64, 3), weights="imagenet")
    np.testing.assert_array_equal(outputs(built, images()), outputs(source, images()))


def test_no_network_names_the_address_and_the_place(network, served, monkeypatch):
    _, models, address = served
    entry = registry.find("B0", "imagenet")
    url = f"{address}/efficientnetb0.h5"
    publish(monkeypatch, replace(entry, url=url))
    with pytest.raises(ke.InputError) as caught:
        ke.load_weights(network, "imagenet")
    for part in (url, str(models / "efficientnetb0.h5"), str(entry.hash)):
        assert part in str(caught.value)


def test_a_wrong_hash_is_refused(network, served, monkeypatch):
    folder, models, address = served
    (folder / "efficientnetb0.h5").write_bytes(b"not what was published")
    url = f"{address}/efficientnetb0.h5"
    publish(monkeypatch, replace(registry.find("B0", "imagenet"), url=url))
    with pytest.raises(ke.InputError, match="hash") as caught:
        ke.load_weights(network, "imagenet")
    assert url in str(caught.value)
    assert str(models / "efficientnetb0.h5") in str(caught.value)


def test_a_wrong_digest_of_torchvisions_kind(served, monkeypatch):
    folder, _, address = served
    (folder / "efficientnet_b0.pth").write_bytes(b"not what was published")
    entry = replace(registry.find("B0", "torchvision"), url=f"{address}/efficientnet_b0.pth")
    with pytest.raises(ke.InputError, match="SHA-256 starts with 7f5810bc"):
        download.fetch(entry)


def test_an_archive_of_a_checkpoint(served, monkeypatch, tmp_path):
    tensorflow = pytest.importorskip("test_weights_tensorflow")
    folder, _, address = served
    entry = registry.find("B0", "advprop")
    network = ke.EfficientNet(entry.spec(), input_shape=(64, 64, 3))
    source = randomize(ke.EfficientNet(entry.spec(), input_shape=(64, 64, 3)))
    values = tensorflow.as_google(source, "efficientnet-b0", "B0")
    tensorflow.write(values, tmp_path / "efficientnet-b0" / "model.ckpt")
    with tarfile.open(folder / "efficientnet-b0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "efficientnet-b0", "efficientnet-b0")
    publish(monkeypatch, replace(entry, url=f"{address}/efficientnet-b0.tar.gz"))
    assert ke.load_weights(network, "advprop").complete
    np.testing.assert_array_equal(outputs(network, images()), outputs(source, images()))


def test_names_and_files_do_not_meet(network, tmp_path, monkeypatch):
    """A file called as a set of weights is the file; a path that is missing is no name."""
    monkeypatch.chdir(tmp_path)
    network.save_weights("own.weights.h5")
    shutil.move("own.weights.h5", "imagenet")
    assert ke.load_weights(network, "imagenet").layout.startswith("Keras .weights.h5")
    with pytest.raises(ke.InputError, match="does not exist"):
        ke.load_weights(network, "imagenet.h5")


def test_a_network_of_no_published_structure():
    small = replace(spec.VARIANTS["B0"], name="small", width=0.5)
    network = ke.EfficientNet(small, input_shape=(32, 32, 3))
    with pytest.raises(ke.InputError, match="has no published variant's structure"):
        ke.load_weights(network, "imagenet")
    assert isinstance(network, keras.Model)
