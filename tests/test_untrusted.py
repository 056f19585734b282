"""One hostile example for each way in: none of them runs, reads or writes anything.

Every example would leave a mark if it got its way.
"""

import ast
import contextlib
import hashlib
import io
import json
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_efficientnet as ke
from keras_efficientnet import InputError, weights
from keras_efficientnet.deploy import model_card
from keras_efficientnet.deploy.export_report import ExportReport
from keras_efficientnet.deploy.exportable import open_exportable
from keras_efficientnet.description import ModelDescription
from keras_efficientnet.weights import download

PACKAGE = Path(ke.__file__).parent
GOLDEN = Path(__file__).parent / "golden"
SECRET = "the owner's secret"


class Attack:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture
def mark(tmp_path):
    """What an attack would make; fails the test if it is there in the end."""
    path = tmp_path / "mark"
    yield path
    assert not path.exists()


def assert_refused(path, match=".", calls=(ke.Predictor, weights.inspect, open_exportable)):
    for call in calls:
        with pytest.raises(InputError, match=match) as caught:
            call(path)
        assert "\n" not in str(caught.value)


# .keras files.


def with_layer(path, layer):
    """The golden model with one more object in its config."""
    with zipfile.ZipFile(GOLDEN / "model.keras") as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name == "config.json":
                config = json.loads(content)
                last = config["config"]["layers"][-1]
                config["config"]["layers"][-1] = {**last, **layer}
                content = json.dumps(config).encode()
            bad.writestr(name, content)


def test_a_lambda_layer(tmp_path, mark):
    inputs = keras.Input((32, 32, 3))
    code = keras.layers.Lambda(lambda x, mark=str(mark): (Path(mark).touch(), x)[1])
    model = keras.Sequential([inputs, code, keras.layers.Conv2D(8, 3, name="stem_conv")])
    model.save(tmp_path / "lambda.keras")
    mark.unlink()  # building it has run it
    assert_refused(tmp_path / "lambda.keras")


@pytest.mark.parametrize(
    ("module", "name", "config"),
    [
        ("os", "system", {"command": "touch {mark}"}),
        ("builtins", "exec", {"source": "open('{mark}', 'w')"}),
        ("subprocess", "run", {"args": ["touch", "{mark}"]}),
        ("keras.utils", "get_file", {"fname": "{mark}", "origin": "file:///etc/hostname"}),
        ("keras.config", "enable_unsafe_deserialization", {}),
        ("keras.layers", "TFSMLayer", {"filepath": "{folder}"}),
        ("keras.layers", "StringLookup", {"vocabulary": "{secret}"}),
    ],
)
def test_classes_and_functions_that_no_network_has(tmp_path, mark, module, name, config):
    (tmp_path / "secret").write_text(SECRET)
    places = {"mark": str(mark), "folder": str(tmp_path), "secret": str(tmp_path / "secret")}
    text = json.dumps(config)
    for key, value in places.items():
        text = text.replace(f"{{{key}}}", value)
    path = tmp_path / "model.keras"
    with_layer(path, {"module": module, "class_name": name, "config": json.loads(text)})
    assert_refused(path, "Cannot load model", (ke.Predictor, open_exportable))


