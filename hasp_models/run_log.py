"""What a run writes about itself while it goes on: a row per epoch, the state of the run, and TensorBoard's events."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hasp.errors import HaspError
from hasp.store.disk import Disk

__all__ = ["RunLog"]


class RunLog:
    """The log of one run: ``log.jsonl`` and ``log.csv`` (a row per epoch), ``metrics.json`` (how it stands), events.

    Each file is replaced whole, so that who watches it never reads half a row.

    Args:
        folder: made when the first epoch ends.
        tensorboard: also write TensorBoard's events into ``folder/tensorboard``.
        epoch: epochs done before, by a run that is continued here; later events of it are taken back.
        disk: what does the I/O (of everything but events).

    Raises:
        HaspError: ``tensorboard`` is asked for and not installed.
    """

    def __init__(self, folder: str | Path, tensorboard: bool = False, epoch: int = 0, disk: Disk | None = None) -> None:
        self.folder, self.disk = Path(folder), disk or Disk()
        self._epoch, self._events = epoch, _writer() if tensorboard else None
        self._open: Any = None

    def write(self, history: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> None:
        """Bring the files up to date.

        Args:
            history: one row per epoch with ``epoch`` and numbers (or ``None``), all with the same columns.
            metrics: plain values: how the run stands.
        """
        self.disk.make_folder(self.folder)
        self.disk.put(self.folder / "log.jsonl", ["".join(json.dumps(row) + "\n" for row in history).encode()])
        text = io.StringIO()
        writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        self.disk.put(self.folder / "log.csv", [text.getvalue().encode()])
        self.disk.put(self.folder / "metrics.json", [(json.dumps(metrics, indent=1) + "\n").encode()])
        if self._events is not None:
            if self._open is None:
                self._open = self._events(str(self.folder / "tensorboard"), purge_step=self._epoch + 1)
            for row in history:
                if row["epoch"] > self._epoch:
                    for name, value in row.items():
                        if name != "epoch" and value is not None:
                            self._open.add_scalar(name, value, row["epoch"])
            self._epoch = history[-1]["epoch"]
            self._open.flush()

    def close(self) -> None:
        """Close the file of events."""
        if self._open is not None:
            self._open.close()


def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise HaspError(
            "TensorBoard's events need tensorboard, which is not installed; pip install 'hasp-pyg[tensorboard]', or leave "
            "tensorboard=True out: log.csv and log.jsonl need nothing"
        ) from error
    return SummaryWriter
