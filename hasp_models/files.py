"""The files of everything that is not parts: JSON and tensors, each whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hasp.errors import CorruptPart
from hasp.store.disk import Disk
from hasp.store.framing import chunks, parse_json

__all__ = ["check_tensors", "load_tensors", "read_json", "save_tensors", "write_json"]

_LIMIT = 1 << 28


def write_json(path: Path, value: Any, disk: Disk | None = None) -> None:
    """Write plain values as JSON, atomically. Infinite numbers and NaN are refused, as no reader agrees on them."""
    (disk or Disk()).put(path, [(json.dumps(value, indent=1, allow_nan=False) + "\n").encode()])


def read_json(path: Path, disk: Disk | None = None) -> dict[str, Any]:
    """Read what :func:`write_json` wrote. Raises :class:`CorruptPart` for anything but an object."""
    disk = disk or Disk()
    disk.size(path)
    try:
        value = parse_json(disk.head(path, _LIMIT))
    except CorruptPart as error:
        raise CorruptPart(f"{path}: {error}; make it again") from error
    if not isinstance(value, dict):
        raise CorruptPart(f"{path} holds one object, got {type(value).__name__}; make it again")
    return value


def save_tensors(path: Path, tensors: Mapping[str, Tensor], disk: Disk | None = None) -> dict[str, Any]:
    """Write tensors as safetensors, atomically; what a JSON file beside them says of that file."""
    size, digest = (disk or Disk()).put(path, chunks(tensors))
    return {"name": path.name, "bytes": size, "blake3": digest}


def load_tensors(path: Path, disk: Disk | None = None) -> dict[str, Tensor]:
    """Read a safetensors file, memory-mapped."""
    disk = disk or Disk()
    disk.size(path)
    return disk.map(path)


def check_tensors(path: Path, meta: Mapping[str, Any]) -> None:
    """Refuse a file that is not the one that its JSON file names (early versions named none)."""
    if "file" in meta and Disk().hash(path) != meta["file"]["blake3"]:
        raise CorruptPart(f"{path} is not the file that was written with its JSON; make it again")
