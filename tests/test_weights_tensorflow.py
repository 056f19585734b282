"""Google's TensorFlow checkpoints, written here under the names that its code gives.

TPU's `efficientnet_model.py` and AML's `effnetv2_model.py` number the layers of a block in
the order they are built; the tests write that order down block kind by block kind, and
do not take it from the package.
"""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from weights_helpers import application, images, outputs, randomize, relative_difference

import keras_efficientnet as ke
from keras_efficientnet import scaling

NORM = ("gamma", "beta", "moving_mean", "moving_variance")
AVERAGE = "ExponentialMovingAverage"


def google_names(network: str, variant: str) -> dict[str, str]:
    """Keras layer and variable of each of a checkpoint's variables."""
    names = {}

    def conv(scope, number, layer):
        names[f"{scope}/conv2d{number}/kernel"] = f"{layer}/kernel"

    def norm(scope, number, layer):
        for field in NORM:
            names[f"{scope}/tpu_batch_normalization{number}/{field}"] = f"{layer}/{field}"

    for scope, prefix in (("stem", "stem"), ("head", "top")):
        conv(f"{network}/{scope}", "", f"{prefix}_conv")
        norm(f"{network}/{scope}", "", f"{prefix}_bn")
    names[f"{network}/head/dense/kernel"] = "predictions/kernel"
    names[f"{network}/head/dense/bias"] = "predictions/bias"
    for index, block in enumerate(scaling.expand_blocks(variant)):
        scope, layer = f"{network}/blocks_{index}", block.name
        if block.kind == "fused_mbconv":
            parts = ["expand", "project"] if block.name[5] != "1" else ["project"]
            for number, part in zip(("", "_1"), parts, strict=False):
                conv(scope, number, f"{layer}_{part}_conv")
                norm(scope, number, f"{layer}_{part}_bn")
            continue
        expands = block.name[5] != "1"
        if expands:
            conv(scope, "", f"{layer}_expand_conv")
            norm(scope, "", f"{layer}_expand_bn")
        names[f"{scope}/depthwise_conv2d/depthwise_kernel"] = f"{layer}_dwconv/kernel"
        norm(scope, "_1" if expands else "", f"{layer}_bn")
        if block.se_filters:
            for number, part in (("", "reduce"), ("_1", "expand")):
                for field in ("kernel", "bias"):
                    names[f"{scope}/se/conv2d{number}/{field}"] = f"{layer}_se/{part}/{field}"
        conv(scope, "_1" if expands else "", f"{layer}_project_conv")
        norm(scope, "_2" if expands else "_1", f"{layer}_project_bn")
    return names


def write(values: dict[str, np.ndarray], prefix: Path) -> str:
    """Writes a checkpoint as TensorFlow 1's Saver does, which keeps names and nothing else."""
    prefix.parent.mkdir(exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    return str(prefix)


def variables(model) -> dict[str, np.ndarray]:
    return {variable.path: variable.numpy() for variable in model.weights}


def as_google(model, network: str, variant: str) -> dict[str, np.ndarray]:
    values = variables(model)
    names = google_names(network, variant)
    assert set(names.values()) == {name for name in values if "seed" not in name}
    return {name: values[path] for name, path in names.items()}


def build(variant):
    """Without pixels, of which a checkpoint says nothing."""
    return ke.EfficientNet(
        variant,
        input_shape=(64, 64, 3),
        classifier_activation=None,
        include_preprocessing=False,
    )


@pytest.fixture(scope="module")
def trained():
    return randomize(build("B0"))


@pytest.fixture(scope="module")
def network():
    return build("B0")


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("B0", "efficientnet-b0"),
        ("Lite0", "efficientnet-lite0"),
        ("V2-B0", "efficientnetv2-b0"),
        pytest.param("B1", "efficientnet-b1", marks=pytest.mark.slow),
        pytest.param("V2-S", "efficientnetv2-s", marks=pytest.mark.slow),
    ],
)
def test_averages_of_the_weights_are_preferred(variant, name, tmp_path):
    averaged, network = randomize(build(variant), seed=1), build(variant)
    last = as_google(randomize(network, seed=2), name, variant)
    values = {"global_step": np.array(218949)}
    for key, value in as_google(averaged, name, variant).items():
        values[key] = last[key]
        values[f"{key}/{AVERAGE}"] = value
        values[f"{key}/RMSProp"] = np.ones_like(value)
        values[f"{key}/RMSProp_1"] = np.zeros_like(value)
    report = ke.load_weights(network, write(values, tmp_path / "model.ckpt"))
    assert report.complete
    assert report.layout == "TensorFlow checkpoint, Google's variable names"
    np.testing.assert_array_equal(outputs(network, images()), outputs(averaged, images()))


