"""Partitioners, one algorithm a file, behind one signature (:class:`hasp.backends.task.Task` -> labels)."""

from __future__ import annotations

from hasp.backends.auto import choose
from hasp.backends.child import metis_child
from hasp.backends.kaminpar import kaminpar
from hasp.backends.metis import metis
from hasp.backends.metis32 import metis32
from hasp.backends.multilevel import multilevel
from hasp.backends.random import hashed, random
from hasp.backends.stream import stream
from hasp.backends.task import Backend, Task

__all__ = ["BACKENDS", "Backend", "Task", "choose"]

BACKENDS: dict[str, Backend] = {
    "metis": metis,
    "metis_child": metis_child,
    "metis32": metis32,
    "kaminpar": kaminpar,
    "multilevel": multilevel,
    "stream": stream,
    "random": random,
    "hash": hashed,
}
"""Name -> partitioner. ``hasp.config.BACKENDS`` has the same names without importing any, and ``auto`` and ``given``."""
