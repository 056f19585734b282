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
from keras_efficientnet.weights.registry import RemoteFile


@pytest.fixture(scope="module")
def network():
    return ke.EfficientNetB0(weights=None, input_shape=(64, 64, 3))


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
        assert entry.notop
        assert (entry.file.hash, entry.notop.hash) == module.WEIGHTS_HASHES[key]
        name = f"efficientnet{variant.lower()}"
        assert entry.file.url == f"{module.BASE_WEIGHTS_PATH}{name}.h5"
        assert entry.notop.url == f"{module.BASE_WEIGHTS_PATH}{name}_notop.h5"


@pytest.mark.torch
def test_entries_are_those_of_torchvision():
    torch_peers = pytest.importorskip("torch_peers", exc_type=ImportError)
    models = torch_peers.torchvision.models
    published = {}
    for weights in models.list_models(include="efficientnet*"):
        published.update({member.url: member for member in models.get_model_weights(weights)})
    entries = [entry for entry in registry.table() if entry.source == "torchvision"]
    assert len(entries) == 11
    for entry in entries:
        member = published[entry.file.url]
        transforms = member.transforms()
        assert entry.top1 == member.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        assert [entry.size] == transforms.crop_size
        assert entry.crop_fraction == entry.size / transforms.resize_size[0]
        assert entry.interpolation == transforms.interpolation.value
        for ours, theirs in zip(entry.pixels, (transforms.mean, transforms.std), strict=True):
            np.testing.assert_allclose(ours, np.array(theirs) * 255)


@pytest.mark.torch
def test_entries_are_those_of_timm():
    torch_peers = pytest.importorskip("torch_peers", exc_type=ImportError)
    entries = [entry for entry in registry.table() if entry.source == "timm"]
    assert len(entries) == 8
    for entry in entries:
        model = entry.file.url.split("/")[4]
        config = torch_peers.timm.get_pretrained_cfg(model)
        size = config.test_input_size or config.input_size
        assert f"/{config.hf_hub_id}/resolve/" in entry.file.url
        assert entry.size == size[-1]
        assert entry.crop_fraction == (config.test_crop_pct or config.crop_pct)
        assert entry.interpolation == config.interpolation
        np.testing.assert_allclose(entry.pixels, np.array([config.mean, config.std]) * 255)


@pytest.mark.torch
def test_a_file_of_timms_by_name(served, monkeypatch):
    """From a server laid out as the Hugging Face Hub, against timm's own network."""
    torch_peers = pytest.importorskip("torch_peers", exc_type=ImportError)
    from safetensors.torch import save_file

    folder, models, address = served
    entry = registry.find("B0", "ra4")
    peer = torch_peers.randomize(torch_peers.timm.create_model("efficientnet_b0"))
    place = folder / "timm" / "b0" / "resolve" / "main"
    place.mkdir(parents=True)
    save_file(peer.state_dict(), place / "model.safetensors")
    url = f"{address}/timm/b0/resolve/main/model.safetensors"
    publish(monkeypatch, replace(entry, file=RemoteFile(url)))
    network = ke.EfficientNetB0(
        weights="ra4",
        padding="symmetric",
        batch_norm_epsilon=1e-5,
        pixels="inception",
        input_shape=(64, 64, 3),
        classifier_activation=None,
    )
    assert (models / "keras-efficientnet-b0-ra4.safetensors").exists()
    pixels = images()
    expected = torch_peers.outputs(peer, pixels / 127.5 - 1)
    np.testing.assert_allclose(outputs(network, pixels), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "name", "size", "crop_fraction", "interpolation", "mean", "std"),
    [
        ("B0", "imagenet", 224, 0.875, "bicubic", 123.675, 58.395),
        ("B4", "noisy-student", 380, 380 / 412, "bicubic", 123.675, 58.395),
        ("B4", "advprop", 380, 380 / 412, "bicubic", 127.5, 127.5),
        ("L2", "noisy-student-475", 475, 475 / 507, "bicubic", 123.675, 58.395),
        ("Lite2", "imagenet", 260, 260 / 292, "bicubic", 127, 128),
        ("V2-B0", "imagenet", 224, 0.875, "bicubic", 123.675, 58.395),
        ("V2-B0", "imagenet21k", 224, 0.875, "bilinear", 128, 128),
        ("V2-B3", "imagenet21k-ft1k", 300, 1, "bilinear", 127.5, 127.5),
        ("V2-S", "imagenet", 384, 1, "bilinear", 128, 128),
        ("V2-S", "imagenet21k", 384, 1, "bilinear", 128, 128),
        ("V2-XL", "imagenet21k-ft1k", 512, 1, "bilinear", 127.5, 127.5),
    ],
)
def test_what_google_evaluated_with(variant, name, size, crop_fraction, interpolation, mean, std):
    """TPU's preprocessing.py crops by 32 px; AML's preprocessing.py and datasets.py, by name."""
    entry = registry.find(variant, name)
    assert (entry.size, entry.interpolation) == (size, interpolation)
    assert entry.crop_fraction == pytest.approx(crop_fraction)
    assert (entry.pixels[0][0], entry.pixels[1][0]) == (mean, std)
    found = entry.spec()
    assert (found.resolution, found.pixel_mean, found.pixel_std) == (size, *entry.pixels)


