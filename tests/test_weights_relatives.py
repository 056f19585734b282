"""Layouts of packages that are related to keras.applications', timm's and torchvision's."""

import h5py
import numpy as np
import pytest
from weights_helpers import images, outputs, randomize, relative_difference

import keras_efficientnet as ke

PIXELS = images(64) / 128 - 1
SYMMETRIC = {"padding": "symmetric", "batch_norm_epsilon": 1e-5}


def build(variant, **options):
    options = {"input_shape": (64, 64, 3), "classifier_activation": None, **options}
    return ke.EfficientNet(variant, include_preprocessing=False, **options)


@pytest.fixture(scope="module")
def pair(small):
    """A network with random weights and a fresh one."""
    return randomize(build(small, classes=2)), build(small, classes=2)


def write_keras_2(network, path, rename):
    """Writes a network's weights as Keras 2 did, under other names of layers."""
    with h5py.File(path, "w") as file:
        names = []
        for variable in network.weights:
            layer, _, field = variable.path.rpartition("/")
            if "seed" in layer:
                continue
            name = rename(layer)
            field = "depthwise_kernel" if "dwconv" in layer else field
            names.append(name)
            file[f"{name}/{name}/{field}:0"] = variable.numpy()
        file.attrs["layer_names"] = [name.encode() for name in dict.fromkeys(names)]


def leondgarse(layer):
    """`keras_efficientnet_v2/efficientnet_v2.py` numbers stages and blocks from 0."""
    if not layer.startswith("block"):
        return layer.replace("top_", "post_")
    block, _, part = layer.partition("_")
    part = {
        "expand_conv": "sortcut_conv",
        "expand_bn": "sortcut_bn",
        "dwconv": "MB_dw_",
        "bn": "MB_dw_bn",
        "se/reduce": "se_1_conv",
        "se/expand": "se_2_conv",
        "project_conv": "MB_pw_conv",
        "project_bn": "MB_pw_bn",
    }[part]
    return f"stack_{int(block[5]) - 1}_block{ord(block[6]) - ord('a')}_{part}"


def qubvel(layer):
    return "probs" if layer == "predictions" else layer.replace("_se/", "_se_")


@pytest.mark.parametrize("rename", [leondgarse, qubvel])
def test_names_of_keras_2_packages(rename, pair, tmp_path):
    """Both need a Keras that this package cannot run beside; their own files were read once."""
    network, fresh = pair
    write_keras_2(network, tmp_path / "model.h5", rename)
    report = ke.load_weights(fresh, tmp_path / "model.h5")
    assert report.complete
    assert report.unknown == ("pixels",)
    np.testing.assert_array_equal(outputs(fresh, PIXELS), outputs(network, PIXELS))


def keras_hub_network(variant):
    """A network of KerasHub with the stages of a variant of width and depth 1."""
    hub = pytest.importorskip("keras_hub")
    stages = ke.spec.VARIANTS[variant].stages
    v2 = {"fused_mbconv": "fused", "mbconv": "unfused"} if variant.startswith("V2") else {}
    kinds = [v2.get(stage.kind, "v1") for stage in stages]
    if v2:
        kinds[0] = "cba"  # a fused block that expands nothing
    return hub.models.EfficientNetBackbone(
        stackwise_kernel_sizes=[stage.kernel_size for stage in stages],
        stackwise_num_repeats=[stage.repeats for stage in stages],
        stackwise_input_filters=[stage.in_filters for stage in stages],
        stackwise_output_filters=[stage.out_filters for stage in stages],
        stackwise_expansion_ratios=[stage.expand_ratio for stage in stages],
        stackwise_strides=[stage.stride for stage in stages],
        stackwise_squeeze_and_excite_ratios=[stage.se_ratio for stage in stages],
        stackwise_block_types=kinds,
        width_coefficient=1.0,
        depth_coefficient=1.0,
    )


@pytest.mark.parametrize("name", ["model.weights.h5", "model.keras"])
def test_keras_hub(name, tmp_path):
    """Its networks pad as PyTorch does, with an epsilon of 1e-5."""
    peer = randomize(keras_hub_network("B0"))
    path = tmp_path / name
    peer.save(path) if name.endswith(".keras") else peer.save_weights(path)
    with pytest.raises(ke.InputError, match=r"padding='symmetric'.*batch_norm_epsilon=1e-05"):
        build("B0", include_top=False, weights=path)
    network = build("B0", include_top=False, weights=path, **SYMMETRIC)
    assert relative_difference(outputs(network, PIXELS), outputs(peer, PIXELS)) < 1e-4


