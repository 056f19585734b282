import io
import sys

import pytest

from keras_efficientnet import bars


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("leave", [True, False])
def test_a_log_gets_a_line_every_so_often(monkeypatch, leave):
    monkeypatch.setattr(bars, "LOG_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for _ in bars.Bar(range(5), "Working", leave=leave):
        pass
    text = sys.stderr.getvalue()
    assert "\r" not in text
    lines = text.splitlines()
    assert len(lines) >= 5
    assert all(line.startswith("Working: ") for line in lines)
    assert lines[-1].startswith("Working: 100%")


def test_what_is_done_soon_writes_no_line_unless_it_stays(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for _ in bars.Bar(range(5), leave=False):
        pass
    assert not sys.stderr.getvalue()
    for _ in bars.Bar(range(5)):
        pass
    assert len(sys.stderr.getvalue().splitlines()) == 2  # the beginning and the end


def test_a_terminal_gets_a_bar_that_moves(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in bars.Bar(range(5), mininterval=0, miniters=1):
        pass
    assert sys.stderr.getvalue().count("\r") >= 5
