"""PyTorch's files, read without PyTorch: what `torch.save` writes, and what attackers would."""

import argparse
import collections
import pathlib
import pickle
import re
import struct
import sys
import zipfile

import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet import weights
from keras_efficientnet.weights.readers.torch_file import open_torch


class Config:
    """A class that only the person who saved the file has."""

    def __init__(self, epochs):
        self.epochs = epochs


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request, tmp_path):
    """Saves with torch in one of the two formats, and returns the path."""
    torch = pytest.importorskip("torch")

    def save(content, name="model.pth"):
        path = tmp_path / name
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
        return path

    return save


def values(path):
    with open_torch(str(path)) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


@pytest.mark.torch
def test_every_kind_of_tensor(save):
    import torch  # pyright: ignore[reportMissingImports]

    base = torch.arange(24.0).reshape(2, 3, 4)
    content = {
        "float": base,
        "view": base[1, :, 1:3],
        "transposed": base.permute(2, 0, 1),
        "repeated": torch.tensor([1.5]).expand(3, 4),
        "none": torch.zeros(0, 3),
        "number": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "integers": torch.arange(-2, 3, dtype=torch.int8),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "half": torch.tensor([0.1, 65504], dtype=torch.float16),
        "brain": torch.tensor([0.1, -3e38], dtype=torch.bfloat16),
    }
    found = values(save(content))
    assert found.keys() == content.keys()
    for name, tensor in content.items():
        expected = tensor.detach()
        expected = expected.float() if name in ("half", "brain") else expected
        np.testing.assert_array_equal(found[name], expected.numpy(), name)
        assert found[name].dtype == expected.numpy().dtype, name


@pytest.mark.torch
def test_what_training_scripts_keep_beside_the_weights(save):
    import torch  # pyright: ignore[reportMissingImports]

    state = collections.OrderedDict(w=torch.ones(2))
    state._metadata = {"": {"version": 1}}  # pyright: ignore[reportAttributeAccessIssue]
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    content = {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("/tmp"), sizes={1, 2}),
        "best": np.float64(0.9),
        "classes": np.array(["a", "b"]),
        "curve": np.linspace(0, 1, 3),
        "size": torch.Size([1, 2]),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "history": collections.defaultdict(list, loss=[1, 2]),
        "deep": {"er": [{"x": torch.ones(1)}], "still": {"y": torch.zeros(1)}},
    }
    content["itself"] = content
    found = values(save(content))
    np.testing.assert_array_equal(found["model.w"], np.ones(2))
    np.testing.assert_array_equal(found["curve"], np.linspace(0, 1, 3))
    np.testing.assert_array_equal(found["deep.still.y"], np.zeros(1))
    assert "optimizer.state.0.exp_avg" in found


@pytest.mark.torch
@pytest.mark.parametrize("wrap", ["beside", "around", "module"])
def test_a_refusal_names_the_class_and_the_line_that_helps(wrap, save, tmp_path, monkeypatch):
    import torch  # pyright: ignore[reportMissingImports]

    network = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(10)))
    state = network.state_dict()
    content = {
        "beside": {"net": {"weights": state}, "config": Config(3), "optimizer": {}},
        "around": {"config": Config(3), "model": network},
        "module": network,
    }[wrap]
    path = save(content)
    with pytest.raises(ke.InputError) as caught:
        weights.inspect(path)
    message = str(caught.value)
    assert "\n" not in message
    assert (f"{__name__}.Config" if wrap != "module" else "torch.nn.modules") in message
    line = re.search(r'python -c "(.+)"', message)
    assert line
    monkeypatch.chdir(tmp_path)
    exec(line[1])
    found = values(tmp_path / "weights.pth")
    assert found.keys() == state.keys()


@pytest.mark.parametrize("name", ["Lite0", "Lite1", "Lite2"])
def test_published_weights_without_pytorch(name, monkeypatch):
    """The packages' files have the legacy format."""
    entry = weights.registry.find(name, "imagenet")
    assert entry.packaged
    pytest.importorskip(entry.packaged.package.replace("-", "_"))
    monkeypatch.setitem(sys.modules, "torch", None)
    path = weights.fetch(entry)
    found = weights.inspect(path)
    assert (found.variant, found.fits, found.missing, found.classes) == (name, True, (), 1000)


