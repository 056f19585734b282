"""Programs, calls and workers in interpreters of their own."""

import math
import os
import sys

import numpy as np
import pytest

from keras_efficientnet import InputError, RunError, errors
from keras_efficientnet.deploy.fresh_interpreter import call, run_program, start_worker


def test_a_program_that_fails_is_quoted(tmp_path):
    run_program(["-c", "import sys; open(sys.argv[1], 'w').write('done')", tmp_path / "out"])
    assert (tmp_path / "out").read_text() == "done"
    with pytest.raises(RunError, match=r"^A fresh interpreter failed: ValueError: no such cat\.\n"):
        run_program(["-c", "raise ValueError('no such cat')"])
    with pytest.raises(RunError, match="exit code 3"):
        run_program(["-c", "import sys; sys.exit(3)"])


def test_a_function_is_called_elsewhere():
    values = call(np.add, np.arange(3), np.ones(3))
    np.testing.assert_array_equal(values, [1, 2, 3])
    assert call(os.getpid) != os.getpid()
    assert call(os.getenv, "FOR_THIS_CALL", FOR_THIS_CALL="yes") == "yes"


def test_input_that_cannot_be_used_is_refused_as_here():
    with pytest.raises(InputError, match="size=0 must be at least 1"):
        call(errors.require, False, "size", 0, "at least 1")
    with pytest.raises(RunError, match="ValueError"):
        call(math.sqrt, -1)


WORKER = """
import sys
from keras_efficientnet import InputError
from keras_efficientnet.deploy.fresh_interpreter import handle_requests
def load():
    print("a library's note on standard output")
    if sys.argv[1] == "bad":
        raise InputError("There is no such model.")
    if sys.argv[1] == "odd":
        raise TypeError("a surprise\\nof two lines")
    return "ready", {"twice": lambda: [1, 1], "end": sys.exit}
handle_requests(load)
"""


def test_a_worker_responds_to_requests():
    with start_worker([sys.executable, "-c", WORKER, "good"]) as worker:
        assert worker.loaded == "ready"
        assert worker.request("twice") == worker.request("twice") == [1, 1]
        with pytest.raises(InputError, match="ended its process with code 0"):
            worker.request("end")
    for kind, message in (("bad", r"^There is no such model\.$"), ("odd", r"^a surprise\.$")):
        with (
            pytest.raises(InputError, match=message),
            start_worker([sys.executable, "-c", WORKER, kind]),
        ):
            pass
