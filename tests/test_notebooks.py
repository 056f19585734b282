"""The notebooks run from top to bottom, on little, and keep small outputs of a real run."""

import ast
import importlib
import importlib.util
import re
import shutil
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
FLOWERS = Path(__file__).resolve().parents[2] / "shared" / "data" / "flowers"
MAX_OUTPUT = 60_000

# What runs after the cell with a notebook's parameters.
SMALL = {
    "01_first_classifier": """
VARIANT, EPOCHS, TRAIN_IMAGES = ke.study.get_network("tiny"), 1, 100
""",
    "02_fine_tune_on_your_photos": """
PHOTOS, IMAGE_SIZE, EPOCHS = "few", 96, 1
""",
    "03_train_by_the_papers_recipe": """
EPOCHS, TRAIN_IMAGES = 2, 100
""",
    "04_compound_scaling_explored": """
EPOCHS, SEEDS, RATIO, TRAIN_IMAGES, TEST_IMAGES = 1, 1, 2, 40, 20
""",
    "05_the_four_exercises": """
EPOCHS, SEEDS, STEP, TRAIN_IMAGES, TEST_IMAGES = 1, 1, 1.0, 40, 20
""",
    "06_to_a_phone": """
EPOCHS, TRAIN_IMAGES, TURNS, MIN_AGREEMENT = 2, 200, 2, 0
""",
    "07_distributed": """
EPOCHS, TRAIN_IMAGES = 1, 64
""",
}
QUICK = "03_train_by_the_papers_recipe"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))


def read(name):
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def assigned(code):
    """The names that a piece of code gives values to, at its top level."""
    return {
        node.id
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


@pytest.fixture
def execute(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    run = importlib.import_module("run_notebooks").executed

    def execute(name):
        if "PHOTOS" in SMALL[name]:
            if not FLOWERS.is_dir():
                pytest.skip("the flowers are not there")
            for split, count in (("train", 6), ("val", 3)):
                for folder in (FLOWERS / split).iterdir():
                    (tmp_path / "few" / split / folder.name).mkdir(parents=True)
                    for photo in sorted(folder.iterdir())[:count]:
                        shutil.copy(photo, tmp_path / "few" / split / folder.name)
        return run(EXAMPLES / f"{name}.ipynb", tmp_path, SMALL[name])

    return execute


def test_every_notebook_is_run_here():
    assert list(SMALL) == NAMES
    assert len({code_cells(read(name))[0].source for name in NAMES}) == 1  # how it is installed


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_small_and_of_one_whole_run(name):
    notebook = read(name)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert len(outputs) >= 4
    assert any("image/svg+xml" in output.get("data", ()) for output in outputs) or name[1] in "67"
    for output in outputs:
        assert output.output_type != "error"
        text = str(output)
        assert len(text) < MAX_OUTPUT, output.output_type
        assert not re.search(r"/(home|root|tmp|work|Users)/|Traceback|Warning: ", text), text[:400]


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_clean(name):
    notebook = read(name)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert set(notebook.metadata.language_info) == {"name"}
    (parameters,) = [cell for cell in notebook.cells if cell.metadata]
    assert parameters.metadata == {"tags": ["parameters"]}
    assert assigned(SMALL[name]) <= assigned(parameters.source)
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        assert target.startswith("https://") or (EXAMPLES / target).is_file(), target
    assert not re.search(r"keras_efficientnet\.\w", "".join(cell.source for cell in notebook.cells))


@pytest.mark.parametrize(
    "name",
    [
        name if name == QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in NAMES
        if not name.startswith("07")
    ],
)
def test_it_runs(execute, name):
    notebook = execute(name)
    assert len(printed(notebook)) > 20
    assert "WARNING:absl" not in str(notebook)  # the converter's, which means nothing to readers


@pytest.mark.exhaustive
def test_two_hosts_train_as_one(execute):
    text = printed(execute("07_distributed"))
    assert "2 device(s): 2 share each batch" in text
    if importlib.util.find_spec("jax"):
        alone, *hosts = re.findall(r"^(?:alone: |host \d:) (.+)$", text, re.MULTILINE)
        assert hosts == [alone, alone]
        assert alone.startswith("[")
    else:
        assert "Several hosts need JAX" in text
