"""State dicts of PyTorch packages: every container, and outputs against the original's."""

import dataclasses

import keras
import numpy as np
import pytest
from weights_helpers import outputs as keras_outputs
from weights_helpers import relative_difference

import keras_efficientnet as ke
from keras_efficientnet import spec, weights
from keras_efficientnet.weights import matching

pytestmark = pytest.mark.torch
torch_peers = pytest.importorskip("torch_peers", exc_type=ImportError)
torch, timm, torchvision = torch_peers.torch, torch_peers.timm, torch_peers.torchvision

TORCH_TRAINED = {"padding": "symmetric", "batch_norm_epsilon": 1e-5}
PIXELS = np.random.default_rng(3).normal(size=(2, 64, 64, 3)).astype("float32")


def save(network, path):
    """Writes a state dict into the container that the path's suffix means."""
    state = network.state_dict()
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    else:
        torch.save(state, path)
    return path


def build(variant, **options):
    return ke.EfficientNet(
        variant,
        input_shape=(64, 64, 3),
        classifier_activation=None,
        include_preprocessing=False,
        **options,
    )


@pytest.fixture(scope="module")
def tf_b0():
    return torch_peers.randomize(timm.create_model("tf_efficientnet_b0"))


@pytest.fixture(scope="module")
def b0():
    """One network for the tests that fill all of it."""
    return build("B0")


def torch_trained(name, **changes):
    return dataclasses.replace(spec.VARIANTS[name], **{**TORCH_TRAINED, **changes})


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("B0", "tf_efficientnet_b0"),
        pytest.param("B4", "tf_efficientnet_b4", marks=pytest.mark.exhaustive),
        ("Lite0", "tf_efficientnet_lite0"),
        pytest.param("Lite3", "tf_efficientnet_lite3", marks=pytest.mark.exhaustive),
        ("EdgeTPU-S", "tf_efficientnet_es"),
        pytest.param("EdgeTPU-L", "tf_efficientnet_el", marks=pytest.mark.exhaustive),
        pytest.param("V2-B0", "tf_efficientnetv2_b0", marks=pytest.mark.slow),
        pytest.param("V2-S", "tf_efficientnetv2_s", marks=pytest.mark.exhaustive),
    ],
)
def test_timm_networks_from_tensorflow(variant, name, tmp_path):
    peer = torch_peers.randomize(timm.create_model(name))
    network = build(variant)
    path = save(peer, tmp_path / "model.safetensors")
    with pytest.raises(ke.InputError, match="the file does not say its padding"):
        ke.load_weights(network, path)
    report = ke.load_weights(network, path, padding="same")
    assert report.complete
    assert report.unknown == ("padding", "pixels")
    assert not report.adapted
    assert set(report.loaded) == set(weights.structure.variables(network))
    expected = torch_peers.outputs(peer, PIXELS)
    assert relative_difference(keras_outputs(network, PIXELS), expected) < 1e-4


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("B0", "efficientnet_b0"),
        pytest.param("B3", "efficientnet_b3", marks=pytest.mark.exhaustive),
        pytest.param("EdgeTPU-S", "efficientnet_es", marks=pytest.mark.slow),
        pytest.param("Lite0", "efficientnet_lite0", marks=pytest.mark.slow),
    ],
)
def test_timm_networks_trained_in_torch(variant, name, tmp_path):
    peer = torch_peers.randomize(timm.create_model(name))
    peer.bn1.num_batches_tracked += 1000
    path = save(peer, tmp_path / "model.pth")
    with pytest.raises(ke.InputError, match="'symmetric'"):
        ke.load_weights(build(variant), path)
    with pytest.raises(ke.InputError, match="batch_norm_epsilon=1e-05"):
        ke.load_weights(build(torch_trained(variant, batch_norm_epsilon=1e-3)), path)
    network = build(torch_trained(variant))
    assert ke.load_weights(network, path).complete
    expected = torch_peers.outputs(peer, PIXELS)
    assert relative_difference(keras_outputs(network, PIXELS), expected) < 1e-4


@pytest.mark.parametrize("counter", [0, 1000])
def test_a_file_that_does_not_say_is_asked_about_in_one_line(counter, tmp_path):
    """The line in the message works, and counters of batches say nothing of the padding."""
    peer = torch_peers.randomize(timm.create_model("efficientnet_b0"), seed=4)
    peer.bn1.num_batches_tracked += counter
    path = save(peer, tmp_path / "model.pth")
    with pytest.raises(ke.InputError) as caught:
        ke.EfficientNetB0(weights=path)
    line = f"ke.EfficientNet('B0', weights={str(path)!r}, padding='same', pixels='imagenet')"
    assert line in str(caught.value)
    assert eval(line).name == "efficientnetb0"
    with pytest.raises(ke.InputError) as caught:
        ke.EfficientNetB0(weights=path, padding="symmetric", pixels="inception")
    line = f"ke.EfficientNet('B0', weights={str(path)!r}, batch_norm_epsilon=1e-05)"
    assert line in str(caught.value)
    network = ke.EfficientNetB0(
        weights=path,
        padding="symmetric",
        batch_norm_epsilon=1e-5,
        pixels="inception",
        classifier_activation=None,
        input_shape=(64, 64, 3),
    )
    expected = torch_peers.outputs(peer, PIXELS)
    assert relative_difference(keras_outputs(network, PIXELS * 127.5 + 127.5), expected) < 1e-4


