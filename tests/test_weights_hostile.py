"""Files that are damaged, lie or attack: one clear error each, and an unchanged model."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet import weights


class Attack:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture(scope="module")
def network():
    return ke.EfficientNetB0(weights=None, input_shape=(32, 32, 3))


@pytest.fixture(scope="module")
def good(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    network.save_weights(folder / "good.weights.h5")
    network.save(folder / "good.keras")
    return folder


@pytest.fixture
def refused(network):
    """Asserts that a file is refused in one sentence and that the model stays as it was."""

    def check(path, match):
        before = [value.copy() for value in network.get_weights()]
        for strict in (True, False):
            with pytest.raises(ke.InputError, match=match) as caught:
                ke.load_weights(network, path, strict=strict)
            message = str(caught.value)
            assert str(path) in message
            assert "\n" not in message
            assert message.endswith(".")
        after = network.get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    return check


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_hdf5(share, good, refused, tmp_path):
    data = (good / "good.weights.h5").read_bytes()
    path = tmp_path / "truncated.weights.h5"
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "is damaged or not a weight file")


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_truncated_keras_archive(share, good, refused, tmp_path):
    data = (good / "good.keras").read_bytes()
    path = tmp_path / "truncated.keras"
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "is damaged or not a weight file")


@pytest.mark.parametrize("name", ["model.pkl", "model.pth", "model.weights.h5"])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_never_opened(name, protocol, refused, tmp_path):
    mark = tmp_path / "executed"
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"conv_stem.weight": Attack(mark)}, protocol=protocol))
    refused(path, "is a bare pickle")
    assert not mark.exists()


def test_a_pickle_without_a_header(refused, tmp_path):
    mark = tmp_path / "executed"
    path = tmp_path / "model.pth"
    path.write_bytes(pickle.dumps({"conv_stem.weight": Attack(mark)}, protocol=0))
    refused(path, "is no kind of weight file")
    assert not mark.exists()


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_with_code_in_it(zipped, refused, tmp_path):
    torch = pytest.importorskip("torch")
    mark = tmp_path / "executed"
    path = tmp_path / "model.pth"
    torch.save({"conv_stem.weight": Attack(mark)}, path, _use_new_zipfile_serialization=zipped)
    refused(path, "is code and is not run here")
    assert not mark.exists()


def test_an_object_array_in_an_npz(refused, tmp_path):
    mark = tmp_path / "executed"
    path = tmp_path / "model.npz"
    kernel = np.zeros((32, 3, 3, 3), object)
    kernel[0, 0, 0, 0] = Attack(mark)
    np.savez(path, **{"_conv_stem.weight": kernel})  # pyright: ignore[reportArgumentType]
    refused(path, "does not fit|is damaged or not a weight file")
    assert not mark.exists()


def test_nan(good, refused, tmp_path):
    path = tmp_path / "nan.weights.h5"
    path.write_bytes((good / "good.weights.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file["layers/dense/vars/1"][17] = np.nan  # pyright: ignore[reportIndexIssue]
    refused(path, "'predictions/bias' holds values that are not finite")


def test_a_zip_that_is_no_keras_archive(refused, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("holiday.txt", "photos")
    refused(path, "is a zip archive but neither")


def test_a_keras_archive_without_json(good, refused, tmp_path):
    path = tmp_path / "model.keras"
    _rewrite(good / "good.keras", path, lambda config: "{")
    refused(path, "is damaged or not a weight file")


def test_a_lambda_layer_is_refused(refused, tmp_path):
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Lambda(lambda x: x / 255)(inputs)
    outputs = keras.layers.Conv2D(32, 3, name="stem_conv")(outputs)
    path = tmp_path / "lambda.keras"
    keras.Model(inputs, outputs).save(path)
    refused(path, "has a Lambda layer, which is code")


def test_a_hidden_lambda_layer_is_refused(good, refused, tmp_path):
    def hide(config):
        content = json.loads(config)
        wrapped = {"class_name": "Lambda", "config": {"function": "boom"}}
        content["config"]["layers"][0]["config"]["inner"] = [{"layer": wrapped}]
        return json.dumps(content)

    path = tmp_path / "hidden.keras"
    _rewrite(good / "good.keras", path, hide)
    refused(path, "has a Lambda layer, which is code")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 64, b"PK\x03\x04" + b"\x00" * 64])
def test_no_weight_file_at_all(content, refused, tmp_path):
    path = tmp_path / "model.weights.h5"
    path.write_bytes(content)
    refused(path, "no kind of weight file|damaged or not a weight file")


def test_safetensors_that_promise_too_much(refused, tmp_path):
    header = json.dumps(
        {"conv_stem.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    ).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    refused(path, "is damaged or not a weight file")


def test_integers_for_weights(network, tmp_path):
    path = tmp_path / "model.npz"
    kernel = np.zeros((32, 3, 3, 3), "int64")
    np.savez(path, **{"_conv_stem.weight": kernel})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ke.InputError, match="not finite numbers"):
        ke.load_weights(network, path, strict=False)


def test_a_foreign_hdf5_file(refused, tmp_path):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["measurements"] = np.zeros(3)
    refused(path, "that Keras did not write")


def test_links_out_of_the_file_are_not_followed(good, refused, tmp_path):
    path = tmp_path / "links.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers"] = h5py.ExternalLink(str(good / "good.weights.h5"), "/layers")
    refused(path, "takes 'layers' from another file")


def test_what_is_not_there(network, tmp_path):
    for path in (tmp_path / "missing.weights.h5", tmp_path):
        with pytest.raises(ke.InputError, match="does not exist or holds no weights"):
            ke.load_weights(network, path)
        with pytest.raises(ke.InputError, match="does not exist or holds no weights"):
            weights.inspect(path)


def _rewrite(source, target, change):
    """Copies a .keras archive with another config."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = io.BytesIO(old.read(name)).getvalue()
            new.writestr(name, change(content) if name == "config.json" else content)
