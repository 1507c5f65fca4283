"""Ranks: what the ranks of a training run say to each other, arranged so that none waits for one that has failed.

Collectives hang when one rank leaves them out: an exception on rank 1 before its all-reduce makes rank 0 wait for the
group's time-out, half an hour by default. So whatever may fail runs in a block of :meth:`Ranks.together`, and the ranks
meet at its end, with or without an error, in one small all-reduce that carries what they sum anyway. If any rank brings an
error, all get its text and raise it. A rank that dies outright closes its connections; that ends the next collective of the
others at once, as an error that says so.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from blake3 import blake3
from torch import Tensor

from hasp import errors
from hasp.errors import HaspError
from hasp_models.distributed.group import TIMEOUT, hold
from hasp_models.distributed.signals import KeptSignals

__all__ = ["LostRank", "Ranks"]

_TEXT = 4096  # bytes that a rank may say about its error


class LostRank(HaspError):
    """Another rank died or hangs: to start again from the checkpoint helps, which it does not after any other error."""


class Ranks:
    """The ranks of the default process group, or this process alone where there is none.

    Everything but gradients goes through gloo and the memory of the host: a device that has failed can still be spoken of.

    Attributes:
        rank: of this process; 0 alone.
        size: number of ranks; 1 alone.
        sent: bytes that this rank has handed to collectives.
        beat: seconds between two signs of life in :meth:`on_first`; less than the group's time-out.
    """

    beat: float = 10.0

    def __init__(self) -> None:
        many = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
        self.sent = 0
        self._noted: Exception | None = None
        self._signals: KeptSignals | None = None
        # A new group has torch's own half an hour, whatever the time-out of the default group.
        self._host = dist.new_group(backend="gloo", timeout=TIMEOUT) if many and dist.get_backend() == "nccl" else None

    # -- agreement ---------------------------------------------------------------------------------------------------

    @contextmanager
    def together(self, doing: str, numbers: int = 0) -> Iterator[list[float]]:
        """A block that ends on all ranks or on none: ``with ranks.together("step 3", 2) as total: total[0] += loss``.

        Args:
            doing: what the block does, for the error.
            numbers: how many numbers to sum over the ranks. The block adds to a list of zeros; after it, the list holds sums.

        Raises:
            HaspError: on every rank, with the same text, if a rank failed in the block. Alone, or if all failed alike, the
                error of the block as it is.
        """
        total = [0.0] * numbers
        error: Exception | None = None
        try:
            yield total
            if self._signals is not None:
                self._signals.watch()
        except Exception as found:
            error = found
        total[:] = self.agree(doing, error, total)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """A block whose failure is told at the next meeting, because there is one soon: it costs no collective."""
        try:
            yield
        except Exception as found:
            if self.size == 1:
                raise
            self._note(found)

    @contextmanager
    def noting_signals(self) -> Iterator[None]:
        """A block in which a worker process that dies is told at the next meeting, in whatever line this rank then is.

        A rank alone has nobody to meet: it raises at once, as torch does.
        """
        if self.size == 1:
            yield
            return
        self._signals = KeptSignals(self._note)
        try:
            yield
        finally:
            self._signals.leave()
            self._signals = None

    def _note(self, error: Exception) -> None:
        self._noted = self._noted or error

    def agree(self, doing: str, error: Exception | None = None, numbers: Sequence[float] = ()) -> list[float]:
        """Meet: sum numbers over all ranks (float64), or raise on all of them if any brings an error (see :meth:`together`)."""
        error = self._noted or error
        if self.size == 1:
            if error is not None:
                raise error
            return list(numbers)
        total = torch.tensor([float(error is not None), *numbers], dtype=torch.float64)
        self._do(doing, total, lambda: dist.all_reduce(total, group=self._host))
        if not total[0]:
            return [float(v) for v in total[1:]]
        told = self._tell(doing, error)
        if len(told) == self.size and len({(t["kind"], t["text"]) for t in told.values()}) == 1 and error is not None:
            raise error
        kinds = {t["kind"] for t in told.values()}
        known = getattr(errors, kinds.pop(), HaspError) if len(kinds) == 1 else HaspError
        kind = known if isinstance(known, type) and issubclass(known, HaspError) else HaspError
        text = "; ".join(f"rank {rank}: {t['text']}" for rank, t in list(told.items())[:3])
        more = f" (and {len(told) - 3} ranks more)" if len(told) > 3 else ""
        raise kind(f"{doing} failed on {len(told)} of {self.size} ranks, so all stop: {text}{more}") from error

    def same(self, values: Mapping[str, Any]) -> None:
        """Check that every rank brings what rank 0 brings.

        Args:
            values: what it is, in words -> anything whose ``repr`` tells it from another.

        Raises:
            HaspError: on every rank, naming the first value that differs and the first rank that has it.
        """
        if self.size == 1:
            return
        digests = b"".join(blake3(repr(v).encode()).digest(8) for v in values.values())
        rows = self.gather("comparing settings", torch.frombuffer(bytearray(digests), dtype=torch.uint8))
        for i, what in enumerate(values):
            for rank, row in enumerate(rows):
                if not torch.equal(row[8 * i : 8 * i + 8], rows[0][8 * i : 8 * i + 8]):
                    mine = f"{values[what]!r}"[:200]
                    raise HaspError(
                        f"all ranks train one run, but rank {rank} differs from rank 0 in its {what}; "
                        f"give them the same arguments and the same folders (here, on rank {self.rank}: {mine})"
                    )

    def on_first(self, doing: str, task: Callable[[], Any]) -> float:
        """Run a task on rank 0 alone while the others wait, for longer than the group's time-out if need be.

        Args:
            doing: what the task does, for the error.
            task: what to run; gives a number or ``None``.

        Returns:
            The task's number, on every rank (0 for ``None``).

        Raises:
            HaspError: on every rank, if the task fails.
        """
        if self.size == 1:
            return float(task() or 0.0)
        value, error = 0.0, None
        if self.rank:
            while self._busy(doing, 0.0):
                pass
        else:
            with self._beating(doing):
                try:
                    value = float(task() or 0.0)
                except Exception as found:
                    error = found
            self._busy(doing, 0.0)
        return self.agree(doing, error, [value])[0]

    @contextmanager
    def _beating(self, doing: str) -> Iterator[None]:
        """Tells the other ranks, every ``beat`` seconds of the block, that it is still under way."""
        done, broken = threading.Event(), []

        def run() -> None:
            try:
                while not done.wait(self.beat):
                    self._busy(doing, 1.0)
            except HaspError as error:
                broken.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        if broken:
            raise broken[0]

    def _busy(self, doing: str, mine: float) -> bool:
        flag = torch.tensor([mine])
        self._do(doing, flag, lambda: dist.all_reduce(flag, group=self._host))
        return bool(flag[0] > 0)

    def _tell(self, doing: str, error: Exception | None) -> dict[int, dict[str, str]]:
        """Rank -> kind and text of its error, of those that have one; the same on every rank."""
        said = b""
        if error is not None:
            kind = type(error).__name__
            text = str(error) if isinstance(error, HaspError) else f"{kind}: {error}"
            told = json.dumps({"kind": kind, "text": " ".join(text.split())[: _TEXT // 8]}, ensure_ascii=False)
            said = told.encode("utf-8", "replace")
        row = torch.zeros(_TEXT, dtype=torch.uint8)
        row[: len(said)] = torch.tensor(list(said), dtype=torch.uint8)
        rows = [bytes(r.tolist()).rstrip(b"\0") for r in self.gather(doing, row)]
        return {rank: json.loads(r) for rank, r in enumerate(rows) if r}

    # -- tensors -----------------------------------------------------------------------------------------------------

    def add_up(self, doing: str, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks; one collective each, nothing is allocated."""
        if self.size > 1:
            for tensor in tensors:
                self._do(doing, tensor, lambda tensor=tensor: dist.all_reduce(tensor))  # type: ignore[misc]

    def copy_first(self, doing: str, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by that of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                self._do(doing, tensor, lambda tensor=tensor: dist.broadcast(tensor, 0))  # type: ignore[misc]

    def gather(self, doing: str, row: Tensor, host: bool = True) -> list[Tensor]:
        """This tensor of every rank, in their order; it has the same shape on all. ``host``: it lies in the host's memory."""
        rows = [torch.empty_like(row) for _ in range(self.size)]
        self._do(doing, row, lambda: dist.all_gather(rows, row, group=self._host if host else None))
        return rows

    def _do(self, doing: str, payload: Tensor, collective: Callable[[], object]) -> None:
        """Run a collective, and count its bytes."""
        self.sent += payload.numel() * payload.element_size()
        hold(collective)
        with self.talking(doing):
            collective()

    @contextmanager
    def talking(self, doing: str) -> Iterator[None]:
        """A block of collectives alone; a broken group is an error that says what to look at."""
        try:
            yield
        except RuntimeError as error:
            why = " ".join(str(error).split())[:300]
            raise LostRank(
                f"{doing}: rank {self.rank} lost another rank, which died or hangs ({why}); "
                "see the output of the others, then start again from the checkpoint"
            ) from error
