"""Errors that a signal brings: kept until the ranks meet, for raised in a collective they would leave the others waiting.

torch's ``DataLoader`` tells of a worker process that died by a handler of SIGCHLD that raises, in whatever line the main
thread then is. In the step's own code that is well. Inside an all-reduce, or between two, it takes this rank out of a
collective that the others are in, and they learn of a lost rank and not of the worker.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["KeptSignals"]


class KeptSignals:
    """Stands before the handler of SIGCHLD and keeps the error that it raises.

    Args:
        keep: called in the main thread with each error.
    """

    def __init__(self, keep: Callable[[Exception], None]) -> None:
        self._keep = keep
        self._behind: Any = None
        self._here = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()

    def watch(self) -> None:
        """Step before the handler that is set now, if any; called often, for torch sets its own with the first worker."""
        if not self._here:
            return
        now = signal.getsignal(signal.SIGCHLD)
        if callable(now) and now != self._handle:
            self._behind = now
            signal.signal(signal.SIGCHLD, self._handle)

    def leave(self) -> None:
        """Put the handler back."""
        if self._here and self._behind is not None and signal.getsignal(signal.SIGCHLD) == self._handle:
            signal.signal(signal.SIGCHLD, self._behind)
        self._behind = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        try:
            self._behind(number, frame)
        except Exception as error:
            self._keep(error)