def test_without_averages_the_weights_are_taken(trained, network, tmp_path):
    prefix = write(as_google(trained, "efficientnet-b0", "B0"), tmp_path / "model.ckpt-7")
    for source in (prefix, f"{prefix}.index", tmp_path):
        randomize(network, seed=3)
        assert ke.load_weights(network, source).complete
        np.testing.assert_array_equal(outputs(network, images()), outputs(trained, images()))


def test_a_folder_of_several_checkpoints_is_ambiguous(trained, network, tmp_path):
    values = as_google(trained, "efficientnet-b0", "B0")
    write(values, tmp_path / "a" / "model.ckpt-1")
    write(values, tmp_path / "b" / "model.ckpt-2")
    with pytest.raises(ke.InputError, match="2 TensorFlow checkpoints; pass the prefix of one"):
        ke.load_weights(network, tmp_path)


def test_against_keras_applications(tmp_path):
    """The same weights under both names give the outputs of keras.applications."""
    peer = application("B0")
    values = variables(peer)
    names = {
        name: path.replace("_se/", "_se_")
        for name, path in google_names("efficientnet-b0", "B0").items()
    }
    prefix = write({name: values[path] for name, path in names.items()}, tmp_path / "model.ckpt")
    options = {"input_shape": (64, 64, 3), "classifier_activation": None}
    with pytest.raises(ke.InputError, match="the file does not say its pixels"):
        ke.EfficientNetB0(weights=prefix, **options)
    network = ke.EfficientNetB0(weights=prefix, pixels="imagenet", **options)
    assert relative_difference(outputs(network, images()), outputs(peer, images())) < 1e-5


def test_a_saved_model_of_tensorflow_1(trained, network, tmp_path):
    values = as_google(trained, "efficientnet-b0", "B0")
    folder = tmp_path / "hub"
    (folder / "variables").mkdir(parents=True)
    write(values, folder / "variables" / "variables")
    (folder / "saved_model.pb").write_bytes(b"never read")
    randomize(network, seed=3)
    assert ke.load_weights(network, folder).complete
    np.testing.assert_array_equal(outputs(network, images()), outputs(trained, images()))


def test_a_missing_tensor_is_named(trained, network, tmp_path):
    values = as_google(trained, "efficientnet-b0", "B0")
    del values["efficientnet-b0/blocks_5/se/conv2d_1/bias"]
    prefix = write(values, tmp_path / "model.ckpt")
    with pytest.raises(ke.InputError, match=r"1 missing \(block4a.se.expand.bias\)"):
        ke.load_weights(network, prefix)
    assert ke.load_weights(network, prefix, strict=False).missing == ("block4a.se.expand.bias",)


def test_googles_edgetpu_graph_is_another(trained, network, tmp_path):
    values = as_google(trained, "efficientnet-edgetpu-S", "B0")
    with pytest.raises(ke.InputError, match="strides in the projection"):
        ke.load_weights(network, write(values, tmp_path / "model.ckpt"))


def test_a_damaged_checkpoint(trained, network, tmp_path):
    prefix = write(as_google(trained, "efficientnet-b0", "B0"), tmp_path / "model.ckpt")
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[: 1 << 20])
    before = network.get_weights()
    with pytest.raises(ke.InputError, match="is damaged or not a weight file"):
        ke.load_weights(network, prefix)
    assert all(np.array_equal(a, b) for a, b in zip(network.get_weights(), before, strict=True))
