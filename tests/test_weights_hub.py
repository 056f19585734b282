"""Models of the Hugging Face Hub, from a server on this machine that answers as the Hub does."""

import hashlib
import http.server
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from weights_helpers import images, outputs, randomize, relative_difference

import keras_efficientnet as ke
from keras_efficientnet import weights
from keras_efficientnet.fine_tuning import find_weights
from keras_efficientnet.weights import hub
from keras_efficientnet.weights.weight_file import Origin, WeightFile

huggingface_hub = pytest.importorskip("huggingface_hub")

pytest_plugins = "cli_helpers"

COMMIT = "0123456789" * 4
# As timm writes it, shortened.
OF_TIMM = {
    "architecture": "efficientnet_b0",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "test_input_size": [3, 256, 256],
        "interpolation": "bilinear",
        "crop_pct": 0.9,
        "test_crop_pct": 1.0,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
}
OF_TRANSFORMERS = {
    "model_type": "efficientnet",
    "image_size": 240,
    "batch_norm_eps": 0.001,
    "id2label": {"1": "dog", "0": "cat", "10": "fox"},
}
OF_KERAS_HUB = {"class_name": "EfficientNetBackbone", "config": {"batch_norm_epsilon": 0.001}}


class _Hub(http.server.SimpleHTTPRequestHandler):
    """`/api/models/owner/name/tree/main` and `/owner/name/resolve/main/file`."""

    def __init__(self, *arguments, folder, **options):
        self.root = folder
        super().__init__(*arguments, **options)

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self.wfile.write(self._answer())

    def _answer(self):
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[0] == "api":
            place = self.root / parts[2] / parts[3]
            names = [path.name for path in place.iterdir()] if place.is_dir() else []
            entries = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in names]
            found = place.is_dir()
            content = json.dumps(entries if found else {"error": "not found"}).encode()
        else:
            content = (self.root / parts[0] / parts[1] / parts[4]).read_bytes()
            found = True
        self.send_response(200 if found else 404)
        if not found:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def log_message(self, format, *args):
        pass


