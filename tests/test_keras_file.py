"""Whole models in Keras' older format, as classifiers of other makers come."""

import json
import os
import shutil

import h5py
import keras
import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet import InputError
from keras_efficientnet.deploy.exportable import open_exportable


@pytest.fixture(scope="module")
def network():
    layers = keras.layers
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(4, 3, activation="relu")(x)
    x = layers.DepthwiseConv2D(3)(x)
    x = layers.SeparableConv2D(4, 3, use_bias=False)(x)
    x = layers.Conv2DTranspose(4, 2)(x)
    x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(3, "softmax")(x), name="theirs")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "model.h5"
    network.save(path)
    return path


def as_keras_2(path):
    """Rewrites a file to what Keras 2 saved: no modules, types as texts, batch_input_shape."""

    def older(value):
        if isinstance(value, list):
            return [older(each) for each in value]
        if not isinstance(value, dict):
            return value
        if value.get("class_name") == "DTypePolicy":
            return value["config"]["name"]
        hidden = (
            "module",
            "registered_name",
            "build_config",
            "compile_config",
            "quantization_config",
        )
        kept = {name: older(each) for name, each in value.items() if name not in hidden}
        if "batch_shape" in kept:
            kept["batch_input_shape"] = kept.pop("batch_shape")
        return kept

    with h5py.File(path, "r+") as file:
        config = older(json.loads(file.attrs["model_config"]))
        for layer in config["config"]["layers"]:
            layer["inbound_nodes"] = [
                [[source, 0, 0, {}]]
                for node in layer["inbound_nodes"]
                for source in [node["args"][0]["config"]["keras_history"][0]]
            ]
            if "Conv2D" in layer["class_name"]:
                layer["config"]["groups"] = 1
            if layer["class_name"] == "SeparableConv2D":
                layer["config"] |= dict.fromkeys(("kernel_regularizer", "kernel_constraint"))
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.15.0"
    return path


def test_files_of_keras_2_and_3_are_run_and_exported(network, whole, pixels, tmp_path):
    old = as_keras_2(shutil.copy(whole, tmp_path / "old.h5"))
    with h5py.File(old) as file:
        assert "batch_input_shape" in file.attrs["model_config"]
    expected = network.predict(pixels, verbose=0)
    names = {"class_names": ("a", "b", "c")}
    for path in (whole, old):
        np.testing.assert_allclose(ke.Predictor(path).scores(pixels), expected, atol=1e-6)
        found = open_exportable(path, names)
        assert found.description.class_names == names["class_names"]
        np.testing.assert_allclose(found.scores(pixels), expected, atol=1e-6)


def refused(path, match):
    for call in (ke.Predictor, open_exportable):
        with pytest.raises(InputError, match=match) as caught:
            call(path)
        assert "\n" not in str(caught.value)


def test_weights_alone_are_no_model(network, tmp_path):
    network.save_weights(tmp_path / "model.weights.h5")
    refused(tmp_path / "model.weights.h5", r"weights and no network.*load_weights")
    (tmp_path / "text.h5").write_text("no HDF5")
    refused(tmp_path / "text.h5", "Cannot load model")


def test_values_that_lie_in_another_file(whole, tmp_path):
    path = shutil.copy(whole, tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        group = next(each for each in file["model_weights"].values() if len(each))
        name = next(iter(group))
        del group[name]
        group[name] = h5py.ExternalLink(str(whole), "/model_weights")
    refused(path, "from another file")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Lambda", {"function": ["4wEAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", None, None]}),
        ("Lambda", {"function": {"class_name": "__lambda__", "config": {"code": "4wEA"}}}),
        ("TFSMLayer", {"filepath": "{folder}"}),
        ("StringLookup", {"vocabulary": "{secret}"}),
        ("os", {}),
        ("system", {"command": "touch {secret}2"}),
    ],
)
def test_layers_that_reach_out(whole, tmp_path, name, config):
    secret = tmp_path / "secret"
    secret.write_text("a")
    path = shutil.copy(whole, tmp_path / "model.h5")
    text = json.dumps(config).replace("{folder}", str(tmp_path)).replace("{secret}", str(secret))
    for old in (False, True):
        if old:
            as_keras_2(path)
        with h5py.File(path, "r+") as file:
            model = json.loads(file.attrs["model_config"])
            layer = model["config"]["layers"][2]
            layer["class_name"] = name
            layer["config"] = {"name": layer["config"]["name"], **json.loads(text)}
            layer["module"] = "os" if name == "system" else "keras.layers"
            file.attrs["model_config"] = json.dumps(model)
        refused(path, "Cannot load model")
    assert sorted(os.listdir(tmp_path)) == ["model.h5", "secret"]
