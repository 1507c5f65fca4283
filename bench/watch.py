"""Watch a process from outside: its memory and its bytes, stage by stage.

Its own threads could not: one that samples is starved by the others. Here another process reads ``/proc``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Watched", "watch"]

_SECONDS = 0.02
_PREFIX = "hasp-bench-result "
HERE = Path(__file__).parent


@dataclass
class Watched:
    """One stage of a process.

    Attributes:
        stage: its name.
        seconds: wall-clock time.
        cpu: seconds of all its threads, and of processes that it started and waited for.
        anonymous: the most bytes of its own memory that were resident.
        resident: the most bytes that were resident, pages of mapped files included.
        read: bytes that came from the disk.
        written: bytes that were handed to the disk (those of mapped files when they go there, which may be later).
        result: of the function, with the last stage.
    """

    stage: str
    seconds: float = 0.0
    cpu: float = 0.0
    anonymous: int = 0
    resident: int = 0
    read: int = 0
    written: int = 0
    result: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As a row of a table, in megabytes."""
        return {
            "stage": self.stage,
            "seconds": self.seconds,
            "CPU seconds": self.cpu,
            "own memory [MB]": self.anonymous / 1e6,
            "resident [MB]": self.resident / 1e6,
            "read [MB]": self.read / 1e6,
            "written [MB]": self.written / 1e6,
        }


def watch(stage: str, function: str, **kwargs: Any) -> list[Watched]:
    """Call ``module:function(**kwargs)`` in a fresh process; a line ``stage NAME`` of its output begins the next stage.

    Args:
        stage: the name of what comes before the first such line.
        function: returns a dict, which goes to the last stage.
        **kwargs: JSON.

    Raises:
        RuntimeError: it failed; with what it wrote to its error stream.
    """
    command = [sys.executable, "-m", "bench.measure", function, json.dumps(kwargs)]
    out = [Watched(stage)]
    result: dict[str, Any] = {}
    with subprocess.Popen(
        command, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
        reader.start()
        sampler = _Sampler(process.pid, out)
        sampler.start()
        for line in process.stdout:
            if line.startswith("stage ") and line[6:].strip() != out[-1].stage:
                sampler.next(line[6:].strip())
            elif line.startswith(_PREFIX):
                result = json.loads(line.removeprefix(_PREFIX))
                sampler.stop()
        sampler.stop()
        reader.join()
    if process.returncode:
        raise RuntimeError(f"{function} left with {process.returncode}: {''.join(errors)[-2000:]}")
    out[-1].result = result
    return out


class _Sampler(threading.Thread):
    """Adds to the last stage what a process holds and moves, until stopped."""

    def __init__(self, pid: int, out: list[Watched]) -> None:
        super().__init__(daemon=True)
        self._folder, self._out = Path(f"/proc/{pid}"), out
        self._mutex, self._done = threading.Lock(), threading.Event()
        self._start, self._io, self._cpu = time.perf_counter(), (0, 0), 0.0

    def run(self) -> None:
        while not self._done.wait(_SECONDS):
            self._look()

    def next(self, stage: str) -> None:
        """Begin a stage."""
        self._close()
        with self._mutex:
            self._out.append(Watched(stage))

    def stop(self) -> None:
        """End the last stage; a second call does nothing."""
        if not self._done.is_set():
            self._close()
            self._done.set()

    def _close(self) -> None:
        self._look()
        with self._mutex:
            now, last = time.perf_counter(), self._out[-1]
            last.seconds, self._start = now - self._start, now
            read, written = self._io_now()
            last.read, last.written = read - self._io[0], written - self._io[1]
            self._io = (read, written)
            cpu = self._cpu_now()
            last.cpu, self._cpu = cpu - self._cpu, cpu

    def _look(self) -> None:
        fields = _fields(self._folder / "status")
        with self._mutex:
            last = self._out[-1]
            last.anonymous = max(last.anonymous, 1024 * fields.get("RssAnon", 0))
            last.resident = max(last.resident, 1024 * fields.get("VmRSS", 0))

    def _cpu_now(self) -> float:
        try:
            fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return self._cpu  # it has ended
        # proc(5): utime, stime, cutime, cstime are fields 14 to 17; those before the name's ")" are two
        return max(self._cpu, sum(int(f) for f in fields[11:15]) / os.sysconf("SC_CLK_TCK"))

    def _io_now(self) -> tuple[int, int]:
        fields = _fields(self._folder / "io")
        return max(self._io[0], fields.get("read_bytes", 0)), max(self._io[1], fields.get("write_bytes", 0))


def _fields(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}  # it has ended
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name: int(value.split()[0]) for name, value in pairs if value.split()[:1] and value.split()[0].isdecimal()}
