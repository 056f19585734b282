"""Ctrl-C and SIGTERM while a run trains: it finishes its step, writes a checkpoint and ends."""

import signal
import sys
import threading
from types import TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Takes notice of the signals that ask a run to stop, inside a `with` block.

    The first one is only remembered; a second Ctrl-C interrupts at once, as without this. Signals
    that the process ignores stay ignored, and in other threads than the main one Python has none.

    Args:
        enabled: whether to take notice at all.

    Attributes:
        signal: number of the one that came; None before.
    """

    def __init__(self, enabled: bool = True):
        self.enabled = enabled and threading.current_thread() is threading.main_thread()
        self.signal: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS if self.enabled else ():
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: Any) -> None:
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(
            "\nFinishing this step and writing a checkpoint; Ctrl-C again stops at once.",
            file=sys.stderr,
        )
