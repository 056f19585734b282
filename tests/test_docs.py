"""The site of the documents builds without a complaint, and fetches nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_PICTURE = 150_000

pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="needs the documents")


def test_pictures_are_small_and_shown():
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    pictures = list((ROOT / "docs" / "pictures").iterdir())
    assert len(pictures) >= 8
    for picture in pictures:
        assert picture.stat().st_size < MAX_PICTURE, picture
        assert f"pictures/{picture.name}" in pages


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
    } - {"cli", "files", "quiet", "canvas"}
    assert {page.stem for page in (tmp_path / "reference").iterdir()} == parts | {"index"}
    reference = (tmp_path / "reference" / "explain.html").read_text(encoding="utf-8")
    assert "as the network takes it" in reference
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""<(script|img|iframe)[^>]+src=["']?(https?:)?//""", text), page
        for link in re.findall(r"<link[^>]+>", text):
            assert "canonical" in link or "//" not in link, link
