"""The executor on Ray: Ray Data's ``map_batches``, a call a batch, and no shuffle.

Ray runs a batch again where its worker died, and makes results again that were lost with a machine; tasks here give the same
result whenever and wherever they run, so that none of this shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from hasp.cluster.executor import Call
from hasp.errors import HaspError
from hasp.sources.columns import Array

__all__ = ["OnRay"]

RETRIES = 5
"""Times that a call is made again when the process that made it died. Ray Data itself goes on without end (and deprecates
``max_retries``): a task that needs more memory than its machine has would be killed for ever."""

AT_ONCE = 64
"""Calls per worker of one ``map_batches``; what they are given lies in Ray's memory until it ends."""

NUMBER, RESULT, BYTES = "number", "result", "bytes"


class OnRay:
    """Runs tasks on the cluster that Ray is connected to.

    Args:
        ray: the module, connected (:func:`hasp.cluster.ray_session.ray_session`).
        cpus: cores that a task takes.
    """

    def __init__(self, ray: Any, cpus: float = 1) -> None:
        self._ray, self._cpus = ray, cpus
        have = ray.cluster_resources().get("CPU", 0.0)
        if have < cpus:
            raise HaspError(f"a task takes {cpus:g} CPUs, and the Ray cluster has {have:g}; add machines to it")
        self.workers = max(1, int(have / cpus))

    def put(self, value: Any) -> Any:
        """See :class:`hasp.cluster.executor.Executor`."""
        return self._ray.put(value)

    def map(self, calls: Iterable[Call]) -> Iterator[Any]:
        """See :class:`hasp.cluster.executor.Executor`.

        Raises:
            HaspError: what a task raised as such, or that its process died more than :data:`RETRIES` times.
        """
        left = iter(calls)
        while some := list(itertools.islice(left, AT_ONCE * self.workers)):
            yield from self._some(some)

    def _some(self, calls: Sequence[Call]) -> Iterator[Any]:
        """One ``map_batches``: a row per call, each a block and a batch of its own."""
        given = [self._ray.put(call) for call in calls]
        data = self._ray.data.from_items([{NUMBER: i} for i in range(len(given))], override_num_blocks=len(given))
        settings = data.context  # of this data set alone
        settings.execution_options.preserve_order = True  # else results come in the order in which they are made
        settings.enable_progress_bars = False
        made = data.map_batches(partial(_answer, given, RETRIES), batch_size=1, batch_format="numpy", num_cpus=self._cpus)
        expected = 0
        for row in made.iter_batches(batch_size=1, batch_format="numpy"):
            if int(row[NUMBER][0]) != expected:
                raise HaspError(f"Ray gave result {int(row[NUMBER][0])} in the place of {expected}; run it again")
            expected += 1
            yield row[RESULT][0].value(row[BYTES][0])
        if expected != len(given):
            raise HaspError(f"Ray gave {expected} results of {len(given)}; run it again")


class _Result(NamedTuple):
    """What a call gave, beside bytes.

    Attributes:
        other: what it gave, unless that was an array.
        error: what it raised.
        dtype: of the array.
        shape: of the array.
    """

    other: Any = None
    error: HaspError | None = None
    dtype: str = ""
    shape: tuple[int, ...] = ()

    def with_bytes(self, found: Array) -> Any:
        """The value."""
        if self.error is not None:
            raise self.error
        return found.view(self.dtype).reshape(self.shape) if self.dtype else self.other


class _Opaque:
    """Keeps Ray from looking into a result: arrays, tuples and mappings it would convert."""

    def __init__(self, result: _Result) -> None:
        self.value = result.with_bytes


def _attempt() -> int:
    """How often the task that runs here was begun before; 0 in versions of Ray that keep it elsewhere."""
    from ray._private import worker

    core = getattr(worker.global_worker, "core_worker", None)
    asked = getattr(core, "get_current_task_attempt_number", None)
    return int(asked()) if asked is not None else 0


def _answer(given: Sequence[Any], retries: int, batch: dict[str, Any]) -> dict[str, Any]:
    """What ``map_batches`` runs: one call, by its number. What it refuses is a result; Ray would hand on no more than its text.

    Arrays go as bytes of their own, which are not pickled.
    """
    import ray

    array = np.zeros(1, np.uint8)
    try:
        if _attempt() > retries:
            raise HaspError(
                f"a task runs on the Ray cluster, but its process or its machine died {retries + 1} times; give its machines "
                "more memory, or see Ray's logs, then run it again: a build resumes where it stopped"
            )
        task, *arguments = ray.get(given[int(batch[NUMBER][0])])
        found = task(*(ray.get(a) if isinstance(a, ray.ObjectRef) else a for a in arguments))
        result = _Result(found)
        if isinstance(found, np.ndarray) and found.size and found.dtype.kind in "biufM":
            result = _Result(None, None, found.dtype.str, found.shape)
            array = np.ascontiguousarray(found).reshape(-1).view(np.uint8)
    except HaspError as error:
        result = _Result(None, error)
    box = np.empty(1, dtype=object)
    box[0] = _Opaque(result)
    return {NUMBER: batch[NUMBER], RESULT: box, BYTES: array[None]}