def test_the_table_is_consistent():
    table = registry.table()
    names = [(entry.variant, entry.name) for entry in table]
    assert len(names) == len(set(names))
    files = [download.cache_name(entry, entry.file.url) for entry in table]
    assert len(files) == len(set(files))
    for entry in table:
        assert entry.variant in spec.VARIANTS
        assert entry.file.url.startswith("https://")
        assert entry.file.hash is None or len(entry.file.hash) in (8, 32)
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
    assert registry.find("V2-S", "imagenet21k").file.url.endswith("/v2/efficientnetv2-s-21k.tgz")
    assert registry.find("V2-S", "imagenet21k-ft1k").top1 == 84.9


def test_adversarial_pixels():
    entry = registry.find("B0", "advprop")
    mean, std = entry.pixels
    for pixel in (0, 255, 100):
        assert (pixel - mean[0]) / std[0] == pytest.approx(pixel * 2 / 255 - 1)


def test_an_unknown_name_lists_the_known(network):
    with pytest.raises(ke.InputError, match="imagenet, baseline, autoaugment, advprop"):
        ke.load_weights(network, "imagenette")
    with pytest.raises(ke.InputError, match="none are published in a usable form"):
        registry.find("EdgeTPU-S", "imagenet")


def test_other_pixels_are_refused_before_any_download(network):
    with pytest.raises(ke.InputError, match=r"need pixels='inception'.*pixels='inception'\)"):
        ke.load_weights(network, "advprop")
    with pytest.raises(ke.InputError, match="need padding='symmetric'"):
        ke.load_weights(network, "torchvision")


def test_download_verify_and_load(network, served, monkeypatch):
    folder, models, address = served
    source = randomize(ke.EfficientNetB0(weights=None, input_shape=(64, 64, 3)))
    source.save(folder / "efficientnetb0.h5")
    digest = hashlib.md5((folder / "efficientnetb0.h5").read_bytes()).hexdigest()
    entry = registry.find("B0", "imagenet")
    publish(monkeypatch, replace(entry, file=RemoteFile(f"{address}/efficientnetb0.h5", digest)))
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
    publish(monkeypatch, replace(entry, file=replace(entry.file, url=url)))
    with pytest.raises(ke.InputError) as caught:
        ke.load_weights(network, "imagenet")
    for part in (url, str(models / "efficientnetb0.h5"), str(entry.file.hash)):
        assert part in str(caught.value)


def test_a_wrong_hash_is_refused(network, served, monkeypatch):
    folder, models, address = served
    (folder / "efficientnetb0.h5").write_bytes(b"not what was published")
    url = f"{address}/efficientnetb0.h5"
    entry = registry.find("B0", "imagenet")
    publish(monkeypatch, replace(entry, file=replace(entry.file, url=url)))
    with pytest.raises(ke.InputError, match="hash") as caught:
        ke.load_weights(network, "imagenet")
    assert url in str(caught.value)
    assert str(models / "efficientnetb0.h5") in str(caught.value)


def test_a_wrong_digest_of_torchvisions_kind(served, monkeypatch):
    folder, _, address = served
    (folder / "efficientnet_b0.pth").write_bytes(b"not what was published")
    entry = registry.find("B0", "torchvision")
    url = f"{address}/efficientnet_b0.pth"
    entry = replace(entry, file=replace(entry.file, url=url))
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
    publish(monkeypatch, replace(entry, file=RemoteFile(f"{address}/efficientnet-b0.tar.gz")))
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


def test_a_cache_that_cannot_be_written(served, monkeypatch, tmp_path):
    """`HOME=/` in a container, or a user that the system does not know."""
    folder, _, address = served
    (folder / "efficientnet_b0.h5").write_bytes(b"weights")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(download.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    entry = registry.find("B0", "baseline")
    entry = replace(entry, file=RemoteFile(f"{address}/efficientnet_b0.h5"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="Set KERAS_HOME"):
        assert download.fetch(entry).startswith(str(tmp_path / "tmp"))
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setattr(download.os.path, "expanduser", lambda path: path)
    with pytest.warns(UserWarning, match="Set KERAS_HOME"):
        assert download.fetch(entry).startswith(str(tmp_path / "tmp"))
    assert not (tmp_path / "~").exists()
    (tmp_path / "elsewhere").write_text("")
    monkeypatch.setattr(download.tempfile, "gettempdir", lambda: str(tmp_path / "elsewhere"))
    with pytest.raises(ke.InputError, match="set KERAS_HOME to a folder that can be written"):
        download.fetch(entry)
