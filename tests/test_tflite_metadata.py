"""Standard metadata, read by the schema's own code and by MediaPipe."""

import dataclasses
import zipfile

import numpy as np
import pytest
from image_helpers import real_photos

import keras_efficientnet as ke
from keras_efficientnet import deploy, spec
from keras_efficientnet.deploy.exportable import open_exportable
from keras_efficientnet.deploy.tflite_metadata import per_channel

NAMES = ("chat noir", "犬", "лиса 🦊", "naïve", "كلب")
SIZE = 64


@pytest.fixture(scope="module")
def photos():
    return real_photos(SIZE, 32)


@pytest.fixture(scope="module")
def network(small, tell_apart, photos):
    model = ke.EfficientNet(small, classes=5, input_shape=(SIZE, SIZE, 3), name="Tierchen")
    texts = {"summary": "Fünf Tiere", "author": "Ælfred", "license": "Apache-2.0"}
    return open_exportable(tell_apart(model, photos), {"class_names": NAMES, **texts})


@pytest.fixture(scope="module")
def files(tmp_path_factory, network, photos):
    folder = tmp_path_factory.mktemp("metadata")
    paths = {name: folder / f"{name}.tflite" for name in ("float32", "int8")}
    for name, path in paths.items():
        deploy.export_tflite(network, path, quantize=name, calibration=photos)
    return paths


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_mediapipe_gives_the_labels_and_scores_of_the_model(files, network, photos, name):
    """Of the float file those of the Keras model, of the int8 file those of the file itself.

    With random weights, 8 bits turn single answers; `test_export_real` has a real network.
    """
    mediapipe = pytest.importorskip("mediapipe", exc_type=ImportError)
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.ImageClassifierOptions(BaseOptions(model_asset_path=str(files[name])))
    expected = (
        network.scores(photos) if name == "float32" else ke.Predictor(files[name]).scores(photos)
    )
    assert len(set(expected.argmax(1))) >= 4
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for photo, scores in zip(photos, expected, strict=True):
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=photo)
            (result,) = classifier.classify(image).classifications
            found = {category.category_name: category.score for category in result.categories}
            assert set(found) == set(NAMES)
            np.testing.assert_allclose([found[name] for name in NAMES], scores, atol=1e-4)
            if np.sum(scores == scores.max()) == 1:
                assert result.categories[0].category_name == NAMES[scores.argmax()]


def metadata(path):
    """The second flatbuffer, parsed by the code that was generated from the schema."""
    schema = pytest.importorskip("mediapipe.tasks.metadata.metadata_schema_py_generated")
    from ai_edge_litert import schema_py_generated as lite

    model = lite.Model.GetRootAs(path.read_bytes())
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == b"TFLITE_METADATA":
            content = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            assert schema.ModelMetadata.ModelMetadataBufferHasIdentifier(content, 0)
            return schema, schema.ModelMetadataT.InitFromPackedBuf(content)
    raise AssertionError("no metadata")


def test_every_field_says_what_is_true(files):
    schema, found = metadata(files["int8"])
    assert [text.decode() for text in (found.name, found.description)] == ["Tierchen", "Fünf Tiere"]
    assert [text.decode() for text in (found.author, found.license)] == ["Ælfred", "Apache-2.0"]
    assert found.minParserVersion == b"1.0.0"
    (own,) = found.associatedFiles
    (graph,) = found.subgraphMetadata
    (image,), (scores,) = graph.inputTensorMetadata, graph.outputTensorMetadata
    assert (image.name, scores.name) == (b"image", b"scores")
    assert b"Preprocessing is inside the graph" in image.description
    content = image.content
    assert content.contentPropertiesType == schema.ContentProperties.ImageProperties
    assert content.contentProperties.colorSpace == schema.ColorSpaceType.RGB
    size = content.contentProperties.defaultSize
    assert (size.width, size.height) == (SIZE, SIZE)
    (unit,) = image.processUnits
    assert unit.optionsType == schema.ProcessUnitOptions.NormalizationOptions
    assert (unit.options.mean.tolist(), unit.options.std.tolist()) == ([0], [1])
    assert (image.stats.min.tolist(), image.stats.max.tolist()) == ([0], [255])
    assert scores.content.contentPropertiesType == schema.ContentProperties.FeatureProperties
    assert (scores.stats.min.tolist(), scores.stats.max.tolist()) == ([0], [1])
    (labels,) = scores.associatedFiles
    assert labels.type == schema.AssociatedFileType.TENSOR_AXIS_LABELS
    with zipfile.ZipFile(files["int8"]) as archive:
        assert set(archive.namelist()) == {own.name.decode(), labels.name.decode()}
        assert archive.read("labels.txt").decode() == "".join(f"{name}\n" for name in NAMES)
        # What readers without a decompressor need.
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("channels", [3, 4])
def test_preprocessing_outside_and_other_channels_are_stated(small, tmp_path, channels):
    model = ke.EfficientNet(
        dataclasses.replace(small, name="B0"),
        include_top=False,
        include_preprocessing=False,
        input_shape=(32, 32, channels),
    )
    deploy.export_tflite(model, tmp_path / "features.tflite")
    schema, found = metadata(tmp_path / "features.tflite")
    (graph,) = found.subgraphMetadata
    (image,), (features,) = graph.inputTensorMetadata, graph.outputTensorMetadata
    assert b"Preprocessing is outside the graph: (pixels - [" in image.description
    options = image.processUnits[0].options
    if channels == 3:
        np.testing.assert_allclose(options.mean, spec.IMAGENET_MEAN)
        np.testing.assert_allclose(options.std, spec.IMAGENET_STD)
    kinds = schema.ColorSpaceType
    expected = {3: kinds.RGB, 4: kinds.UNKNOWN}
    assert image.content.contentProperties.colorSpace == expected[channels]
    assert (features.name, features.stats, features.associatedFiles) == (b"features", None, None)


@pytest.mark.parametrize(
    ("mean", "std", "refused"),
    [
        (None, None, False),
        ((127.5,) * 3, (127.5,) * 3, False),
        ((1.0, 2.0, 3.0), (1.0,) * 3, True),
        ((0.0,) * 3, (1.0, 2.0, 3.0), True),
    ],
)
def test_values_that_mediapipe_does_not_read_are_known(mean, std, refused):
    description = ke.ModelDescription("B0", (), 64, 0.875, pixel_mean=mean, pixel_std=std)
    assert per_channel(description) == refused
