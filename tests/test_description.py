"""What model files say about themselves."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest

from keras_efficientnet import InputError, spec
from keras_efficientnet.description import FILE_NAME, ModelDescription, read_description

INFO = ModelDescription("B0", ("chat", "犬", "a\nb"), 64, 0.875)


def test_every_format_carries_its_description(model_files):
    for path in model_files.values():
        description = read_description(path)
        assert description
        assert description.class_names == ("chat", "犬", "лиса")
        assert (description.variant, description.image_size, description.crop_fraction) == (
            "small",
            64,
            0.875,
        )
        assert description.takes_raw_pixels


def test_a_description_survives_the_way_through_a_file():
    full = dataclasses.replace(
        INFO, pixel_mean=(1.0, 2.0, 3.0), pixel_std=(4.0,) * 3, license="MIT", recipe="a\nb"
    )
    for description in (INFO, full):
        assert ModelDescription.from_json(description.to_json()) == description


def test_names_for_people_and_for_readers_of_lines():
    assert INFO.title == "EfficientNet-B0"
    assert dataclasses.replace(INFO, variant="v2s").title == "EfficientNet-V2-S"
    assert dataclasses.replace(INFO, variant="mine").title == "mine"
    assert (INFO.label(1), INFO.label(7)) == ("犬", "class 7")
    assert INFO.labels == "chat\n犬\na b\n"


def test_pixels_are_prepared_where_the_network_does_not():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    inside = dataclasses.replace(INFO, pixel_mean=(0.0,), pixel_std=(1.0,))
    for description in (INFO, inside):
        assert description.network_input(pixels) is pixels
    assert inside.preprocessing == "inside the graph"
    outside = dataclasses.replace(INFO, pixel_mean=spec.IMAGENET_MEAN, pixel_std=spec.IMAGENET_STD)
    expected = (pixels - np.array(spec.IMAGENET_MEAN)) / np.array(spec.IMAGENET_STD)
    np.testing.assert_allclose(outside.network_input(pixels), expected, atol=1e-6)
    assert outside.preprocessing == (
        "outside the graph: (pixels - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]"
    )


def test_single_fields_can_be_replaced():
    assert INFO.replaced({"class_names": ["a", "b"], "license": "MIT"}) == dataclasses.replace(
        INFO, class_names=("a", "b"), license="MIT"
    )
    with pytest.raises(InputError, match="info has no 'labels'; it has variant, class_names"):
        INFO.replaced({"labels": ["a"]})
    with pytest.raises(InputError, match="no sense"):
        INFO.replaced({"image_size": "large"})


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        *(
            json.dumps({**dataclasses.asdict(INFO), **change})
            for change in (
                {"class_names": 3},
                {"class_names": [1]},
                {"image_size": -1},
                {"crop_fraction": 0},
                {"pixel_mean": [0]},
                {"pixel_mean": [0], "pixel_std": [0]},
                {"pixel_mean": [0, 0], "pixel_std": [1]},
                {"license": None},
                {"surprise": 1},
            )
        ),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, text):
    path = tmp_path / "model.tflite"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(FILE_NAME, text)
    with pytest.raises(InputError, match="description"):
        read_description(path)
