"""Work in Python interpreters of its own: a program, one function call, or a worker.

A fresh interpreter shows that a file loads without what is in this process's memory, runs another
Keras backend, and has load times and memory that are its own.
"""

import contextlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_efficientnet.errors import InputError, RunError, reason


def run_program(arguments: Sequence[str | os.PathLike], **environment: str) -> None:
    """Runs a Python program to its end.

    Args:
        arguments: of the interpreter, such as `["-m", "module"]`.
        environment: variables to set for it.

    Raises:
        RunError: if it ends with another exit code than 0; the message quotes the last line of
            its standard error, and a note has all of it.
    """
    child = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=_environment(environment),
    )
    if child.returncode:
        last = child.stderr.strip().rpartition("\n")[2] or f"exit code {child.returncode}"
        error = RunError(f"A fresh interpreter failed: {last.rstrip('.')}.")
        error.add_note(child.stderr)
        raise error


def call(function: Callable, *arguments: Any, **environment: str) -> Any:
    """Calls a module's function in a fresh interpreter.

    Args:
        function: that an import finds by its name.
        arguments: that can be pickled, as the result can.
        environment: variables to set for the interpreter.

    Returns:
        What the function returns.

    Raises:
        InputError: if the function raises one.
        RunError: if it fails in any other way.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder, "request"), Path(folder, "answer")
        request.write_bytes(pickle.dumps((function, arguments)))
        run_program(["-m", __name__, request, answer], **environment)
        result = pickle.loads(answer.read_bytes())
    if isinstance(result, InputError):
        raise result
    return result


def _answer_call(request: Path, answer: Path) -> None:
    """The other side of `call`."""
    function, arguments = pickle.loads(request.read_bytes())
    try:
        result = function(*arguments)
    except InputError as error:
        result = error
    answer.write_bytes(pickle.dumps(result))


@contextlib.contextmanager
def start_worker(command: Sequence[str]) -> Iterator["Worker"]:
    """Starts a program that ends in `handle_requests`, and stops it at the end of the block.

    Raises:
        InputError: if the program cannot load what it works on.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_environment({}),
    )
    with process:
        try:
            yield Worker(process)
        finally:
            process.kill()


class Worker:
    """A process that has loaded what it works on and waits for requests.

    Attributes:
        loaded: what it has said of loading.
    """

    def __init__(self, process: subprocess.Popen):
        self._process = process
        self.loaded = self._response()

    def request(self, name: str) -> Any:
        """Returns the process's response to a request.

        Raises:
            InputError: if the process has ended.
        """
        assert self._process.stdin
        print(name, file=self._process.stdin, flush=True)
        return self._response()

    def _response(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise InputError(f"A model ended its process with code {self._process.wait()}.")
        response = json.loads(line)
        if "error" in response:
            raise InputError(response["error"])
        return response["value"]


def handle_requests(load: Callable[[], tuple[Any, Mapping[str, Callable[[], Any]]]]) -> None:
    """The worker's side: loads, and responds to requests until the input ends.

    Args:
        load: returns what to say of loading, and by the name of each request what responds to it.
            All responses have to fit into JSON.
    """
    # Libraries print to standard output too; the responses need it to themselves.
    responses = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def respond(**fields):
        print(json.dumps(fields), file=responses, flush=True)

    try:
        loaded, handlers = load()
    except Exception as error:  # whatever it is, the process that asked raises it
        respond(error=str(error) if isinstance(error, InputError) else f"{reason(error)}.")
        return
    respond(value=loaded)
    for line in sys.stdin:
        respond(value=handlers[line.strip()]())


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **more}


if __name__ == "__main__":
    _answer_call(*map(Path, sys.argv[1:]))
