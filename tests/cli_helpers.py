"""The command line in this process, as a pytest plug-in."""

import json
import sys

import pytest

from keras_efficientnet.cli import main


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command line here; returns its exit code, standard output and error."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["keras-efficientnet", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def answer(command):
    """Runs a command that succeeds; returns what it prints as JSON."""

    def answer(*arguments):
        code, output, error = command(*arguments)
        assert code == 0, error
        return json.loads(output)

    return answer


@pytest.fixture
def complaint(command):
    """Runs a command on bad input; returns the one line that it says of it."""

    def complaint(*arguments, returncode=2):
        code, output, error = command(*arguments)
        assert (code, output) == (returncode, ""), error
        assert "Traceback" not in error
        # Progress bars end in a carriage return.
        (line,) = [line for line in error.splitlines() if line.startswith("Error: ")]
        return line

    return complaint
