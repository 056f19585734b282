"""The command `plot`, and `predict --explain`."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from keras_efficientnet import study

pytest_plugins = "cli_helpers"


@pytest.fixture(autouse=True)
def _folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def table(tmp_path):
    """Writes rows to a CSV file."""

    def write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


def test_the_family_in_every_format(command, tmp_path):
    code, out, err = command("plot", "family")
    assert (code, out, err) == (0, "Written to family.svg.\n", "")
    assert "EfficientNetV2" in (tmp_path / "family.svg").read_text(encoding="utf-8")
    code, out, _ = command(
        *("plot", "family", "--against", "multiply-adds", "--output", "cost.png"),
        *("--dark", "--json"),
    )
    assert code == 0
    assert json.loads(out) == {"output": "cost.png", "rows": study.published_networks()}
    with Image.open("cost.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == (0x15, 0x19, 0x1E)
    assert command("plot", "scaling", "--output", "scaling.pdf")[0] == 0
    assert (tmp_path / "scaling.pdf").read_bytes().startswith(b"%PDF")


def test_recipes_data_and_runs(command, table, tmp_path):
    code, out, _ = command("plot", "schedule", "--recipe", "small", "--epochs", 4, "--json")
    assert code == 0
    rows = json.loads(out)["rows"]
    assert len(rows) == 4 * 50
    assert max(row["learning_rate"] for row in rows) == pytest.approx(0.002, rel=0.1)
    code, out, _ = command("plot", "augmentation", "--recipe", "v2-progressive", "--json")
    assert code == 0
    assert json.loads(out)["rows"]["policy"] == "rand"
    assert (tmp_path / "augmentation.svg").exists()
    run = table("run/history.csv", [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]).parent
    assert command("plot", "history", run)[0] == 0
    assert ">epoch<" in (tmp_path / "history.svg").read_text(encoding="utf-8")


def test_results_of_studies(command, table):
    found = [
        {"alpha": 1.2, "beta": 1.1, "gamma": 1.15, "accuracy": 0.7, "spread": 0.01},
        {"alpha": 1.1, "beta": 1.2, "gamma": 1.15, "accuracy": "", "spread": ""},
    ]
    assert command("plot", "search", table("search.csv", found))[0] == 0
    compared = [
        {"dimension": "base", "multiply_adds": 1e6, "accuracy": 0.6, "spread": 0.01},
        {"dimension": "depth", "multiply_adds": 2e6, "accuracy": 0.7, "spread": ""},
    ]
    assert command("plot", "comparison", table("comparison.csv", compared))[0] == 0


def test_what_cannot_be_drawn_is_one_sentence(command, table, tmp_path):
    (tmp_path / "there.svg").write_text("precious")
    (tmp_path / "empty.csv").write_text("alpha,beta\n")
    wrong = table("wrong.csv", [{"alpha": 1}])
    for arguments, message in (
        (["family", "--output", "x.gif"], "must end in .svg, .png, .pdf"),
        (["family", "--output", "there.svg"], "--overwrite"),
        (["history", "none"], "history.csv' cannot be read: No such file"),
        (["search", "empty.csv"], "'empty.csv' has no rows"),
        (["comparison", wrong], "must have a number there"),
        (["schedule", "--recipe", "tiny"], "Unknown recipe 'tiny'"),
        (["schedule", "--epochs", 0], "epochs=0 must be at least 1"),
        (["augmentation", "--model", "B99"], "Unknown variant 'B99'"),
    ):
        code, out, err = command("plot", *arguments)
        assert (code, out) == (2, ""), arguments
        assert message in err
    assert (tmp_path / "there.svg").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "empty.csv",
        "there.svg",
        "wrong.csv",
    ]


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    files = [tmp_path / name for name in ("a/x.png", "b/x.png")]
    for file in files:
        file.parent.mkdir()
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(file)
    return files


def test_predict_explains(command, model_files, photos, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    code, out, err = command(
        *("predict", model_files["keras"], *photos, broken, "--explain", "why", "--json"),
    )
    assert code == 0, err
    results = json.loads(out)
    assert [row["explanation"] for row in results] == ["why/x.png", "why/x-2.png"]
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["x-2.png", "x.png"]
    code, out, _ = command("predict", model_files["keras"], photos[0], "--explain", "more")
    assert code == 0
    assert out.endswith("Pictures written to more.\n")


def test_what_predict_cannot_explain(command, model_files, photos, tmp_path):
    (tmp_path / "there").mkdir()
    for model, folder, message in (
        (model_files["float32"], "why", "Only a .keras file has the gradients"),
        (model_files["saved_model"], "why", "Only a .keras file has the gradients"),
        (model_files["keras"], "there", "--overwrite"),
    ):
        code, out, err = command("predict", model, photos[0], "--explain", folder)
        assert (code, out) == (2, "")
        assert message in err.splitlines()[-1]
    assert not (tmp_path / "why").exists()
    arguments = ["predict", model_files["keras"], tmp_path / "none.jpg", "--explain", "why"]
    assert command(*arguments)[0] == 2
    assert not (tmp_path / "why").exists()