# Files written by hand.


def pickled(*instructions):
    return b"\x80\x02" + b"".join(instructions) + b"."


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def zipped(path, pickle_content, **storages):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle_content)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key.removeprefix('k')}", content)
    return path


def tensor(shape=b"K\x02\x85", strides=b"K\x01\x85", count=b"K\x02", offset=b"K\x00"):
    """`{"conv_stem.weight": tensor}` of a storage called 0."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    view = rebuild + storage + count + b"tQ" + offset + shape + strides + b"\x89NtR"
    return pickled(b"}", text("conv_stem.weight"), view, b"s")


TWO = np.ones(2, "<f4").tobytes()


def test_a_file_written_by_hand(tmp_path):
    found = values(zipped(tmp_path / "model.pth", tensor(), k0=TWO))
    np.testing.assert_array_equal(found["conv_stem.weight"], [1, 1])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (tensor(shape=b"K\x03\x85"), "does not fit its storage"),
        (tensor(strides=b"K\x09\x85"), "does not fit its storage"),
        (tensor(offset=b"K\x01"), "does not fit its storage"),
        (tensor(shape=b"J\xff\xff\xff\xff\x85"), "negative size"),
        (tensor(strides=b"J\xff\xff\xff\xff\x85"), "negative size"),
        (tensor(shape=b"]"), "damaged"),
        (tensor(count=b"J\xff\xff\xff\xff"), "storage that PyTorch does not write"),
        (tensor(count=b"K\x7f", shape=b"K\x7f\x85"), "damaged"),
        (pickled(b"}", text("a"), b"cos\nsystem\n", text("true"), b"\x85Rs"), "'os.system'"),
        (pickled(b"(ios\nsystem\n"), "'os.system'"),
        (pickled(b"cbuiltins\ngetattr\n."), "'builtins.getattr'"),
        (pickled(b"ctorch._utils\n_rebuild_tensor_v2\n)R"), "damaged"),
        (pickled(b"ccollections\nOrderedDict\nK\x01R"), "no tuple"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**60), "more than 16 MiB"),
        (b"\x80\x02X" + struct.pack("<I", 2**31), "more than 16 MiB"),
        (b"\x80\x02" + b"N" * (2**24 + 1), "more than 16 MiB"),
        (b"\x80\x02]", "without an end|damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
        (b"Ptorch\n.", "instruction PERSID"),
        (pickled(b"]"), "a list without named tensors"),
        (pickled(b"}"), "a dict without named tensors"),
        (pickled(b")" + b"\x85" * 100_000), "a tuple without named tensors"),
        (pickled(b"}(" + b")" + b"\x85" * 100_000 + b"K\x01u"), "a dict without named tensors"),
    ],
)
def test_hostile_pickles(content, match, tmp_path):
    path = zipped(tmp_path / "model.pth", content, k0=TWO)
    with (
        pytest.raises(ke.InputError, match=match) as caught,
        weights.open_weight_file(path) as file,
    ):
        file.tensors["stem.conv.kernel"].read()
    assert "\n" not in str(caught.value)


def test_repeated_work_is_bounded(tmp_path):
    """A list that is made a dictionary over and over is made one once."""
    pair = b"(" + text("a") + b"K\x01tq\x01"
    pairs = b"](" + pair + b"h\x01" * 200_000 + b"eq\x02"
    call = b"ccollections\nOrderedDict\nq\x03" + b"h\x03h\x02\x85R0" * 200_000
    with pytest.raises(ke.InputError, match="without named tensors"):
        weights.inspect(zipped(tmp_path / "model.pth", pickled(pairs, call, b"}")))


def test_a_whole_program_of_attacks(tmp_path):
    """The same object by every instruction that could make or call it."""
    mark = tmp_path / "mark"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = pickle.dumps({"conv_stem.weight": Attack(mark)}, protocol)
        with pytest.raises(ke.InputError, match=r"is code and is not run here|instruction"):
            weights.inspect(zipped(tmp_path / f"model{protocol}.pth", content))
    assert not mark.exists()


class Attack:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (pathlib.Path.touch, (self.mark,))
