"""Files of LiteRT that nobody knows: checked and tried in a child before they are opened here."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils

import keras_efficientnet as ke
from keras_efficientnet import InputError
from keras_efficientnet.deploy import runtime, tflite_check
from keras_efficientnet.deploy.verification import verify

GOLDEN = Path(__file__).parent / "golden" / "model.tflite"


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    """Nothing has been tried before."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))


@pytest.fixture
def children(monkeypatch):
    """The commands of the children that were started."""
    started = []
    run = subprocess.run

    def counted(command, **options):
        started.append(command)
        return run(command, **options)

    monkeypatch.setattr(tflite_check.subprocess, "run", counted)
    return started


def edited(change):
    """The golden file after `change(model, graph)`."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(GOLDEN.read_bytes()))
    change(model, model.subgraphs[0])
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def constant(model, graph):
    return next(t for t in graph.tensors if model.buffers[t.buffer].data is not None)


def outputs_of_the_first(graph, index):
    graph.operators[0].outputs = [index]


DAMAGE = {
    "an operator of it refers": lambda model, graph: outputs_of_the_first(graph, 10**6),
    "an operator of it refers to what": lambda model, graph: setattr(
        graph.operators[0], "opcodeIndex", 99
    ),
    "writes to a tensor that": lambda model, graph: outputs_of_the_first(
        graph, graph.operators[0].inputs[1]
    ),
    "values already": lambda model, graph: outputs_of_the_first(graph, graph.inputs[0]),
    "input or output": lambda model, graph: setattr(graph, "outputs", [-1]),
    "damaged": lambda model, graph: setattr(graph.tensors[0], "buffer", 10**6),
    "wrong shape": lambda model, graph: setattr(constant(model, graph), "shape", [-1, 3]),
    "bytes, not its size": lambda model, graph: setattr(
        constant(model, graph), "shape", [1, 1, 1, 1]
    ),
}


@pytest.mark.parametrize("why", DAMAGE)
def test_what_does_not_fit_the_schema_is_named(why):
    with pytest.raises(ValueError, match=why):
        tflite_check.check_tflite(edited(DAMAGE[why]))


def test_torn_files_are_refused_and_good_ones_are_not(model_files):
    content = GOLDEN.read_bytes()
    for good in (content, *(model_files[name].read_bytes() for name in ("float32", "int8"))):
        tflite_check.check_tflite(good)
    for torn in (content[:2000], content[:8], b"", b"x" * 100, content[:4] + b"TFL3" + bytes(40)):
        with pytest.raises(ValueError, match=r"damaged|no LiteRT file"):
            tflite_check.check_tflite(torn)


def test_an_end_of_the_process_becomes_a_sentence(tmp_path, monkeypatch):
    """No file is known that passes the check and ends LiteRT; a program that does stands in."""
    program = tmp_path / "runtime.py"
    monkeypatch.setattr(runtime, "__file__", str(program))
    path = tmp_path / "model.tflite"
    path.write_bytes(GOLDEN.read_bytes())
    for code, why in (
        ("import os; os.abort()", "LiteRT ends the process that runs it"),
        ("import sys; sys.exit('it is odd.')", "model.tflite': it is odd."),
        ("import time; time.sleep(60)", "it takes more than 1 s for one image"),
    ):
        program.write_text(code)
        monkeypatch.setattr(tflite_check, "SECONDS", 1 if "time" in code else 600)
        with pytest.raises(InputError) as caught:
            ke.Predictor(path)
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)
    assert ke.Predictor(path, trust=True).description.image_size == 32


def test_a_file_is_tried_once_and_one_that_was_verified_never(tmp_path, children):
    path = tmp_path / "model.tflite"
    path.write_bytes(GOLDEN.read_bytes())
    ke.Predictor(path, threads=1)
    ke.Predictor(path, threads=1)
    assert children == [[sys.executable, "-P", runtime.__file__, path]]
    other = edited(lambda model, graph: setattr(model, "description", b"another"))
    path.write_bytes(other)
    images = np.zeros((1, 32, 32, 3), np.float32)
    verify(path, runtime.open_model(path).run(images), images)
    children.clear()
    ke.Predictor(path, threads=1)
    assert not children


def test_without_a_folder_to_remember_in_every_opening_is_a_trial(tmp_path, children, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    for _ in range(2):
        ke.Predictor(GOLDEN, threads=1)
    assert len(children) == 2
    ke.Predictor(GOLDEN, threads=1, trust=True)
    assert len(children) == 2


def test_a_program_that_is_no_interpreter_asks_for_trust(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(InputError, match="pass trust=True"):
        ke.Predictor(GOLDEN)
    ke.Predictor(GOLDEN, trust=True)
