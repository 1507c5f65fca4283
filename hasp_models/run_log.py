"""What a run writes about itself while it goes on: ``log.jsonl`` and ``log.csv``, a row per epoch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hasp.store.disk import Disk

__all__ = ["write_log"]


def write_log(folder: Path, history: Sequence[Mapping[str, Any]], disk: Disk | None = None) -> None:
    """Write ``log.jsonl`` and ``log.csv``, each whole or not at all.

    Args:
        folder: made if need be.
        history: one row per epoch, all with the same columns.
        disk: what does the I/O.
    """
    disk = disk or Disk()
    disk.make_folder(folder)
    disk.put(folder / "log.jsonl", ["".join(json.dumps(row) + "\n" for row in history).encode()])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    disk.put(folder / "log.csv", [text.getvalue().encode()])
