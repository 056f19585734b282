import ast
import re
import sys
from pathlib import Path

import pytest

import keras_efficientnet as ke

PACKAGE = Path(ke.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}

# What each part may import of the package. A part not listed here may import all but `cli`.
STDLIB_ONLY = {
    "errors": set(),
    "spec": set(),
    "scaling": {"spec", "errors"},
    "cost": {"scaling", "spec", "errors"},
}
GRAPH = {
    "gradients": set(),
    "variable_names": set(),
    "layers": {"errors", "gradients"},
    "model": {"layers", "scaling", "spec", "errors", "variable_names"},
    "losses": set(),
    "task": {"errors", "losses"},
    "weights": {
        "model",
        "layers",
        "scaling",
        "spec",
        "errors",
        "files",
        "description",
        "task",
        "_version",
    },
    "variants": {"model", "layers", "scaling", "spec", "errors", "weights"},
}
CORE = {*STDLIB_ONLY, *GRAPH}
ALLOWED = {
    **STDLIB_ONLY,
    **GRAPH,
    "bars": set(),
    "files": {"errors"},
    "native_logs": set(),
    "description": {"errors", "files", "scaling", "spec", "task"},
    "data": {"bars", "errors", "files", "spec", "scaling", "task"},
    "deploy": CORE | {"bars", "data", "description", "files", "native_logs"},
    "plot_style": {"errors"},
    "plots": {"plot_style", "errors"},
    "explain": {"data", "errors", "files", "plots"},
    "report": {"data", "deploy", "errors", "files", "plots", "native_logs"},
    "training": CORE | {"bars", "data", "files", "native_logs"},
    "fine_tuning": CORE | {"data", "description", "files", "training"},
    "study": CORE | {"bars", "data", "deploy", "description", "training", "files", "native_logs"},
    "data_check": CORE | {"data", "description", "errors", "report", "training"},
    "run": CORE
    | {"data", "deploy", "description", "files", "fine_tuning", "native_logs", "report"}
    | {"run_folder", "training"},
}


def part_of(module: str) -> str:
    return module.split(".")[0]


def imports(source: str, module: str = "") -> set[str]:
    """All modules that code imports, anywhere in it; those of the package without its name.

    Relative imports are resolved from `module`, a package or module in the package.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                base = f"keras_efficientnet.{module}".split(".")
                # A package's own file is one level nearer than a module's.
                up = node.level - (MODULES.get(module, Path()).name == "__init__.py")
                origin = ".".join([*base[: len(base) - up], *filter(None, [origin])])
            found.add(origin)
            if origin.split(".")[0] == "keras_efficientnet":
                found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def parts_imported(source: str, module: str = "") -> set[str]:
    inside = {
        name.removeprefix("keras_efficientnet.")
        for name in imports(source, module)
        if name.startswith("keras_efficientnet.")
    }
    return {part_of(name) for name in inside if part_of(name) in {part_of(m) for m in MODULES}}


def test_the_walk_sees_every_form_of_import():
    source = """
import keras_efficientnet.scaling
from keras_efficientnet import spec as s
def later():
    from . import cost
    from .errors import InputError
"""
    assert parts_imported(source, "model") == {"scaling", "spec", "cost", "errors"}
    assert parts_imported("from ..layers import Swish\nfrom . import x", "weights") <= {
        "layers",
        "weights",
    }


@pytest.mark.parametrize("module", sorted(ALLOWED))
def test_imports_point_one_way(module):
    for name, path in MODULES.items():
        if part_of(name) != module:
            continue
        found = parts_imported(path.read_text(encoding="utf-8"), name) - {module}
        assert found <= ALLOWED[module], f"{name} imports {found - ALLOWED[module]}"


@pytest.mark.parametrize("module", sorted(STDLIB_ONLY))
def test_the_arithmetic_needs_the_standard_library_only(module):
    outside = {
        part_of(name)
        for name in imports(MODULES[module].read_text(encoding="utf-8"), module)
        if part_of(name) != "keras_efficientnet"
    }
    assert outside <= sys.stdlib_module_names


def test_nothing_imports_the_command_line():
    for name, path in MODULES.items():
        if part_of(name) not in ("cli", "__main__"):
            assert "cli" not in parts_imported(path.read_text(encoding="utf-8"), name), name


HEAVY = """
import sys
import keras_efficientnet as ke
assert ke.scaling.compound_scale(1).width == 1.1
assert ke.cost.network_cost("L2").trainable == 480_309_308
assert ke.spec.VARIANTS and ke.VariantSpec and ke.InputError and ke.__version__
print(sorted({"tensorflow", "keras", "numpy", "jax", "torch"} & set(sys.modules)))
"""


def test_the_package_and_its_arithmetic_leave_tensorflow_out(run_python):
    assert run_python(HEAVY) == "[]"


def test_every_public_name_resolves():
    stub = (PACKAGE / "__init__.pyi").read_text(encoding="utf-8")
    names = re.findall(r"import \w+ as (\w+)", stub)
    assert len(names) == len(stub.strip().splitlines())
    assert sorted(ke.__all__) == sorted(names)
    for name in names:
        assert getattr(ke, name) is not None
    with pytest.raises(AttributeError):
        _ = ke.no_such_name


PROBE = """
import importlib.util, sys
import keras_efficientnet
# Asking whether Keras is there must not use up the registration.
assert importlib.util.find_spec("keras") is not None
assert "keras" not in sys.modules
import keras
print(keras.saving.get_registered_object("keras_efficientnet>Swish").__module__)
"""


def test_layers_are_registered_once_keras_is_imported(run_python):
    assert run_python(PROBE) == "keras_efficientnet.layers"
