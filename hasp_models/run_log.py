"""What a run writes about itself while it goes on: its events, a row per epoch, how it stands, and what TensorBoard reads."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from hasp import __version__
from hasp.errors import BuildLocked, HaspError
from hasp.store.disk import Disk
from hasp_models.distributed.ranks import Ranks
from hasp_models.events import LOG, EventLog, Level, Process, told

__all__ = ["EVERY", "RunLog", "refusing"]


EVERY = 10.0
"""Seconds between two events that come often: steps, and checkpoints within an epoch."""

WAIT = 20.0
"""Seconds for which a run waits for another one to leave its folder."""

_TURN = 0.5  # seconds between two attempts


class RunLog:
    """The log of one run: ``log.jsonl`` (its events, see :mod:`hasp_models.events`), ``log.csv`` (a row per epoch),
    ``metrics.json`` (how it stands), and TensorBoard's events.

    ``log.jsonl`` is appended to, over all that a run is killed and goes on; the others are replaced whole, so that who watches
    them never reads half a row.

    Args:
        folder: made with the first event; ``None``: nothing is written at all.
        tensorboard: also write TensorBoard's events into ``folder/tensorboard``.
        epoch: epochs done before, by a run that is continued here; later events of TensorBoard are taken back.
        disk: what does the I/O (of everything but TensorBoard's events).
        rank: of this process. All but 0 write their errors, and nothing else.

    Raises:
        HaspError: ``tensorboard`` is asked for and not installed.
    """

    def __init__(
        self,
        folder: str | Path | None,
        tensorboard: bool = False,
        epoch: int = 0,
        disk: Disk | None = None,
        rank: int = 0,
    ) -> None:
        self.folder, self.disk, self.rank = None if folder is None else Path(folder), disk or Disk(), rank
        self.events = None if self.folder is None else EventLog(self.folder, rank, self.disk)
        self._epoch, self._said, self._board = epoch, epoch, _writer() if tensorboard else None
        self._open: Any = None
        self._last: dict[str, float] = {}
        self._begun = False
        self._held: int | None = None

    def say(self, event: str, level: Level = "info", /, **fields: Any) -> None:
        """Write an event, on rank 0; see :class:`hasp_models.events.EventLog`."""
        if self.events is not None and not self.rank:
            self.events(event, level, **fields)

    def often(self, event: str, **fields: Any) -> None:
        """Write an event, unless one of its kind was written less than :data:`EVERY` seconds ago."""
        now = time.monotonic()
        if now - self._last.get(event, -math.inf) >= EVERY:
            self._last[event] = now
            self.say(event, **fields)

    def saving(self, save: Callable[[], None], epoch: int, step: int, within: bool) -> Callable[[], None]:
        """A task that saves a checkpoint, and then says so: always at the end of an epoch, seldom ``within`` one."""

        def run() -> None:
            begin = time.perf_counter()
            save()
            tell = self.often if within else self.say
            tell("checkpoint", epoch=epoch, step=step, seconds=round(time.perf_counter() - begin, 3))

        return run

    def begin(self, ranks: Ranks, step: int, **fields: Any) -> None:
        """Write ``started`` or ``resumed``, with what runs: library, versions, processes. A collective.

        Args:
            ranks: who takes part.
            step: at which the run goes on; 0: it starts.
            **fields: of the event.

        Raises:
            HaspError: another run goes on in the folder, and has not ended within :data:`WAIT` seconds.
        """
        if self.folder is None:
            return
        mine = json.dumps(dataclasses.asdict(Process.mine())).encode()
        rows = [mine]
        if ranks.size > 1:
            row = torch.zeros(512, dtype=torch.uint8)
            row[: len(mine)] = torch.tensor(list(mine), dtype=torch.uint8)
            rows = [bytes(r.tolist()).rstrip(b"\0") for r in ranks.gather("meeting", row)]
        about = {"library": __version__, "torch": torch.__version__, "python": platform.python_version()}
        processes = [json.loads(r) for r in rows]
        # torchrun says which of its attempts this is; nobody else starts a run again by itself.
        names = {"restart": "TORCHELASTIC_RESTART_COUNT", "max_restarts": "TORCHELASTIC_MAX_RESTARTS"}
        restarts = {key: int(os.environ.get(name, "0")) for key, name in names.items()}
        head = {"step": step, **fields, **about, **restarts, "processes": processes}

        def task() -> None:
            self._lock()
            self.say("resumed" if step else "started", **head)

        ranks.on_first("writing the log", task)
        self._begun = True

    def _lock(self) -> None:
        """Keep others from training in this folder, until this run or this process ends, however it ends."""
        if self.events is None:
            return
        path = self.events.create()
        for _ in range(round(WAIT / _TURN)):
            if self._locked(path):
                return
            # A worker of a loader holds what its parent held, and outlives one that was killed by some seconds.
            time.sleep(_TURN)
        if not self._locked(path):
            raise HaspError(
                f"one run at a time trains in a folder, and another one is training in {self.folder}; "
                "wait for it (hasp-models watch), end it, or choose another folder"
            )

    def _locked(self, path: Path) -> bool:
        """Take the lock, unless another run has it; on a file system without locks nobody has."""
        try:
            self._held = self.disk.lock(path)
        except BuildLocked:
            return False
        except HaspError:
            return True
        return True

    @contextmanager
    def telling(self, where: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
        """A block whose failure is an event, of whichever rank fails: ``error``, or :func:`refused <refusing>` before
        :meth:`begin`. ``where`` gives further fields when it happens.
        """
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            if self.events is not None and self._begun:
                self.events.fail(error, **where())
            elif isinstance(error, Exception):
                _refuse(self.folder, self.rank, error)
            raise
        finally:
            if self._held is not None:
                self.disk.unlock(self._held)
                self._held = None

    def write(self, history: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> None:
        """Bring the files up to date when an epoch ends.

        Args:
            history: one row per epoch with ``epoch`` and numbers (or ``None``), all with the same columns.
            metrics: plain values: how the run stands.
        """
        if self.folder is None:
            return
        best = {k: metrics[k] for k in ("best", "best_epoch") if k in metrics}
        for row in history:
            if row["epoch"] > self._said:
                self.say("epoch", **row, **(best if row is history[-1] else {}))
        self._said = history[-1]["epoch"]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        self.disk.put(self.folder / "log.csv", [text.getvalue().encode()])
        self.disk.put(self.folder / "metrics.json", [(json.dumps(metrics, indent=1) + "\n").encode()])
        if self._board is not None:
            if self._open is None:
                self._open = self._board(str(self.folder / "tensorboard"), purge_step=self._epoch + 1)
            for row in history:
                if row["epoch"] > self._epoch:
                    for name, value in row.items():
                        if name != "epoch" and value is not None:
                            self._open.add_scalar(name, value, row["epoch"])
            self._epoch = history[-1]["epoch"]
            self._open.flush()

    def end(self, run: Mapping[str, Any]) -> None:
        """Close the log of a run that has come to its end.

        Args:
            run: what it counted: epoch, step, best, best_epoch, stopped.
        """
        if run["stopped"]:
            self.say("early_stop", **{k: run[k] for k in ("epoch", "best", "best_epoch")})
        self.say("finished", **{k: run[k] for k in ("epoch", "step", "best", "best_epoch")})
        if self._open is not None:
            self._open.close()


@contextmanager
def refusing(folder: str | Path | None, rank: int = 0) -> Iterator[None]:
    """A block that sets a run up. Where it fails in the folder of an earlier run, that is an event ``refused`` of its log; a
    folder without a log is left as it is, so that bad input leaves nothing behind.
    """
    try:
        yield
    except Exception as error:
        _refuse(folder, rank, error)
        raise


def _refuse(folder: str | Path | None, rank: int, error: Exception) -> None:
    if folder is not None and not rank and (Path(folder) / LOG).is_file():
        with suppress(HaspError):
            EventLog(folder)("refused", "error", **told(error))


def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise HaspError(
            "TensorBoard's events need tensorboard, which is not installed; pip install 'hasp-pyg[tensorboard]', or leave "
            "tensorboard=True out: log.csv and log.jsonl need nothing"
        ) from error
    return SummaryWriter
