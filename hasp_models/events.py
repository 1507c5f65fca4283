"""Events of a run: one line of JSON each, appended, so that a run that is killed leaves all that it said up to then.

A line is ``{"time": ..., "level": ..., "event": ..., **fields}``. One process writes to one file: rank 0 to ``log.jsonl``,
another rank, if it has something to say, to ``log.rank-<rank>.jsonl`` (appending from two machines to one file is safe on no
network file system). Lines are written in one piece and synced. A crash may leave the last one torn: readers leave it out, and
who goes on writes on a new line.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hasp.errors import HaspError
from hasp.store.disk import Disk, failing

__all__ = ["LOG", "Event", "EventLog", "EventReader", "Level", "Process", "read_events", "told"]

LOG = "log.jsonl"
_OTHER = re.compile(r"log\.rank-[0-9]+\.jsonl")
_RESERVED = ("time", "level", "event")
_LIMIT = 1 << 30

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class Event:
    """One line of a log.

    Attributes:
        time: seconds since 1970.
        level: how much it matters.
        event: what happened, one word.
        fields: what else is said; plain values.
    """

    time: float
    level: str
    event: str
    fields: Mapping[str, Any]

    def to_line(self) -> bytes:
        """The line, with its end. Numbers that are not finite become ``null``: no two readers of JSON agree on them."""
        when = datetime.datetime.fromtimestamp(self.time, datetime.timezone.utc).isoformat(timespec="milliseconds")
        value = {"time": when, "level": self.level, "event": self.event, **_finite(dict(self.fields))}
        return (json.dumps(value, allow_nan=False, default=str) + "\n").encode()

    @classmethod
    def from_line(cls, line: bytes) -> Event | None:
        """Read a line; ``None`` for one that is torn, or no event."""
        try:
            value = json.loads(line)
            when = datetime.datetime.fromisoformat(value.pop("time")).timestamp()
            return cls(when, str(value.pop("level")), str(value.pop("event")), value)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(frozen=True)
class Process:
    """One process of a run, so that somebody else can see whether it lives.

    Attributes:
        host: the machine's name.
        pid: its number there.
        born: when it began, in the kernel's ticks since boot; 0 where the kernel does not say. Numbers of processes come
            again, a number and a beginning do not.
    """

    host: str
    pid: int
    born: int

    @classmethod
    def mine(cls) -> Process:
        """This one."""
        return cls(socket.gethostname(), os.getpid(), _born(os.getpid()) or 0)

    def alive(self) -> bool | None:
        """Whether it still runs; ``None`` if it is on another machine, which cannot be asked."""
        if self.host != socket.gethostname():
            return None
        born = _born(self.pid)
        if born is not None:
            return born != 0 and self.born in (0, born)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class EventLog:
    """Appends the events of one process.

    Args:
        folder: of the run; made with the first event.
        rank: of this process.
        disk: what does the I/O.
        clock: seconds since 1970.
    """

    def __init__(
        self, folder: str | Path, rank: int = 0, disk: Disk | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = Path(folder) / (LOG if rank == 0 else f"log.rank-{rank}.jsonl")
        self._disk, self._clock, self._ready = disk or Disk(), clock, False

    def __call__(self, event: str, level: Level = "info", /, **fields: Any) -> None:
        """Write one event; on return it is durable.

        Args:
            event: what happened, one word.
            level: how much it matters.
            **fields: plain values; not ``time``, ``level`` or ``event``.

        Raises:
            HaspError: a reserved field, or the system refused the write.
        """
        wrong = [k for k in _RESERVED if k in fields]
        if wrong:
            raise HaspError(f"an event's fields are not {', '.join(_RESERVED)}, got {wrong[0]!r}; rename it")
        line = Event(self._clock(), level, event, fields).to_line()
        if not self._ready:
            self.create()
            if (text := self._disk.head(self.path, _LIMIT)) and not text.endswith(b"\n"):
                line = b"\n" + line  # the last line of an earlier process is torn
            self._ready = True
        self._disk.append(self.path, line)

    def create(self) -> Path:
        """Make folder and file, if they are not there; gives the file, which is never replaced from then on."""
        self._disk.make_folder(self.path.parent)
        if self.path.name not in self._disk.list(self.path.parent):
            self._disk.put(self.path, [b""])
        return self.path

    def fail(self, error: BaseException, /, **fields: Any) -> None:
        """Write that something was raised: ``error``, or ``interrupted`` for Ctrl-C.

        A log that cannot be written never hides what was raised.

        Args:
            error: what.
            **fields: where.
        """
        with suppress(HaspError):
            if isinstance(error, Exception):
                self("error", "error", **told(error), **fields)
            else:
                self("interrupted", "warning", **fields)


def told(error: Exception) -> dict[str, str]:
    """An error as fields of an event: its kind, and its text in one line."""
    return {"kind": type(error).__name__, "text": " ".join(str(error).split())[:2000]}


class EventReader:
    """Reads the events of a run's folder, again and again; each time only what has been added since.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files: dict[str, _Tail] = {}

    def read(self) -> tuple[list[Event], int]:
        """All events so far: those of rank 0 as they were written, then those of the other ranks.

        Returns:
            The events (those of other ranks have the field ``rank``), and the number of lines that are none: torn by a crash,
            or of an older version.

        Raises:
            HaspError: the system refused to read.
        """
        found: list[Event] = []
        torn = 0
        names = Disk().list(self.folder)
        for name in [n for n in names if n == LOG] + [n for n in names if _OTHER.fullmatch(n)]:
            more = {} if name == LOG else {"rank": int(name.split("-")[1].split(".")[0])}
            tail = self._files.setdefault(name, _Tail(self.folder / name, more))
            tail.read()
            found += [*tail.events, *tail.last]
            torn += tail.torn + tail.open
        return found, torn


class _Tail:
    """What has been read of one file: whole lines once, a last line without its end again and again."""

    def __init__(self, path: Path, more: Mapping[str, Any]) -> None:
        self.path, self.more = path, more
        self._start()

    def _start(self) -> None:
        self.events: list[Event] = []
        self.last: list[Event] = []
        self.torn = self.open = self.at = 0

    def read(self) -> None:
        with failing("read", self.path), self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self.at:
                self._start()  # another file has its name
            file.seek(self.at)
            data = file.read()
        whole, last = data[: data.rfind(b"\n") + 1], data[data.rfind(b"\n") + 1 :]
        self.at += len(whole)
        found = self._parsed(whole)
        self.events += found[0]
        self.torn += found[1]
        self.last, self.open = self._parsed(last)

    def _parsed(self, data: bytes) -> tuple[list[Event], int]:
        lines = [line for line in data.split(b"\n") if line.strip()]
        events = [event for line in lines if (event := Event.from_line(line)) is not None]
        some = [replace(e, fields={**e.fields, **self.more}) for e in events] if self.more else events
        return some, len(lines) - len(events)


def read_events(folder: str | Path) -> tuple[list[Event], int]:
    """:meth:`EventReader.read`, once."""
    return EventReader(folder).read()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def _born(pid: int) -> int | None:
    """When a process began, in ticks since boot; 0 for one that has ended; ``None`` where there is no ``/proc``."""
    if not Path("/proc/self/stat").is_file():
        return None
    try:
        rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if rest[0] in "ZX" else int(rest[19])  # a zombie has ended, only nobody has asked for its exit code
