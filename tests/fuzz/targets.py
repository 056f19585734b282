"""Readers of what strangers made, each as a function of bytes.

Whatever the bytes are, a target returns `RESULT` or `SENTENCE`; anything else that happens is
a mistake of the package. The property tests, the coverage-guided fuzzer and the campaign all
go through these.
"""

import contextlib
import dataclasses
import functools
import io
import math
import os
import sys
import tempfile
import typing
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from keras_efficientnet import InputError, cli, cost, deploy, scaling, spec, weights
from keras_efficientnet.data import images, sources
from keras_efficientnet.description import ModelDescription, read_description

RESULT, SENTENCE = "a result", "a sentence"
GOLDEN = Path(__file__).parents[1] / "golden"


def outcome(call: Callable[[], Any]) -> str:
    """Calls something, and says whether it gave a result or one clear sentence."""
    try:
        call()
    except InputError as error:
        assert_sentence(str(error))
        return SENTENCE
    return RESULT


def assert_sentence(text: str) -> None:
    """Asserts that a message is what a user can be shown."""
    assert text.rstrip().endswith((".", "!", "?")), text
    assert "Traceback" not in text, text
    assert "\n" not in text.strip() or len(text) < 10_000, text


@functools.cache
def folder() -> Path:
    """A folder for the files of this process."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for index, colour in enumerate(("red", "red", "blue", "blue")):
        Image.new("RGB", (8, 8), colour).save(path / f"{index}.png")
    return path


@functools.cache
def golden_keras() -> dict[str, bytes]:
    """The members of a good .keras file."""
    with zipfile.ZipFile(GOLDEN / "model.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def image(data: bytes) -> str:
    """An image file; what can be read is prepared as for a network."""

    def call():
        pixels = images.prepare(images.read(data), 16, 0.875)
        assert pixels.shape == (16, 16, 3)
        assert pixels.dtype == np.uint8

    return outcome(call)


def csv(data: bytes) -> str:
    """A CSV file beside four images."""
    (folder() / "data.csv").write_bytes(data)
    with contextlib.redirect_stderr(io.StringIO()):
        return outcome(lambda: sources.load(f"csv:{folder() / 'data.csv'}"))


def class_folders(data: bytes) -> str:
    """A tree of folders: each line is a path, with what it is behind a tab."""
    with tempfile.TemporaryDirectory(dir=folder()) as root:
        for line in data.split(b"\n")[:40]:
            name, _, kind = line.partition(b"\t")
            parts = [part for part in name.split(b"/") if part not in (b"", b".", b"..")]
            if parts:
                # Names that the file system does not take cannot come from one.
                with contextlib.suppress(OSError, ValueError):
                    _make(os.path.join(os.fsencode(root), *parts), kind)
        with contextlib.redirect_stderr(io.StringIO()):
            return outcome(lambda: sources.load(f"folder:{root}"))


def _make(path: bytes, kind: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if kind == b"folder":
        os.mkdir(path)
    elif kind == b"pipe":
        os.mkfifo(path)
    elif kind.startswith(b"link"):
        os.symlink(kind[4:] or b".", path)
    else:
        content = (folder() / "0.png").read_bytes() if kind == b"image" else kind
        with open(path, "xb") as file:
            file.write(content)


def weight_file(data: bytes) -> str:
    """A weight file of any layout."""
    path = folder() / "model.weights"
    path.write_bytes(data)
    return outcome(lambda: weights.inspect(path))


def description(data: bytes) -> str:
    """The text that a model file says of itself, and the archive around it."""
    if data[:2] == b"PK" or data[4:8] == b"TFL3":
        path = folder() / "model.tflite"
        path.write_bytes(data)
        return outcome(lambda: read_description(path))

    def call():
        description = ModelDescription.from_json(data.decode("utf-8", "replace"))
        assert ModelDescription.from_json(description.to_json()) == description
        assert description.labels.count("\n") == len(description.class_names)
        assert isinstance(description.title + description.preprocessing, str)

    return outcome(call)


def keras_config(data: bytes) -> str:
    """The config of a .keras file, whose other members are good."""
    path = folder() / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**golden_keras(), "config.json": data}.items():
            archive.writestr(name, content)
    with contextlib.redirect_stderr(io.StringIO()):
        return outcome(lambda: deploy.Predictor(path))


class Choices:
    """Draws decisions from bytes."""

    def __init__(self, data: bytes):
        self.data = iter(data)

    def number(self, below: int) -> int:
        """Returns a number from 0; 0 for ever after the last byte."""
        return next(self.data, 0) % below

    def of(self, items: Any) -> Any:
        """Returns one of several things."""
        items = list(items)
        return items[self.number(len(items))]


VALUES = (
    *("0", "1", "-1", "2", "32", "0.5", "-0.5", "1e308", "-1e308", "nan", "inf", "1e-320"),
    *("9" * 30, "9" * 400, "", " ", "B0", "b7", "V2-S", "EfficientNetB0", "B9", "tiny", "é犬🦊"),
    *("ResNet50", "none", "=", "a=b", "small", "paper", "$(touch x)", "; touch x", "`touch x`"),
    *("%s%n", "--", "-h", "x.svg", "x.keras", "x.csv", "x.tflite", "x.jpg", "missing", "\udcff"),
)
# What takes no model, no data and no time, whatever its options are.
COMMANDS = (
    *(("info",), ("weights", "list"), ("plot", "family"), ("plot", "scaling")),
    *(("plot", "history"), ("plot", "search"), ("plot", "comparison"), ("scale", "phi")),
    *(("weights", "inspect"), ("weights", "convert"), ("predict",), ("evaluate",), ("export",)),
    *(("benchmark",), ("plot",), ("scale",), ("weights",), ("nothing",), ()),
)
_LEFT_OUT = {"--measure"}


def arguments(data: bytes) -> list[str]:
    """Makes a command line of bytes."""
    choices = Choices(data)
    command: Any = cli.group
    given = list(choices.of(COMMANDS))
    for name in given:
        command = getattr(command, "commands", {}).get(name, command)
    for _ in range(choices.number(5)):
        options = [p for p in command.params if not _LEFT_OUT & set(p.opts)]
        parameter = choices.of([None, *options])
        value = choices.of(VALUES)
        if parameter is None or isinstance(parameter, click.Argument):
            given.append(value)
        elif getattr(parameter, "is_flag", False):
            given.append(parameter.opts[0])
        else:
            given += [parameter.opts[0], value]
    return given


def command_line(data: bytes) -> str:
    """The command line, in a folder of its own."""
    given, before = arguments(data), os.getcwd()
    complaint = io.StringIO()
    with tempfile.TemporaryDirectory(dir=folder()) as where:
        os.chdir(where)
        code = 0
        argv, sys.argv = sys.argv, ["keras-efficientnet", *given]
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(complaint):
                cli.main()
        except SystemExit as stop:
            code = stop.code
        finally:
            sys.argv = argv
            os.chdir(before)
            assert not os.path.exists(os.path.join(where, "x")), given
    if not code:
        return RESULT
    assert code in (1, 2), (given, code)
    assert complaint.getvalue().splitlines()[-1].startswith("Error: "), (
        given,
        complaint.getvalue(),
    )
    assert "Traceback" not in complaint.getvalue(), given
    return SENTENCE


ODD = (
    0,
    1,
    -1,
    2,
    3,
    0.5,
    math.nan,
    math.inf,
    -math.inf,
    1e-300,
    1e300,
    10**30,
    "x",
    "swish",
    None,
)


def specification(data: bytes) -> str:
    """A network's spec with odd values, of which the cost is computed."""
    choices = Choices(data)
    variant = choices.of(spec.VARIANTS.values())
    for _ in range(1 + choices.number(4)):
        if choices.number(2):
            name = choices.of(typing.get_type_hints(spec.StageSpec))
            index = choices.number(max(1, len(variant.stages)))
            stages = list(variant.stages)
            stages[index] = dataclasses.replace(stages[index], **{name: choices.of(ODD)})
            variant = dataclasses.replace(variant, stages=tuple(stages))
        else:
            name = choices.of(sorted({*typing.get_type_hints(spec.VariantSpec)} - {"stages"}))
            variant = dataclasses.replace(variant, **{name: choices.of(ODD)})
    size = choices.of((None, *ODD[:6], 10**30))

    def call():
        total = cost.network_cost(variant, image_size=size)
        assert total.parameters > 0
        assert total.multiply_adds > 0
        assert scaling.expand_blocks(variant)

    return outcome(call)


TARGETS: dict[str, Callable[[bytes], str]] = {
    "image": image,
    "csv": csv,
    "class_folders": class_folders,
    "weight_file": weight_file,
    "description": description,
    "keras_config": keras_config,
    "command_line": command_line,
    "specification": specification,
}
