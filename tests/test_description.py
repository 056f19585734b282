"""What model files say about themselves."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest

from keras_efficientnet import InputError, spec
from keras_efficientnet.description import FILE_NAME, ModelDescription, read_description

DESCRIPTION = ModelDescription("B0", ("chat", "犬", "a\nb"), 64, 0.875)


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
        DESCRIPTION, pixel_mean=(1.0, 2.0, 3.0), pixel_std=(4.0,) * 3, license="MIT", recipe="a\nb"
    )
    for description in (DESCRIPTION, full):
        assert ModelDescription.from_json(description.to_json()) == description


def test_names_for_people_and_for_readers_of_lines():
    assert DESCRIPTION.title == "EfficientNet-B0"
    assert dataclasses.replace(DESCRIPTION, variant="v2s").title == "EfficientNet-V2-S"
    assert dataclasses.replace(DESCRIPTION, variant="mine").title == "mine"
    assert (DESCRIPTION.label(1), DESCRIPTION.label(7)) == ("犬", "class 7")
    assert DESCRIPTION.labels == "chat\n犬\na b\n"


def test_pixels_are_prepared_where_the_network_does_not():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    inside = dataclasses.replace(DESCRIPTION, pixel_mean=(0.0,), pixel_std=(1.0,))
    for description in (DESCRIPTION, inside):
        assert description.network_input(pixels) is pixels
    assert inside.preprocessing == "inside the graph"
    outside = dataclasses.replace(
        DESCRIPTION, pixel_mean=spec.IMAGENET_MEAN, pixel_std=spec.IMAGENET_STD
    )
    expected = (pixels - np.array(spec.IMAGENET_MEAN)) / np.array(spec.IMAGENET_STD)
    np.testing.assert_allclose(outside.network_input(pixels), expected, atol=1e-6)
    assert outside.preprocessing == (
        "outside the graph: (pixels - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]"
    )


def test_single_fields_can_be_replaced():
    assert DESCRIPTION.replaced(
        {"class_names": ["a", "b"], "license": "MIT"}
    ) == dataclasses.replace(DESCRIPTION, class_names=("a", "b"), license="MIT")
    with pytest.raises(
        InputError, match="description has no 'labels'; it has variant, class_names"
    ):
        DESCRIPTION.replaced({"labels": ["a"]})
    with pytest.raises(InputError, match="image_size of the description must be a whole number"):
        DESCRIPTION.replaced({"image_size": "large"})


FIRST_VERSION = """{
 "variant": "B0",
 "class_names": ["chat", "犬", "a\\nb"],
 "image_size": 64,
 "crop_fraction": 0.875,
 "pixel_mean": [0.0],
 "pixel_std": [1.0],
 "description": "Cats and dogs.",
 "author": "me",
 "license": "Apache-2.0",
 "data": "photos",
 "recipe": "small"
}"""
SECOND_VERSION = (
    FIRST_VERSION.replace('"description"', '"summary"')
    .replace("{", '{\n "version": 2,', 1)
    .replace(
        '"small"',
        '"small",\n "task": "single-label",\n "temperature": 1.0,\n "listing": "",\n'
        ' "pixel_range": null,\n "interpolation": "bicubic",\n'
        ' "holdout": null,\n "group_by": ""',
    )
)


@pytest.mark.parametrize("text", [FIRST_VERSION, SECOND_VERSION], ids=["1", "2"])
def test_every_version_of_the_document_is_read(tmp_path, text):
    with zipfile.ZipFile(tmp_path / "model.tflite", "w") as archive:
        archive.writestr(FILE_NAME, text)
    found = read_description(tmp_path / "model.tflite")
    assert found == dataclasses.replace(
        DESCRIPTION,
        pixel_mean=(0.0,),
        pixel_std=(1.0,),
        summary="Cats and dogs.",
        author="me",
        license="Apache-2.0",
        data="photos",
        recipe="small",
        task="single-label",
    )
    assert found
    assert json.loads(found.to_json()) == json.loads(SECOND_VERSION)


def test_a_document_of_a_later_version_is_refused_by_its_number(tmp_path):
    later = json.loads(SECOND_VERSION) | {"version": 3, "new": "field"}
    with zipfile.ZipFile(tmp_path / "model.tflite", "w") as archive:
        archive.writestr(FILE_NAME, json.dumps(later))
    with pytest.raises(
        InputError,
        match=r"model\.tflite': .* version 3, and .* up to version 2; update the package",
    ):
        read_description(tmp_path / "model.tflite")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        *(
            json.dumps({**dataclasses.asdict(DESCRIPTION), **change})
            for change in (
                {"class_names": 3},
                {"class_names": [1]},
                {"image_size": -1},
                {"crop_fraction": 0},
                {"pixel_mean": [0]},
                {"pixel_mean": [0], "pixel_std": [0]},
                {"pixel_mean": [0, 0], "pixel_std": [1]},
                {"license": None},
                {"pixel_range": [3, 3]},
                {"pixel_range": [0, float("inf")]},
                {"pixel_range": 255},
                {"task": "guessing"},
                {"task": []},
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


def test_data_must_be_read_by_the_pixel_range_of_the_model():
    given = dataclasses.replace(DESCRIPTION, pixel_range=(-160.0, 240.0))
    assert ModelDescription.from_json(given.to_json()) == given
    given.check_range((-160, 240))
    with pytest.raises(
        InputError, match=r"with no --pixel-range, .* trained with --pixel-range -16"
    ):
        given.check_range(None)
    with pytest.raises(InputError, match=r"with --pixel-range 0:4095, .* with no --pixel-range"):
        DESCRIPTION.check_range((0, 4095))
