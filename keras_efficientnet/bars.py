"""The progress bar of all that takes long: it moves in a terminal, and writes lines into a log."""

import sys
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 10


class Bar(tqdm):
    """tqdm's bar; where standard error is no terminal, a line every `LOG_SECONDS` in its place.

    What is done sooner, and would not stay in a terminal either (`leave=False`), writes no line.

    Args:
        *arguments: as tqdm takes them.
        **options: likewise.
    """

    def __init__(self, *arguments: Any, **options: Any):
        if not sys.stderr.isatty():
            soon = 0 if options.get("leave", True) else LOG_SECONDS
            options |= {"mininterval": LOG_SECONDS, "miniters": 1, "delay": soon}
            options |= {"file": _Lines(sys.stderr), "dynamic_ncols": False}
        super().__init__(*arguments, **options)


class _Lines:
    """Writes what a bar draws as lines, without what moves a terminal's cursor."""

    def __init__(self, stream: Any):
        self.stream, self.encoding = stream, stream.encoding

    def write(self, text: str) -> None:
        if line := text.replace("\x1b[A", "").strip():
            self.stream.write(line + "\n")

    def flush(self) -> None:
        self.stream.flush()
