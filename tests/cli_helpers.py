"""The command line in this process, as a pytest plug-in."""

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
