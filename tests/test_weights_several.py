"""Files of several networks, what training wraps around one, and networks inside of models."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from weights_helpers import images, outputs, randomize

import keras_efficientnet as ke
from keras_efficientnet import weights


@pytest.fixture(scope="module")
def pair(small):
    """A teacher and a student of one structure, and a model of both."""
    options = {"classes": 2, "input_shape": (32, 32, 3)}
    teacher = randomize(ke.EfficientNet(small, name="teacher", **options), seed=1)
    student = randomize(ke.EfficientNet(small, name="student", **options), seed=2)
    inputs = keras.Input((32, 32, 3))
    return teacher, student, keras.Model(inputs, [teacher(inputs), student(inputs)], name="pair")


@pytest.fixture
def network(small):
    return ke.EfficientNet(small, classes=2, input_shape=(32, 32, 3))


def same(network, other):
    np.testing.assert_array_equal(outputs(network, images(32)), outputs(other, images(32)))


def state_dict(network, prefix=""):
    """As EfficientNet-PyTorch would call a part of it, without PyTorch."""
    kernel = network.get_layer("stem_conv").kernel.numpy().transpose(3, 2, 0, 1)
    return {f"{prefix}_conv_stem.weight": kernel}


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5", "model.h5"])
def test_one_of_two_networks_is_chosen_by_name(name, pair, network, tmp_path):
    teacher, student, both = pair
    both.save_weights(tmp_path / name) if "weights" in name else both.save(tmp_path / name)
    for strict in (True, False):
        with pytest.raises(ke.InputError, match=r"2 networks.* prefix=.*'student'"):
            ke.load_weights(network, tmp_path / name, strict)
    for chosen in (student, teacher):
        assert ke.load_weights(network, tmp_path / name, prefix=chosen.name).complete
        same(network, chosen)
    with pytest.raises(ke.InputError, match="prefix='assistant' is no network of"):
        ke.load_weights(network, tmp_path / name, prefix="assistant")
    assert weights.inspect(tmp_path / name, prefix="student").classes == 2


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5", "model.h5"])
def test_one_network_inside_of_a_model(name, pair, network, tmp_path):
    _, student, _ = pair
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, student(inputs * 1.0))
    model.save_weights(tmp_path / name) if "weights" in name else model.save(tmp_path / name)
    assert ke.load_weights(network, tmp_path / name).complete
    same(network, student)


def test_loading_descends_into_models(pair, small, tmp_path):
    teacher, _, both = pair
    teacher.save(tmp_path / "model.keras")
    backbone = ke.EfficientNet(small, classes=2, input_shape=(32, 32, 3))
    inner = keras.Sequential([keras.Input((32, 32, 3)), backbone])
    outer = keras.Sequential([keras.Input((32, 32, 3)), inner, keras.layers.Dense(3)])
    assert ke.load_weights(outer, tmp_path / "model.keras").complete
    same(backbone, teacher)
    with pytest.raises(ke.InputError, match=r"2 networks inside, 'teacher', 'student'"):
        ke.load_weights(both, tmp_path / "model.keras")


@pytest.mark.parametrize("wrapper", ["model_state_dict", "net", "params", "weights", "a.b.module"])
def test_a_state_dict_is_found_by_its_tensors(wrapper, pair, network, tmp_path):
    """Whatever the key; the reader itself is tested in `test_weights_torch_files.py`."""
    np.savez(tmp_path / "model.npz", **state_dict(pair[1], f"{wrapper}."), n_averaged=np.array(3))
    report = ke.load_weights(network, tmp_path / "model.npz", strict=False, pixels="imagenet")
    assert report.loaded == ("stem.conv.kernel",)
    assert report.unexpected == ()


def test_averages_are_preferred_and_strangers_reported(pair, network, tmp_path):
    teacher, student, _ = pair
    arrays = {**state_dict(student, "model."), **state_dict(teacher, "model_ema.module.")}
    np.savez(tmp_path / "two.npz", **arrays)
    ke.load_weights(network, tmp_path / "two.npz", strict=False)
    kernel = network.get_layer("stem_conv").kernel.numpy()
    np.testing.assert_array_equal(kernel, teacher.get_layer("stem_conv").kernel.numpy())
    ke.load_weights(network, tmp_path / "two.npz", strict=False, prefix="model")
    kernel = network.get_layer("stem_conv").kernel.numpy()
    np.testing.assert_array_equal(kernel, student.get_layer("stem_conv").kernel.numpy())

    arrays = {**state_dict(student, "backbone."), "head.weight": np.zeros((2, 2), "f4")}
    np.savez(tmp_path / "other.npz", **arrays)
    report = ke.load_weights(network, tmp_path / "other.npz", strict=False)
    assert report.unexpected == ("head.weight",)
    report = ke.load_weights(network, tmp_path / "other.npz", strict=False, prefix="backbone")
    assert report.unexpected == ()


def test_a_checkpoint_with_an_optimizer(pair, small, network, tmp_path):
    """As `tf.train.CheckpointManager` writes it: slots, steps and a counter of saves."""
    model = ke.EfficientNet(small, classes=2, input_shape=(32, 32, 3))
    model.set_weights(pair[0].get_weights())
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(str(tmp_path / "run"))
    assert ke.load_weights(network, tmp_path, pixels="imagenet").complete
    same(network, pair[0])


def keras_2(network):
    """A network's variables as the objects of Keras 2 hold them, one for each layer."""
    layers = {}
    for variable in network.weights:
        if "seed" not in variable.path:
            layer, _, field = variable.path.replace("_se/", "_se_").rpartition("/")
            held = tf.Variable(variable.numpy(), name=f"{layer}/{field}")
            layers.setdefault(layer, {})[field] = held
    places = enumerate(tf.train.Checkpoint(**fields) for fields in layers.values())
    return tf.train.Checkpoint(**{f"layer_with_weights-{index}": layer for index, layer in places})


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("by attribute", ("teacher", "student")),
        ("in a model", ("model/_operations/1", "model/_operations/2")),
        ("of Keras 2", ("layer_with_weights-0", "layer_with_weights-1")),
        pytest.param("exported", ("network-1", "network-2"), marks=pytest.mark.slow),
    ],
)
def test_one_of_two_networks_in_tensorflows_formats(kind, names, pair, network, tmp_path):
    teacher, student, both = pair
    if kind == "by attribute":
        checkpoint = tf.train.Checkpoint(teacher=teacher, student=student)
    elif kind == "of Keras 2":
        nested = {f"layer_with_weights-{i}": keras_2(each) for i, each in enumerate(pair[:2])}
        checkpoint = tf.train.Checkpoint(**nested)
    else:
        checkpoint = tf.train.Checkpoint(model=both)
    if kind == "exported":
        both.export(tmp_path / "model", verbose=False)
    else:
        checkpoint.save(str(tmp_path / "model" / "run"))
    for strict in (True, False):
        with pytest.raises(ke.InputError, match=rf"2 networks.* prefix=.*'{names[1]}'"):
            ke.load_weights(network, tmp_path / "model", strict)
    for name, chosen in zip(names, (teacher, student), strict=True):
        report = ke.load_weights(network, tmp_path / "model", prefix=name, pixels="imagenet")
        assert report.complete
        same(network, chosen)


@pytest.mark.torch
def test_checkpoints_of_a_training_script(pair, network, tmp_path):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(value.copy()) for name, value in state_dict(pair[0]).items()}
    checkpoint = {"epoch": 3, "net": {"deep": state}, "optimizer": {"state": {0: {"step": 1}}}}
    checkpoint["counter"] = torch.tensor(float("inf")).half()
    torch.save(checkpoint, tmp_path / "last.pth")
    report = ke.load_weights(network, tmp_path / "last.pth", strict=False)
    assert (report.loaded, report.unexpected) == (("stem.conv.kernel",), ())
    three = {name: dict(state) for name in ("teacher", "student", "other")}
    torch.save(three, tmp_path / "three.pth")
    with pytest.raises(ke.InputError, match=r"3 networks; .* 'teacher', 'student', 'other'"):
        ke.load_weights(network, tmp_path / "three.pth", strict=False)
    report = ke.load_weights(network, tmp_path / "three.pth", strict=False, prefix="student")
    assert report.loaded == ("stem.conv.kernel",)
