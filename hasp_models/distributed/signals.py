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
        self._keep: Callable[[Exception], None] | None = keep
        self._mine: Any = None
        self._behind: Any = None
        self._here = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()

    def watch(self) -> None:
        """Step before the handler that is set now, if any; called often, for torch sets its own with the first worker."""
        if not self._here:
            return
        now = signal.getsignal(signal.SIGCHLD)
        if not callable(now) or now is self._mine:
            return

        def handle(number: int, frame: FrameType | None) -> None:
            try:
                now(number, frame)
            except Exception as error:
                if self._keep is None:
                    raise
                self._keep(error)

        # A function of its own each time: what was set meanwhile may call the one before, which must not call it back.
        self._mine, self._behind = handle, now
        signal.signal(signal.SIGCHLD, handle)

    def leave(self) -> None:
        """Put the handler back, or at least keep nothing from now on."""
        if self._here and self._mine is not None and signal.getsignal(signal.SIGCHLD) is self._mine:
            signal.signal(signal.SIGCHLD, self._behind)
        self._keep = None
