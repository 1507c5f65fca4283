"""How things are measured.

* Runs are interleaved (A B A B ...), because a shared machine drifts by tens of per cent within minutes; ratios are taken
  within a round and their median over the rounds is given. No absolute second decides anything.
* Compilation is over before the clock starts (:func:`warm_up`).
* Peak memory is the kernel's high-water mark of a fresh process per contender, above what was resident when the
  contender started. A sampling thread is starved by the GIL, and a process that ran something else before has pages to spare.
* The memory has been touched once (:func:`touch_memory`): on a virtual machine the first touch of a page can cost sixteen
  times a later one, which whoever runs first would pay.
* The floor is the time in which the machine copies the bytes that must be read and written.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hasp import memory
from hasp.sizes import available_memory

__all__ = [
    "CLOCK",
    "Peak",
    "call_in_child",
    "clock",
    "copy_bandwidth",
    "disk_bandwidth",
    "interleave",
    "median",
    "ratio",
    "seconds",
    "touch_memory",
    "warm_up",
]

_PREFIX = "hasp-bench-result "

CLOCK = os.environ.get("HASP_BENCH_CLOCK", "wall")
"""``wall``, or ``cpu`` for a machine that others use: then all times are CPU seconds, summed over threads."""

clock: Callable[[], float] = time.process_time if CLOCK == "cpu" else time.perf_counter


def seconds(task: Callable[[], Any]) -> float:
    """Run once; seconds of :data:`clock`. What it returns is dropped within the measured time, as a caller would drop it."""
    gc.collect()
    start = clock()
    task()
    return clock() - start


def interleave(contenders: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run every contender once per round, ``repeats`` rounds. A contender returns its own seconds.

    Every other round runs backwards, so that no contender always follows the same one.
    """
    out: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(repeats):
        for name in list(contenders)[:: 1 if i % 2 == 0 else -1]:
            gc.collect()
            out[name].append(contenders[name]())
    return out


def median(values: list[float]) -> float:
    """The median."""
    return float(statistics.median(values))


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times faster ``fast`` is: the median of the rounds' ratios."""
    return median([a / b for a, b in zip(slow, fast, strict=True)])


def copy_bandwidth(megabytes: int = 256) -> float:
    """Bytes read and written per second by one thread that copies memory: the best of all copies of this process so far.

    The best, because a floor is what the machine can do when nobody else uses it. Call it between rounds, too.
    """
    source = np.ones(megabytes << 17)  # 8 bytes each
    target = np.empty_like(source)
    target[:] = 0  # the pages must exist
    _bandwidth.append(2 * source.nbytes / min(seconds(lambda: np.copyto(target, source)) for _ in range(3)))
    return max(_bandwidth)


_bandwidth: list[float] = []


def disk_bandwidth(folder: Path, megabytes: int = 256) -> tuple[float, float]:
    """Bytes per second of plain reads (of a cached file) and of plain writes that wait for the disk: the best of three."""
    block = memoryview(bytearray(os.urandom(1 << 20)))
    took: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        path = Path(inside) / "block"
        for _ in range(3):
            start = time.perf_counter()
            with path.open("wb", buffering=0) as file:
                for _ in range(megabytes):
                    file.write(block)
                os.fsync(file.fileno())
            middle = time.perf_counter()
            with path.open("rb", buffering=0) as file:
                while file.readinto(block):
                    pass
            took[1].append(middle - start)
            took[0].append(time.perf_counter() - middle)
    read, written = ((megabytes << 20) / min(t) for t in took)
    return read, written


def warm_up() -> None:
    """Compile every kernel of a build (or load it from numba's cache) on a tiny graph of the benchmarks' dtypes."""
    from bench.graphs import ENTITIES, Planted, hetero
    from hasp.build import build
    from hasp.config import BuildConfig
    from hasp.schema import Schema

    graph = hetero(Planted(400, 2000, 1), semantic_edges=800)
    roles = Schema(entity=ENTITIES).resolve(graph.num_nodes, graph.edges)
    store = build(graph, roles, BuildConfig(num_parts=4))
    assert store.manifest.num_nodes == graph.num_nodes


def touch_memory(most: int = 8 << 30) -> int:
    """Write to every page of up to ``most`` bytes, at most half of what is free, in a process that ends; how many bytes.

    A host gives a virtual machine a page when it is first written to: 8 us for 4 KiB were measured, against 0.5 us for one that
    the machine had before. The pages stay the machine's when the process is gone.
    """
    size = min(most, (available_memory() or 0) // 2)
    code = "import sys, numpy; numpy.empty(int(sys.argv[1]), numpy.uint8)[::4096] = 1"
    subprocess.run([sys.executable, "-c", code, str(size)], check=True)
    return size


class Peak:
    """``with Peak() as peak: ...``: then ``peak.bytes``, the most memory held above what was held at the start.

    Of a process that was started and has ended meanwhile (METIS gets one of its own), all of its memory counts, in the place of
    what was held here, where it is more than this one ever had: the system says no less of a child.
    """

    def __enter__(self) -> Peak:
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # freed pages would hide the first allocations of the contender
        self._works = memory.reset_peak()
        self._before = memory.resident_bytes()
        self._child = _largest_child()
        self.bytes: int | None = None
        return self

    def __exit__(self, *error: object) -> None:
        if self._works:
            own, child = memory.peak_bytes(), _largest_child()
            self.bytes = max(0, own - self._before, child if child > max(own, self._child) else 0)


def _largest_child() -> int:
    """Most bytes that a process which this one started, and which has ended, ever held."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def call_in_child(function: str, timeout: float = 3600, **kwargs: Any) -> dict[str, Any]:
    """Call ``module:function(**kwargs)`` in a fresh process.

    Returns:
        The dict it returns; ``{"error": "..."}`` with the last line of its error stream if it fails or dies.
    """
    command = [sys.executable, "-m", "bench.measure", function, json.dumps(kwargs)]
    here = Path(__file__).parent.parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {timeout:,.0f} s"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(_PREFIX):
            return dict(json.loads(line.removeprefix(_PREFIX)))
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return {"error": lines[-1] if lines else f"died with exit code {done.returncode}"}


def _child(function: str, kwargs: str) -> None:
    import importlib
    import warnings

    warnings.simplefilter("ignore")
    module, _, name = function.partition(":")
    result = getattr(importlib.import_module(module), name)(**json.loads(kwargs))
    print(_PREFIX + json.dumps(result), flush=True)


if __name__ == "__main__":
    _child(*sys.argv[1:])
