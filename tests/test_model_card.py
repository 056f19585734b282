"""The model card: what it says, and that it respects what people have written into it."""

import keras
import pytest

import keras_efficientnet as ke
from keras_efficientnet.deploy import model_card
from keras_efficientnet.deploy.export_report import ExportedFile, ExportReport
from keras_efficientnet.deploy.exportable import open_exportable


def report(names, compared_on="held-out images", agreement=0.975, accuracy=0.853):
    files = tuple(
        ExportedFile(
            name=f"{name}.tflite",
            format="tflite",
            number_format="int8",
            size=2_000_000,
            agreement=agreement,
            max_abs_difference=0.02,
            accuracy=accuracy,
        )
        for name in names
    )
    return ExportReport("here", files, (), 200, compared_on, accuracy, "inside the graph")


@pytest.fixture(scope="module")
def network():
    model = ke.EfficientNetB0(weights=None, classes=3, input_shape=(64, 64, 3))
    description = {
        "class_names": ("chat", "犬", "лиса"),
        "summary": "Three animals.",
        "license": "Apache-2.0",
        "data": "120 images of animals.",
        "recipe": "Recipe small\n  epochs = 22",
    }
    return open_exportable(model, description)


def test_a_card_says_what_is_known(network, tmp_path):
    model_card.update(tmp_path / "card.md", network, report(["a", "b"]))
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    cost = ke.cost.network_cost("B0", 64, 3)
    for part in (
        "# EfficientNet-B0\n\nThree animals.\n\n",
        "| architecture | EfficientNet-B0 |",
        "| input | 64 x 64 pixels of 3 channels, 0-255 |",
        "| preprocessing | inside the graph |",
        "| output | a probability for each of 3 classes |",
        f"| parameters | {cost.parameters:,} |",
        f"| multiply-adds | {cost.multiply_adds / 1e9:.3g} G |",
        "| `a.tflite` | 85.3 % | 97.5 % | 2.0e-02 | 200 held-out images | 2.0 MB |\n| `b.tflite`",
        "## Data\n\n120 images of animals.\n\nClasses: chat, 犬, лиса.",
        "## Recipe\n\n```\nRecipe small\n  epochs = 22\n```",
        "## Intended use\n\nTells apart",
        "## Licence\n\nApache-2.0",
    ):
        assert part in text, part


def test_what_is_not_known_is_said_to_be_unknown(small, tmp_path):
    base = ke.EfficientNet(small, include_top=False, input_shape=(32, 32, 3))
    model = keras.Sequential([keras.Input((32, 32, 3)), base], name="mine")
    found = report(["a"], agreement=None, accuracy=None)
    model_card.update(tmp_path / "card.md", open_exportable(model), found)
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert text.startswith("# mine\n\n| | |")
    assert "| `a.tflite` | - | - |" in text
    assert "features of shape (1, 1, " in text
    assert "multiply-adds" not in text
    assert text.count("Not stated.") == 4  # author, data, recipe, licence
    assert "Turns an image into features" in text


def test_the_table_is_brought_up_to_date_and_the_rest_left_alone(network, tmp_path):
    path = tmp_path / "card.md"
    model_card.update(path, network, report(["a", "b"]))
    edited = path.read_text(encoding="utf-8").replace("Three animals.", "My own words.")
    path.write_text(edited, encoding="utf-8")
    model_card.update(path, network, report(["b", "c"], "random pixels"))
    text = path.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["a.tflite", "b.tflite", "c.tflite"]
    assert ["random" in row for row in rows] == [False, True, True]
    before, after = edited.splitlines(), text.splitlines()
    assert [line for line in after if line not in rows] == [
        line for line in before if not line.startswith("| `")
    ]


def test_a_card_from_elsewhere_gets_a_table(network, tmp_path):
    path = tmp_path / "card.md"
    path.write_text("# Mine\n\nWords.\n", encoding="utf-8")
    for _ in range(2):
        model_card.update(path, network, report(["a"]))
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Mine\n\nWords.\n\n## Files\n\n| file |")
    assert text.count("| `a.tflite` |") == text.count("## Files") == 1


def test_many_classes_are_not_all_named(small, tmp_path):
    model = ke.EfficientNet(small, classes=120, input_shape=(32, 32, 3))
    names = [f"class-{index}" for index in range(120)]
    model_card.update(
        tmp_path / "card.md", open_exportable(model, {"class_names": names}), report(["a"])
    )
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "class-99 and 20 more." in text
    assert "class-100" not in text
