"""A hook of MkDocs: adds the pages that are made from the package, and completes the navigation."""

import ast
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from keras_efficientnet.cli import group

PACKAGE = "keras_efficientnet"
NOT_LISTED = {
    "cli",
    "files",
    "gradients",
    "native_logs",
    "plot_style",
    "run_folder",
    "variable_names",
}
"""Modules that are of no use by themselves."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages; in `nav`, a path that ends in `/` becomes all pages of that folder."""
    root = Path(config.config_file_path).parent
    pages = {**reference_pages(root / PACKAGE), "reference/commands.md": commands_page()}
    benchmarks = (root / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for path, content in {**pages, "benchmarks.md": benchmarks}.items():
        files.append(File.generated(config, path, content=content))
    for picture in (root / "benchmarks").glob("*.svg"):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    config.nav = expanded(config.nav, sorted(file.src_uri for file in files))
    return files


def reference_pages(package: Path) -> dict[str, str]:
    """Makes a page of each module and each folder of modules, and their list."""
    pages, rows = {}, []
    for path in sorted(package.iterdir()):
        module = path / "__init__.py" if path.is_dir() else path
        name = path.stem
        if name.startswith("_") or name in NOT_LISTED or not module.is_file():
            continue
        if module.suffix != ".py":
            continue
        docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
        summary = " ".join(docstring.split("\n\n")[0].split())
        rows.append(f"| [`{name}`]({name}.md) | {summary} |")
        pages[f"reference/{name}.md"] = f"# {PACKAGE}.{name}\n\n::: {PACKAGE}.{name}\n"
    pages["reference/index.md"] = "\n".join(
        [
            "# Reference\n\nMade from the docstrings. What `import keras_efficientnet as ke` "
            "offers directly is listed in its `__init__.pyi`. The commands have [a page of their "
            "own](commands.md), and so has [the report of a run](report_json.md).\n",
            "| module | what it is for |",
            "|---|---|",
            *rows,
            "",
        ]
    )
    return pages


def commands_page() -> str:
    """Makes a page of what every command's `--help` says."""
    sections = ["# Commands\n\nWhat `--help` says of each.\n"]

    def add(command: click.Command, parent: click.Context | None, name: str):
        context = click.Context(
            command, parent, name, terminal_width=76, **command.context_settings
        )
        sections.append(f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n")
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                add(command.get_command(context, child), context, child)

    add(group, None, "keras-efficientnet")
    return "\n".join(sections)


def expanded(nav: list | dict | str, paths: list[str]) -> list | dict | str:
    """Replaces folders in the navigation by their pages that it does not name itself."""
    if isinstance(nav, list):
        named = {entry for entry in nav if isinstance(entry, str)}
        return [
            page
            for entry in nav
            for page in (
                [path for path in paths if path.startswith(entry) and path not in named]
                if isinstance(entry, str) and entry.endswith("/")
                else [expanded(entry, paths)]
            )
        ]
    if isinstance(nav, dict):
        return {title: expanded(value, paths) for title, value in nav.items()}
    return nav
