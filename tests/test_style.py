"""What linters do not hold: how long a function may be, and that tests use public names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import keras_efficientnet as ke

PACKAGE = Path(ke.__file__).parent
TESTS = Path(__file__).parent
MAX_LINES = 60


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def code_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    assert function.end_lineno
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    docstring = first.end_lineno - first.lineno + 1 if documented and first.end_lineno else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_functions_are_short():
    long = {
        f"{path.relative_to(PACKAGE)}:{function.name}": lines
        for path in PACKAGE.rglob("*.py")
        for function in functions(path)
        if (lines := code_lines(function)) > MAX_LINES
    }
    assert not long


def private_names(path: Path, modules: set[str]) -> Iterator[str]:
    """Private names of the package that a file imports or reaches for through a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
            imported |= {alias.asname or alias.name for alias in node.names}
            for alias in node.names:
                if alias.name.startswith("_") and not alias.name.startswith("__"):
                    yield f"{path.name}: {node.module}.{alias.name}"
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in imported & modules
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
        ):
            yield f"{path.name}:{node.lineno}: {node.value.id}.{node.attr}"


def test_tests_use_public_names():
    modules = {path.stem for path in PACKAGE.rglob("*.py")}
    found = [name for path in TESTS.rglob("*.py") for name in private_names(path, modules)]
    assert not found
