"""Partitioners, one algorithm a file, behind one signature (:class:`hasp.backends.task.Task` -> labels)."""

from __future__ import annotations

from hasp.backends.metis import metis
from hasp.backends.multilevel import multilevel
from hasp.backends.random import hashed, random
from hasp.backends.stream import stream
from hasp.backends.task import Backend, Task

__all__ = ["BACKENDS", "Backend", "Task"]

BACKENDS: dict[str, Backend] = {
    "metis": metis,
    "multilevel": multilevel,
    "stream": stream,
    "random": random,
    "hash": hashed,
}
"""Name -> partitioner."""
