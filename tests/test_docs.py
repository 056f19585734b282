"""The documents name what exists, and their site builds without a complaint and fetches nothing."""

import ast
import inspect
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import keras_efficientnet as ke
from keras_efficientnet.cli import group

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MAX_PICTURE = 150_000
MAX_README_LINES = 150
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "*/README.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
# Made when the site is built.
GENERATED = re.compile(r"docs/(benchmarks|reference/(?!report_json)\w+)\.md")

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="needs the documents")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def test_pictures_are_small_and_shown():
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    pictures = list((DOCS / "pictures").iterdir())
    assert len(pictures) >= 8
    for picture in pictures:
        assert picture.stat().st_size < MAX_PICTURE, picture
        assert f"pictures/{picture.name}" in pages


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_decisions_are_numbered_in_order():
    pages = sorted((DOCS / "decisions").iterdir())
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for number, page in enumerate(pages, start=1):
        assert page.read_text(encoding="utf-8").startswith(f"# {number}. ")


@each_page
def test_links_and_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)", prose)
    targets = [(page.parent / link).resolve() for link in links]
    named = re.findall(r"\b(?:examples|benchmarks|docs|tests|keras_efficientnet)/[\w/]+\.\w+", text)
    for target in [*targets, *(ROOT / path for path in named)]:
        assert target.exists() or GENERATED.fullmatch(str(target.relative_to(ROOT))), target


@each_page
def test_code_calls_what_there_is_by_the_names_it_takes(page):
    for block in blocks(page, "python"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                public(node)
            if isinstance(node, ast.Call) and (called := public(node.func)):
                keywords = {keyword.arg: None for keyword in node.keywords}
                inspect.signature(called).bind_partial(*node.args, **keywords)


def public(node):
    """Returns what `ke.a.b` stands for; None for another expression."""
    if isinstance(node, ast.Name):
        return ke if node.id == "ke" else None
    owner = public(node.value) if isinstance(node, ast.Attribute) else None
    return owner and getattr(owner, node.attr)


@each_page
def test_commands_and_options_exist(page):
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if "keras-efficientnet " in line:
                words = shlex.split(line.split("keras-efficientnet ", 1)[1], comments=True)
                parse(words)


def parse(words):
    command, context = group, click.Context(group)
    while isinstance(command, click.Group):
        command = command.get_command(context, words[0])
        assert command, words
        words = words[1:]
    command.make_context("keras-efficientnet", list(words))


@pytest.mark.slow
def test_the_site_builds_strictly_and_needs_no_network(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    parts = {
        path.stem
        for path in (ROOT / "keras_efficientnet").iterdir()
        if not path.name.startswith("_")
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    } - runpy.run_path(str(DOCS / "site.py"))["NOT_LISTED"]
    made = {page.stem for page in (tmp_path / "reference").iterdir()}
    assert made == parts | {"index", "commands", "report_json"}
    reference = (tmp_path / "reference" / "explain.html").read_text(encoding="utf-8")
    assert "as the network takes it" in reference
    assert "--min-agreement" in (tmp_path / "reference" / "commands.html").read_text("utf-8")
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""<(script|img|iframe)[^>]+src=["']?(https?:)?//""", text), page
        for link in re.findall(r"<link[^>]+>", text):
            assert "canonical" in link or "//" not in link, link
