"""Runs the notebooks from top to bottom and keeps their outputs in them.

    pip install ".[test,distributed]"
    python examples/run_notebooks.py        # all of them
    python examples/run_notebooks.py 01 06  # those whose names begin so
    python examples/run_notebooks.py 02 --flowers DIR  # with photos for it, not downloaded

Files that a notebook writes go to a temporary folder.
"""

import argparse
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
CELL_SECONDS = 3600
# What native libraries say of the machine when they start, and TensorFlow of what it does.
NOTES = re.compile(
    r"^(?:.*[IWE]\d{4} \d\d:\d\d:|To enable the following instructions|WARNING: "
    r"|INFO: Created TensorFlow Lite |(?:INFO|WARNING):tensorflow:).*\n?",
    re.MULTILINE,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of names; all if none")
    parser.add_argument("--flowers", type=Path, help="photos, with a folder for each class")
    options = parser.parse_args()
    for path in sorted(FOLDER.glob("*.ipynb")):
        if path.name.startswith(tuple(options.names) or ""):
            print(path.name)
            with tempfile.TemporaryDirectory() as folder:
                if options.flowers:
                    Path(folder, "flowers").symlink_to(options.flowers.resolve())
                nbformat.write(executed(path, folder), path)


def executed(path: Path, folder: str | Path, parameters: str = "") -> nbformat.NotebookNode:
    """Returns a notebook with the outputs of a fresh run.

    Args:
        path: of the notebook.
        folder: where the notebook runs.
        parameters: code to run after the cell that is tagged `parameters`.
    """
    notebook = nbformat.read(path, as_version=4)
    if parameters:
        tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
        place = next(index for index, names in enumerate(tags) if "parameters" in names)
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(parameters))
    NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_noise(output)]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _is_noise(output: nbformat.NotebookNode) -> bool:
    """Takes notes about the machine out of an output; whether nothing is left of it."""
    if output.output_type != "stream":
        return False
    output.text = NOTES.sub("", output.text)
    return not output.text.strip()


if __name__ == "__main__":
    main()