class Served:
    """A folder that a server shows."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch

    def add(self, name, **documents):
        place = self.folder / name
        place.mkdir(parents=True)
        for file, content in documents.items():
            (place / f"{file}.json").write_text(json.dumps(content))
        return place

    def leave_network(self):
        """As `HF_HUB_OFFLINE=1`; huggingface_hub tries for half a minute before it believes it."""
        self.monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def served(tmp_path, monkeypatch):
    folder = tmp_path / "served"

    def handler(*arguments, **options):
        return _Hub(*arguments, folder=folder, **options)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    yield Served(folder, monkeypatch)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.torch
def test_a_model_of_timms(served, command, tmp_path):
    """Its configuration says pixels, padding, size and crop; then it is there without a network."""
    torch_peers = pytest.importorskip("torch_peers", exc_type=ImportError)
    from safetensors.torch import save_file

    peer = torch_peers.randomize(torch_peers.timm.create_model("efficientnet_b0"))
    save_file(peer.state_dict(), served.add("timm/b0.ra4", config=OF_TIMM) / "model.safetensors")
    source = "hf://timm/b0.ra4"
    options = {"input_shape": (64, 64, 3), "classifier_activation": None}
    with pytest.raises(ke.InputError, match=r"weights='hf://timm/b0.ra4', padding='symmetric'.*"):
        ke.EfficientNetB0(weights=source, **options)
    served.leave_network()
    trained = {"padding": "symmetric", "batch_norm_epsilon": 1e-5, "pixels": "inception"}
    network = ke.EfficientNetB0(weights=source, **trained, **options)
    report = ke.load_weights(network, source)
    assert report.complete
    assert report.unknown == ()
    expected = torch_peers.outputs(peer, images() / 127.5 - 1)
    assert relative_difference(outputs(network, images()), expected) < 1e-4

    path = weights.pretrained_file(source)
    assert COMMIT in path.name
    found = ke.Predictor(path).description
    assert (found.variant, found.image_size, found.crop_fraction) == ("B0", 256, 1.0)
    assert (found.interpolation, found.class_names[0]) == ("bilinear", "tench")
    from PIL import Image

    Image.fromarray(np.full((80, 90, 3), 127, np.uint8)).save(tmp_path / "photo.png")
    code, out, err = command("predict", source, tmp_path / "photo.png", "--json")
    assert code == 0, err
    assert len(json.loads(out)[0]["top"]) == 5


def test_fine_tuning_begins_from_the_network_that_was_trained(served):
    place = served.add("keras/b0", config=OF_KERAS_HUB, image_converter={"config": {}})
    trained = {"padding": "symmetric", "batch_norm_epsilon": 1e-3, "pixels": ((0,) * 3, (1,) * 3)}
    ke.EfficientNetB0(weights=None, **trained).save_weights(place / "model.weights.h5")
    variant, source = find_weights("B0", "hf://keras/b0")
    assert source == "hf://keras/b0"
    assert (variant.padding, variant.batch_norm_epsilon) == ("symmetric", 1e-3)
    assert (variant.pixel_mean, variant.pixel_std) == ((0.0,) * 3, (1.0,) * 3)


def test_what_cannot_be_had(served):
    served.add("someone/empty", config=OF_TIMM)
    for source, match in (
        ("hf://someone/empty", "has none of model.safetensors, model.weights.h5, pytorch_model"),
        ("hf://no/such", "Cannot get hf://no/such: "),
    ):
        with pytest.raises(ke.InputError, match=match):
            weights.inspect(source)
    served.leave_network()
    with pytest.raises(ke.InputError, match=r"Cannot get hf://a/b .* not in the cache"):
        weights.inspect("hf://a/b")


def test_without_huggingface_hub_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ke.InputError, match=r'pip install "efficientnet-keras3\[hub\]"'):
        weights.inspect("hf://owner/name")


def test_addresses():
    assert hub.is_hub("hf://timm/efficientnet_b0.ra_in1k")
    assert hub.is_hub("hf://owner/name@v1.0")
    assert hub.is_hub(Path("hf://owner/name"))  # as a command line hands it on
    assert not hub.is_hub("hf://owner")
    assert not hub.is_hub("timm/efficientnet_b0")
    assert weights.is_pretrained("hf://owner/name")


def configured(tmp_path, origin=None, **documents):
    for name, content in documents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return hub.with_configuration(WeightFile("w", "", {}, origin=origin or Origin()), tmp_path)


@pytest.mark.parametrize(
    ("architecture", "epsilons"),
    [("efficientnet_b0", {"symmetric": 1e-5}), ("tf_efficientnet_b0", {"same": 1e-3})],
)
def test_timms_configuration(architecture, epsilons, tmp_path):
    found = configured(tmp_path, config={**OF_TIMM, "architecture": architecture})
    assert found.origin == Origin(epsilons, ((127.5,) * 3, (127.5,) * 3))
    assert (found.usage.size, found.usage.crop_fraction) == (256, 1.0)
    smaller = {**OF_TIMM["pretrained_cfg"], "test_input_size": None, "test_crop_pct": None}
    found = configured(tmp_path, config={**OF_TIMM, "pretrained_cfg": smaller})
    assert (found.usage.size, found.usage.crop_fraction) == (224, 0.9)


def test_transformers_configuration(tmp_path):
    """Google's: the deviation's root, by which its processor divides twice."""
    std = [0.229**0.5, 0.224**0.5, 0.225**0.5]
    processor = {"image_mean": [0.485, 0.456, 0.406], "image_std": std, "include_top": True}
    documents = {"config": OF_TRANSFORMERS, "preprocessor_config": processor}
    found = configured(tmp_path, Origin({"same": 1e-3}), **documents)
    np.testing.assert_allclose(found.origin.pixels, ke.spec.PIXELS["imagenet"])
    assert found.origin.epsilons == {"same": 0.001}
    assert (found.usage.size, found.usage.class_names) == (240, ("cat", "dog", "fox"))


def test_keras_hubs_configuration(tmp_path):
    converter = {"scale": 1 / 127.5, "offset": -1.0, "image_size": [256, 256]}
    documents = {"config": OF_KERAS_HUB, "image_converter": {"config": converter}}
    found = configured(tmp_path, Origin({"symmetric": 1e-5}), **documents)
    np.testing.assert_allclose(found.origin.pixels, ((127.5,) * 3, (127.5,) * 3))
    assert found.origin.epsilons == {"symmetric": 0.001}
    assert found.usage.size == 256


def test_a_folder_is_read_as_from_the_hub(tmp_path):
    """Downloaded by other means; a damaged configuration is not passed over."""
    network = randomize(ke.EfficientNetB0(weights=None, input_shape=(64, 64, 3)))
    network.save_weights(tmp_path / "model.weights.h5")
    (tmp_path / "config.json").write_text(json.dumps(OF_TIMM))
    found = weights.inspect(tmp_path)
    assert (found.variant, found.origin.epsilons) == ("B0", {"symmetric": 1e-5})
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {}}')
    with pytest.raises(ke.InputError, match="is damaged or not a weight file"):
        weights.inspect(tmp_path)
