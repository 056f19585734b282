"""ImageNet weights of B0, all but three tensors of them, on real photos.

The files are not part of the project; without them the tests are skipped.
"""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
from weights_helpers import relative_difference

import keras_efficientnet as ke

SHARED = Path(__file__).parents[2] / "shared"
WEIGHTS = SHARED / "weights" / "efficientnet_b0_imagenet_partial_torch_layout.npz"
GOLDEN = SHARED / "weights" / "efficientnet_b0_golden_activations_nchw.npz"
FLOWERS = SHARED / "data" / "flowers"
# The layer that puts each golden activation out; `sigmoid_out` is after the product.
TAPS = {
    "expand_conv_in": "block1a_project_bn",
    "depthwise_conv_out": "block2a_dwconv",
    "bn1_out": "block2a_bn",
    "swish1_out": "block2a_activation",
    "sigmoid_out": "block2a_se",
    "project_conv_out": "block2a_project_conv",
    "bn2_out": "block2a_project_bn",
    "mbconv_out": "block2a_project_bn",
}

pytestmark = pytest.mark.skipif(not WEIGHTS.exists(), reason="needs the files in ../shared")


def test_the_missing_tensors_are_reported():
    network = ke.EfficientNetB0(weights=None)
    with pytest.raises(ke.InputError, match="3 missing"):
        ke.load_weights(network, WEIGHTS)
    report = ke.load_weights(network, WEIGHTS, strict=False, pixels="imagenet")
    assert report.missing == (
        "block7a.project.conv.kernel",
        "head.conv.kernel",
        "classifier.kernel",
    )
    assert len(report.loaded) == 308
    assert report == dataclasses.replace(
        report, unexpected=(), mismatched={}, adapted={}, differences={}
    )


def test_golden_activations():
    golden = np.load(GOLDEN)
    network = ke.EfficientNetB0(weights=None, include_preprocessing=False)
    ke.load_weights(network, WEIGHTS, strict=False)
    pixels = golden["inputs"].transpose(0, 2, 3, 1)
    for name, layer in TAPS.items():
        taps = keras.Model(network.input, network.get_layer(layer).output)
        actual = np.asarray(taps(pixels, training=False)).transpose(0, 3, 1, 2)
        assert relative_difference(actual, golden[name]) < 1e-4, name


@pytest.fixture(scope="module")
def flowers():
    """Prepared training and validation photos."""
    data = ke.data.load(f"folder:{FLOWERS}")
    return [
        ke.data.evaluation_arrays(examples, 224, data.crop_fraction, 1000)
        for examples in (data.train, data.test)
    ]


@pytest.mark.slow
def test_eight_bits_agree_with_float_on_real_photos(flowers, tmp_path):
    """The converter's own int8 agrees on 82-90 % here, for a linear head on these features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    (train, labels), (val, _) = flowers
    network = ke.EfficientNetB0(weights=None)
    ke.load_weights(network, WEIGHTS, strict=False)
    pooled = keras.layers.GlobalAveragePooling2D()(network.get_layer("block7a_se").output)
    features = keras.Model(network.input, pooled).predict(train, batch_size=50, verbose=0)
    scaler = StandardScaler().fit(features)
    fitted = LogisticRegression(C=0.01, max_iter=1000).fit(scaler.transform(features), labels)
    head = keras.layers.Dense(5, activation="softmax")
    model = keras.Model(network.input, head(pooled))
    bias = fitted.intercept_ - fitted.coef_ @ (scaler.mean_ / scaler.scale_)
    head.set_weights([(fitted.coef_ / scaler.scale_).T, bias])
    report = ke.export(
        model,
        tmp_path,
        quantize="int8",
        calibration=ke.deploy.CalibrationSet(train[::3], val),
        description={"class_names": tuple("abcde")},
    )
    file = report.file("model_int8.tflite")
    found = file.int8
    assert found
    assert file.agreement
    assert file.agreement >= 0.97
    assert found.equalized
    assert not found.float_parts
    assert found.size <= 0.4
    assert found.latency < 0.8  # 0.55 on an idle machine


@pytest.mark.slow
def test_a_linear_probe_on_flowers():
    """Random features give 42 %; these were measured at 81-85 %."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = ke.EfficientNetB0(weights=None)
    ke.load_weights(network, WEIGHTS, strict=False)
    features = keras.layers.GlobalAveragePooling2D()(network.get_layer("block7a_se").output)
    features = keras.Model(network.input, features)
    found = {}
    for split in ("train", "val"):
        photos = keras.utils.image_dataset_from_directory(
            FLOWERS / split, image_size=(224, 224), batch_size=50, shuffle=False, verbose=False
        )
        found[split] = (
            np.concatenate([features(x, training=False) for x, _ in photos]),
            np.concatenate([labels for _, labels in photos]),
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    probe.fit(*found["train"])
    assert probe.score(*found["val"]) >= 0.8