def test_members_of_a_keras_archive_that_would_land_elsewhere(tmp_path, mark):
    path = tmp_path / "deep" / "model.keras"
    path.parent.mkdir()
    path.write_bytes((GOLDEN / "model.keras").read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../mark", str(mark), "assets/../../mark"):
            archive.writestr(name, "x")
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter("ignore")  # Keras says which members it leaves out
        ke.Predictor(path)
    weights.inspect(path)


# Weight files.


@pytest.mark.parametrize("name", ["model.pth", "model.npz", "model.npy", "model.pkl", "model.h5"])
def test_pickles(tmp_path, mark, name):
    path = tmp_path / name
    attack = np.array([Attack(mark)], object)
    if name.endswith(".npz"):
        np.savez(path, attack)  # pyright: ignore[reportArgumentType]
    elif name.endswith(".npy"):
        np.save(path, attack, allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps({"conv_stem.weight": Attack(mark)}))
    assert_refused(path, calls=[weights.inspect])


@pytest.mark.torch
def test_a_torch_archive_with_code(tmp_path, mark):
    torch = pytest.importorskip("torch")
    torch.save({"conv_stem.weight": Attack(mark)}, tmp_path / "model.pth")
    assert_refused(tmp_path / "model.pth", "is code and is not run here", [weights.inspect])


def outside(kind, file, secret):
    """A stem kernel whose values lie in another file."""
    name, shape = "stem_conv/stem_conv/kernel:0", (3, 3, 3, 32)
    file.attrs["layer_names"] = [b"stem_conv"]
    group = file.create_group("stem_conv/stem_conv")
    if kind == "external storage":
        size = int(np.prod(shape)) * 4
        group.create_dataset("kernel:0", shape, np.float32, external=[(str(secret), 0, size)])
    elif kind == "virtual":
        layout = h5py.VirtualLayout(shape, np.float32)
        layout[:] = h5py.VirtualSource(str(secret), "kernel", shape)
        group.create_virtual_dataset("kernel:0", layout)
    elif kind == "linked tensor":
        file[name] = h5py.ExternalLink(str(secret), "/kernel")
    else:
        del file["stem_conv"]
        file["stem_conv"] = h5py.ExternalLink(str(secret), "/")


@pytest.mark.parametrize("kind", ["external storage", "virtual", "linked tensor", "linked group"])
def test_hdf5_that_reads_another_file(tmp_path, kind):
    secret, path = tmp_path / "secret.h5", tmp_path / "model.h5"
    with h5py.File(secret, "w") as file:
        file["kernel"] = np.ones((3, 3, 3, 32), np.float32)
    with h5py.File(path, "w") as file:
        outside(kind, file, secret)
    assert_refused(path, "from another file", [weights.inspect])
    archive = tmp_path / "model.keras"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("config.json", json.dumps({"config": {"layers": []}}))
        file.writestr("model.weights.h5", path.read_bytes())
    assert_refused(archive, "from another file", [weights.inspect])


# Downloads.


def tar_member(name, kind=tarfile.REGTYPE, size=1, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    return member


@pytest.mark.parametrize(
    "member",
    [
        tar_member("../mark"),
        tar_member("a/../../mark"),
        tar_member("/tmp/mark"),
        tar_member("link", tarfile.SYMTYPE, 0, ".."),
        tar_member("link", tarfile.LNKTYPE, 0, "../secret"),
        tar_member("device", tarfile.CHRTYPE, 0),
        tar_member("pipe", tarfile.FIFOTYPE, 0),
    ],
    ids=lambda member: f"{member.name} {member.type.decode()}",
)
def test_tar_members_that_are_no_file_inside(tmp_path, mark, member):
    path = tmp_path / "in" / "model.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tar_member("good"), io.BytesIO(b"x"))
        archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(InputError, match="no file inside of it; delete the archive"):
        download.unpack(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_tar_of_a_sparse_file(tmp_path):
    """One that says it has little, and fills a disk."""
    path = tmp_path / "model.tar"
    member = tar_member("sparse", tarfile.GNUTYPE_SPARSE, 0)
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"%011o\0" % 2**30
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    path.write_bytes(header + bytes(1024))
    with tarfile.open(path) as archive:
        assert archive.getmembers()[0].issparse()
    with pytest.raises(InputError, match="'sparse', which is no file inside of it"):
        download.unpack(path)


def test_a_tar_of_many_files(tmp_path):
    path = tmp_path / "model.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(download.MAX_MEMBERS + 1):
            archive.addfile(tar_member(str(number), size=0))
    with pytest.raises(InputError, match="or 1,000 files"):
        download.unpack(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_tar_bomb_and_a_torn_tar(tmp_path):
    path = tmp_path / "model.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for index in range(3):
            archive.addfile(tar_member(f"{index}", size=2**20), io.BytesIO(bytes(2**20)))
    with pytest.raises(InputError, match="unpacks to more than"):
        download.unpack(path, max_bytes=2**21)
    content = path.read_bytes()
    for damaged in (content[:-100], content[:100], b"x" + content, content[:50] + bytes(99)):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be unpacked"):
            download.unpack(path)
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_file_that_is_not_the_published_one(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    entry = weights.registry.find("B0", "torchvision")
    path = tmp_path / "models" / download.cache_name(entry, entry.file.url)
    path.parent.mkdir()
    path.write_bytes(b"something else")
    assert not hashlib.sha256(path.read_bytes()).hexdigest().startswith(entry.file.hash)
    with pytest.raises(InputError, match="is not the file published"):
        download.fetch(entry)


# SavedModels.


class Module(tf.Module):
    """A classifier of 8 x 8 images that does something else besides."""

    def __init__(self, besides):
        self.besides = besides
        self.scale = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32, name="images")])
    def serve(self, images):
        with tf.control_dependencies(tf.nest.flatten([self.besides()])):
            images = tf.identity(images)
        return {"scores": self.scale * tf.reduce_mean(images, (1, 2))}


def save(folder, besides):
    module = Module(besides)
    tf.saved_model.save(module, str(folder), signatures=module.serve)


def test_a_saved_model_that_touches_files(tmp_path, mark):
    (tmp_path / "secret").write_text(SECRET)

    @tf.function
    def deeper():
        tf.io.write_file(str(mark), "x")
        return tf.constant(0)

    for number, besides in enumerate(
        (
            lambda: tf.io.write_file(str(mark), "x"),
            lambda: tf.io.read_file(str(tmp_path / "secret")),
            lambda: tf.print("x", output_stream=f"file://{mark}"),
            lambda: tf.numpy_function(lambda: mark.touch() or 1.0, [], tf.float64),
            lambda: tf.raw_ops.Save(filename=str(mark), tensor_names=["a"], data=[tf.ones(1)]),
            lambda: tf.raw_ops.SaveV2(
                prefix=str(mark), tensor_names=["a"], shape_and_slices=[""], tensors=[tf.ones(1)]
            ),
            lambda: tf.io.matching_files(str(tmp_path / "*")),
            deeper,
        )
    ):
        path = tmp_path / f"saved-{number}"
        save(path, besides)
        assert not mark.exists()
        assert_refused(path, "could access files", (ke.Predictor, open_exportable))


def test_saved_models_that_only_compute_are_loaded(model_files, tmp_path):
    save(tmp_path / "plain", list)
    keras.saving.load_model(model_files["keras"], compile=False).export(
        tmp_path / "keras", verbose=False
    )
    for path in (tmp_path / "plain", tmp_path / "keras", model_files["saved_model"]):
        ke.Predictor(path)


# Names, in what people look at.

NAMES = (
    "<script>fetch('//evil')</script>",
    "$(touch mark)",
    "; touch mark #",
    "`touch mark`",
    "a|b\n# Title\n",
    "[click](javascript:alert(1))",
    '"><img src=x onerror=alert(1)>',
    "../../mark",
    "&lt;b&gt;",
)


def test_names_become_text_in_a_model_card(tmp_path, small):
    """`test_report.py` holds the same for the report."""
    model = ke.EfficientNet(small, classes=len(NAMES), input_shape=(32, 32, 3))
    given = ("variant", "summary", "author", "license", "data")
    for name in NAMES:
        texts = dict.fromkeys(given, name)
        description = ModelDescription(
            class_names=NAMES, image_size=32, crop_fraction=1.0, recipe=f"```\n{name}", **texts
        )
        path = tmp_path / f"{NAMES.index(name)}.md"
        nothing = ExportReport("here", (), (), 0, "images", None, "inside the graph")
        model_card.update(path, open_exportable(model, description), nothing)
        # What stands between the fences is shown as it is.
        before, _, after = path.read_text(encoding="utf-8").split("```")
        for sign in ("<script", "<img", "](", "`touch", "\n# Title"):
            assert sign not in before + after, sign
    assert "&lt;script&gt;" in (tmp_path / "0.md").read_text(encoding="utf-8")


# The code itself.


def test_nothing_is_given_to_a_shell_or_evaluated():
    """Every call in the package that could run a text as a program."""
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", "") or "", *(alias.name for alias in node.names)]
                # Between processes of this package, in a folder that only they can write to.
                allowed = ["pickle"] if path.name == "fresh_interpreter.py" else []
                wrong += [
                    (path.name, n)
                    for n in names
                    if n in ("pickle", "marshal", "dill") and n not in allowed
                ]
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in ("eval", "exec", "os.system", "os.popen", "__import__"):
                wrong.append((path.name, name))
            if given.get("shell") == "True" or given.get("allow_pickle") == "True":
                wrong.append((path.name, name))
            if name.endswith("torch.load") and given.get("weights_only") != "True":
                wrong.append((path.name, name))
            if name.endswith("load_model") and given.get("safe_mode") != "True":
                wrong.append((path.name, name))
    assert wrong == []
