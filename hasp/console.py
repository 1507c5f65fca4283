"""What the commands share: where text goes, a progress bar that appears late, errors as one line and an exit code."""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hasp.errors import HaspError

__all__ = ["DEBUG", "Bar", "command", "say", "show", "show_json"]

DEBUG = {"on": False}
"""Set by ``--debug``: errors come with their traceback."""

_DELAY = 2.0  # seconds before a bar appears: what is quicker needs none

F = TypeVar("F", bound=Callable[..., Any])


def show(text: str) -> None:
    """A result, on standard output. A reader that has seen enough (``| head``) does not end the work."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show_json(value: Any) -> None:
    """A result for a machine, on standard output."""
    show(json.dumps(value, indent=1))


def say(text: str) -> None:
    """A remark, on standard error."""
    sys.stderr.write(text + "\n")


def command(function: F) -> F:
    """Turn what a command raises into one line on standard error and an exit code (see ``hasp --help``)."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.showwarning = _warn
                return function(*args, **kwargs)
        except KeyboardInterrupt:
            say("interrupted; run again to resume")
            raise typer.Exit(130) from None
        except (typer.Exit, typer.Abort):
            raise
        except (HaspError, OSError) as error:
            _trace()
            text = " ".join(str(error).split())
            say(f"error{_rank()}: {text.replace('overwrite=True', '--overwrite')}")  # as a shell spells it
            raise typer.Exit(2) from None
        except Exception as error:
            _trace()
            say(f"unexpected {type(error).__name__}: {error}; please report it with what --debug prints")
            raise typer.Exit(1) from None

    return run  # type: ignore[return-value]


def _warn(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
    if category.__module__.startswith("hasp"):  # what other libraries deprecate is not the user's concern here
        say(f"warning: {message}")


def _rank() -> str:
    """Which process of several this is: under torchrun all speak, and mostly say the same; one may lack a file."""
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return f" (rank {rank} of {size})" if rank and size not in ("", "1") else ""


def _trace() -> None:
    if DEBUG["on"]:
        traceback.print_exc(file=sys.stderr)


class Bar:
    """A progress bar on standard error, as a context manager; nothing when that is no terminal or for ``--json``.

    Called with (stage, done, total), from any thread.
    """

    def __init__(self, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._shown = console.is_terminal and not quiet
        columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._tasks: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._timer = threading.Timer(_DELAY, self._progress.start)
        self._timer.daemon = True

    def __enter__(self) -> Bar:
        if self._shown:
            self._timer.start()
        return self

    def __call__(self, stage: str, done: int, total: int) -> None:
        """A stage is so far."""
        if not self._shown:
            return
        with self._lock:
            if stage not in self._tasks:
                self._tasks[stage] = self._progress.add_task(stage, total=max(total, 1))
            self._progress.update(self._tasks[stage], completed=done)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._shown:
            self._timer.cancel()
            self._timer.join()
            self._progress.stop()