@pytest.mark.parametrize("name", ["model.weights.h5", "model.keras"])
def test_keras_hubs_v2_is_read_and_its_padding_reported(name, tmp_path):
    """It pads before fused convolutions as PyTorch does, and in depthwise ones as TensorFlow."""
    peer = randomize(keras_hub_network("V2-B0"))
    path = tmp_path / name
    peer.save(path) if name.endswith(".keras") else peer.save_weights(path)
    network = build("V2-B0", include_top=False, **SYMMETRIC)
    with pytest.raises(ke.InputError, match="pads depthwise convolutions as 'same' and others"):
        ke.load_weights(network, path)
    report = ke.load_weights(network, path, strict=False)
    assert set(report.differences) == {"padding"}
    assert report.missing == report.unexpected == ()
    assert report.mismatched == {}
    assert relative_difference(outputs(network, PIXELS), outputs(peer, PIXELS)) < 0.01


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["file", "folder", "safetensors folder"])
def test_hugging_face_transformers(kind, tmp_path):
    torch_peers = pytest.importorskip("torch_peers", exc_type=ImportError)
    transformers = pytest.importorskip("transformers")
    options = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}
    config = transformers.EfficientNetConfig(image_size=64, num_labels=1000, **options)
    peer = torch_peers.randomize(transformers.EfficientNetForImageClassification(config))
    path = tmp_path
    if kind == "safetensors folder":
        peer.save_pretrained(tmp_path)
    else:
        name = "pytorch_model.bin" if kind == "folder" else "model.pth"
        torch_peers.torch.save(peer.state_dict(), tmp_path / name)
        path = tmp_path / name if kind == "file" else tmp_path
    network = build("B0", weights=path)
    with torch_peers.torch.no_grad():
        expected = peer(torch_peers.torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()))
    assert relative_difference(outputs(network, PIXELS), expected.logits.numpy()) < 1e-4


def torch_state(network, names):
    """Some of a network's weights under PyTorch's names, without PyTorch."""
    found = {}
    for name, path in names.items():
        layer, _, field = path.rpartition("/")
        value = getattr(network.get_layer(layer), field).numpy()
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
        found[name] = np.ascontiguousarray(value.transpose(axes))
    return found


@pytest.mark.parametrize("anchor", ["conv_stem.weight", "features.0.0.weight"])
@pytest.mark.parametrize("head", ["classifier", "classifier.1", "classifier.4"])
def test_heads_that_people_put_on(anchor, head, pair, tmp_path):
    network, fresh = pair
    names = {anchor: "stem_conv/kernel", f"{head}.weight": "predictions/kernel"}
    names[f"{head}.bias"] = "predictions/bias"
    np.savez(tmp_path / "model.npz", **torch_state(network, names))
    report = ke.load_weights(fresh, tmp_path / "model.npz", strict=False)
    assert set(report.loaded) == {"stem.conv.kernel", "classifier.kernel", "classifier.bias"}
    names["classifier.7.weight"] = "predictions/kernel"
    np.savez(tmp_path / "two.npz", **torch_state(network, names))
    report = ke.load_weights(fresh, tmp_path / "two.npz", strict=False)
    assert report.loaded == ("stem.conv.kernel",)
    assert f"{head}.weight" in report.unexpected


def test_a_backbone_of_efficientdet(pair, tmp_path):
    """Its convolutions are one level deeper, and more follows the backbone."""
    network, fresh = pair
    prefix = "backbone_net.model."
    names = {
        f"{prefix}_conv_stem.conv.weight": "stem_conv/kernel",
        f"{prefix}_bn0.weight": "stem_bn/gamma",
        f"{prefix}_blocks.0._project_conv.conv.weight": "block1a_project_conv/kernel",
        "bifpn.0.conv.weight": "top_conv/kernel",
    }
    np.savez(tmp_path / "model.npz", **torch_state(network, names))
    report = ke.load_weights(fresh, tmp_path / "model.npz", strict=False)
    assert set(report.loaded) == {
        "stem.conv.kernel",
        "stem.bn.gamma",
        "block1a.project.conv.kernel",
    }
    assert report.unexpected == ("bifpn.0.conv.weight",)
