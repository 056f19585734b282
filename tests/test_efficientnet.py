"""Code written for keras.applications: names, arguments, and what would differ silently."""

import inspect

import h5py
import keras
import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet import InputError, efficientnet, efficientnet_v2
from keras_efficientnet.weights import imagenet_classes, imagenet_synsets, loading

SHAPE = (32, 32, 3)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (efficientnet, keras.applications.efficientnet),
        (efficientnet_v2, keras.applications.efficientnet_v2),
    ],
)
def test_every_name_of_keras_is_here_with_its_arguments(ours, theirs):
    names = [name for name in dir(theirs) if not name.startswith("_")]
    assert len(names) >= 9
    for name in names:
        mine = inspect.signature(getattr(ours, name)).parameters.values()
        other = list(inspect.signature(getattr(theirs, name)).parameters.values())
        for one, another in zip(mine, other, strict=False):
            assert one.name == another.name
            assert one.name == "name" or one.default == another.default
        assert len(mine) >= len(other)


def test_the_eighth_argument_of_v2_is_that_of_keras():
    arguments = (False, None, None, SHAPE, "avg", 1000, "softmax")
    model = efficientnet_v2.EfficientNetV2B0(*arguments, False, "mine")
    assert model.name == "mine"
    assert not any(isinstance(layer, ke.layers.Normalize) for layer in model.layers)
    for wrong in (True, False):
        with pytest.raises(InputError, match=r"name.*all after it are given by their names"):
            ke.EfficientNetV2B0(*arguments, wrong)


def test_predictions_are_decoded_without_a_download():
    scores = np.zeros((2, 1000), np.float32)
    scores[0, [0, 2]] = 0.9, 0.1
    scores[1, [999, 134]] = 0.4, 0.6
    decoded = efficientnet.decode_predictions(scores, top=2)
    assert [[row[:2] for row in best] for best in decoded] == [
        [("n01440764", "tench"), ("n01484850", "great_white_shark")],
        [("n02012849", "crane_bird"), ("n15075141", "toilet_tissue")],
    ]
    assert decoded[0][0][2] == pytest.approx(0.9)
    assert efficientnet_v2.decode_predictions(keras.ops.convert_to_tensor(scores))[1][0][1]
    for wrong, top in ((scores[:, :999], 5), (scores[0], 5), (scores, 0)):
        with pytest.raises(InputError, match=r"cannot be decoded|top"):
            efficientnet.decode_predictions(wrong, top)
    assert len(set(imagenet_synsets())) == len(imagenet_classes()) == 1000
    assert list(imagenet_synsets()) == sorted(imagenet_synsets())
    assert efficientnet.preprocess_input(scores) is scores


def test_weights_left_out_are_those_of_keras_and_offline_it_says_so(monkeypatch, tmp_path):
    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.utils, "get_file", offline)
    match = (
        r"Cannot get https://.*no network.*at .*\.h5\. Or pass weights=None for random weights\."
    )
    with pytest.raises(InputError, match=match):
        ke.EfficientNetB0(input_shape=SHAPE)
    with pytest.raises(InputError, match=match):
        ke.EfficientNetV2B0(False, input_shape=SHAPE)
    ke.EfficientNetB0(True, None, input_shape=SHAPE)
    assert inspect.signature(ke.EfficientNetL2).parameters["weights"].default is None
    with pytest.raises(InputError) as caught:  # what has nothing to do with them
        ke.EfficientNetB0(input_shape=(7, 7, 3))
    assert "weights=None" not in str(caught.value)


def test_weights_left_out_are_loaded(monkeypatch, tmp_path):
    given = ke.EfficientNetB0(weights=None, input_shape=SHAPE)
    path = tmp_path / "published.weights.h5"
    given.save_weights(path)
    monkeypatch.setattr(loading, "fetch", lambda published, **options: str(path))
    model = ke.EfficientNetB0(input_shape=SHAPE, classes=4)
    np.testing.assert_array_equal(model.get_weights()[0], given.get_weights()[0])
    assert model.output_shape == (None, 4)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Files of a network of keras.applications in each of Keras' formats."""
    folder = tmp_path_factory.mktemp("theirs")
    network = keras.applications.EfficientNetB0(weights=None, input_shape=SHAPE)
    network.save_weights(folder / "keras3.weights.h5")
    network.save(folder / "whole.h5")
    with h5py.File(folder / "whole.h5") as whole, h5py.File(folder / "keras2.h5", "w") as file:
        for name in whole["model_weights"]:
            whole.copy(whole["model_weights"][name], file)
        for name, value in whole["model_weights"].attrs.items():
            file.attrs[name] = value
    return folder


def test_keras_own_loading_does_not_leave_a_part_random(theirs, tmp_path):
    model = ke.EfficientNetB0(weights=None, input_shape=SHAPE)
    before = model.get_weights()
    for name, options in (
        ("keras2.h5", {}),
        ("keras2.h5", {"by_name": True}),
        ("keras2.h5", {"by_name": True, "skip_mismatch": True}),
        ("whole.h5", {"by_name": True}),
        ("keras3.weights.h5", {}),
        ("keras3.weights.h5", {"skip_mismatch": True}),
    ):
        with pytest.raises(InputError, match=r"keras_efficientnet\.load_weights\(model, "):
            model.load_weights(theirs / name, **options)
        for one, another in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, another)
    for name in ("keras2.h5", "whole.h5", "keras3.weights.h5"):
        # Fresh networks of theirs differ in their normalization, which strict loading refuses.
        assert not ke.load_weights(model, theirs / name, strict=False).missing
    assert not np.array_equal(model.get_weights()[0], before[0])
    model.save_weights(tmp_path / "own.weights.h5")
    other = ke.EfficientNetB0(weights=None, input_shape=SHAPE)
    other.load_weights(tmp_path / "own.weights.h5")
    np.testing.assert_array_equal(other.get_weights()[0], model.get_weights()[0])
