"""Adds a reference page to the site for every part of the package: a hook of MkDocs."""

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = "keras_efficientnet"
# Reached by commands, or of no use by themselves.
NOT_LISTED = {"cli", "files", "gradients", "quiet", "canvas"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Makes a page of each module and each folder of modules, and their list."""
    root = Path(config.config_file_path).parent / PACKAGE
    rows = []
    for path in sorted(root.iterdir()):
        name = path.stem
        module = path / "__init__.py" if path.is_dir() else path
        if name.startswith("_") or name in NOT_LISTED or not module.is_file():
            continue
        if module.suffix != ".py":
            continue
        summary = (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").split(
            "\n\n"
        )[0]
        rows.append(f"| [`{name}`]({name}.md) | {' '.join(summary.split())} |")
        content = f"# {PACKAGE}.{name}\n\n::: {PACKAGE}.{name}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    table = "\n".join(["| module | what it holds |", "|---|---|", *rows])
    content = (
        "# Reference\n\nMade from the docstrings. What `import keras_efficientnet as ke` offers "
        f"directly is listed in its `__init__.pyi`.\n\n{table}\n"
    )
    files.append(File.generated(config, "reference/index.md", content=content))
    return files