@pytest.mark.parametrize(
    ("variant", "name", "epsilon"),
    [
        ("B0", "efficientnet_b0", 1e-5),
        pytest.param("B2", "efficientnet_b2", 1e-5, marks=pytest.mark.exhaustive),
        pytest.param("B5", "efficientnet_b5", 1e-3, marks=pytest.mark.exhaustive),
        pytest.param("V2-S", "efficientnet_v2_s", 1e-3, marks=pytest.mark.exhaustive),
    ],
)
def test_torchvision_networks(variant, name, epsilon, tmp_path):
    peer = torch_peers.randomize(getattr(torchvision.models, name)())
    path = save(peer, tmp_path / "model.pth")
    for padding in (None, "same"):
        with pytest.raises(ke.InputError, match="the weights need padding='symmetric'"):
            ke.load_weights(build(variant), path, padding=padding)
    network = build(torch_trained(variant, batch_norm_epsilon=epsilon))
    assert ke.load_weights(network, path).complete
    expected = torch_peers.outputs(peer, PIXELS)
    assert relative_difference(keras_outputs(network, PIXELS), expected) < 1e-4


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_efficientnet_pytorch_in_every_container(suffix, b0, tmp_path):
    package = pytest.importorskip("efficientnet_pytorch")
    peer = package.EfficientNet.from_name("efficientnet-b0", image_size=64)
    torch_peers.randomize(peer, seed=len(suffix))
    assert ke.load_weights(b0, save(peer, tmp_path / f"model{suffix}")).complete
    expected = torch_peers.outputs(peer, PIXELS)
    assert relative_difference(keras_outputs(b0, PIXELS), expected) < 1e-4


def test_recognised_by_content_not_by_name(tf_b0, b0, tmp_path):
    path = save(tf_b0, tmp_path / "model.safetensors").rename(tmp_path / "model.h5")
    report = ke.load_weights(b0, path, padding="same")
    assert report.layout == ".safetensors, timm's names"


def test_what_training_scripts_wrap_around_a_state_dict(b0, tmp_path):
    peer = torch_peers.randomize(timm.create_model("tf_efficientnet_b0"), seed=5)
    state = {f"module.{name}": value / 2 for name, value in peer.state_dict().items()}
    averaged = {f"module.{name}": value for name, value in peer.state_dict().items()}
    checkpoint = {"epoch": 3, "state_dict": state, "state_dict_ema": averaged, "optimizer": {}}
    torch.save(checkpoint, tmp_path / "last.pth")
    assert ke.load_weights(b0, tmp_path / "last.pth", padding="same").complete
    expected = torch_peers.outputs(peer, PIXELS)
    assert relative_difference(keras_outputs(b0, PIXELS), expected) < 1e-4


def test_the_format_of_torch_before_1_6(tf_b0, b0, tmp_path):
    path = tmp_path / "old.pth"
    torch.save(tf_b0.state_dict(), path, _use_new_zipfile_serialization=False)
    assert ke.load_weights(b0, path, padding="same").layout == "PyTorch .pth, timm's names"


def test_bfloat16_safetensors(b0, tmp_path):
    peer = torch_peers.randomize(timm.create_model("tf_efficientnet_b0"), seed=6)
    peer = peer.to(torch.bfloat16)
    path = save(peer, tmp_path / "model.safetensors")
    assert ke.load_weights(b0, path, padding="same").complete
    kernel = b0.get_layer("stem_conv").kernel.numpy().transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(kernel, peer.conv_stem.weight.detach().float().numpy())


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 7])
def test_other_channel_counts_follow_timm(channels, tf_b0):
    from timm.models._manipulate import adapt_input_conv  # pyright: ignore[reportMissingImports]

    kernel = tf_b0.conv_stem.weight.detach()
    expected = adapt_input_conv(channels, kernel).numpy().transpose(2, 3, 1, 0)
    actual = matching.adapt_channels(kernel.numpy().transpose(2, 3, 1, 0), channels)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_conversion_keeps_what_the_weights_need(tmp_path):
    peer = torch_peers.randomize(torchvision.models.efficientnet_b0())
    path = save(peer, tmp_path / "model.pth")
    weights.convert(path, "B0", tmp_path / "model.keras", pixels="imagenet")
    network = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(network, keras.Model)
    pixels = PIXELS * np.array(spec.IMAGENET_STD) + np.array(spec.IMAGENET_MEAN)
    expected = torch.softmax(torch.from_numpy(torch_peers.outputs(peer, PIXELS)), 1).numpy()
    assert relative_difference(keras_outputs(network, pixels.astype("f4")), expected) < 1e-4
    with pytest.raises(ke.InputError, match="the weights need padding='symmetric'"):
        ke.load_weights(ke.EfficientNetB0(weights=None), tmp_path / "model.keras")
