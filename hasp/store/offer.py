"""Offers: files that other processes write beside their place in a parts folder, for the one builder to take over.

Only the builder holds the folder's lock, and only it gives files their names: a worker that was thought dead and still writes
can disturb nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hasp.part import Part
from hasp.store.disk import Disk
from hasp.store.framing import Spec, chunks, specs
from hasp.store.layout import file_name, is_data

__all__ = ["Offer", "is_offer", "offer", "piece_name"]

_NAME = re.compile(r"(.+)\.[0-9a-f]{16}(\.tmp)?")
_PIECE = "piece.safetensors"


class Offer(NamedTuple):
    """A part that lies whole and durable beside its place.

    Attributes:
        part_id: which.
        name: of the file, in the folder of the parts.
        num_bytes: of the file.
        blake3: of the file, in hex.
        tensors: what it holds.
    """

    part_id: int
    name: str
    num_bytes: int
    blake3: str
    tensors: Mapping[str, Spec]


def offer(root: Path, part: Part, disk: Disk | None = None) -> Offer:
    """Write a part under a name that nobody else has.

    Args:
        root: the folder of the parts.
        part: what to write; its types and attributes are those that the builder checked.
        disk: what does the I/O.
    """
    tensors = part.to_tensors()
    shapes = specs(tensors)
    name = f"{file_name(part.part_id)}.{secrets.token_hex(8)}"
    size, digest = (disk or Disk()).put(root / name, chunks(tensors))
    return Offer(part.part_id, name, size, digest, shapes)


def is_offer(name: str) -> bool:
    """Whether a file is one that was offered, a piece of one to be, or the beginning of either."""
    match = _NAME.fullmatch(name)
    return match is not None and (is_data(match[1]) or match[1] == _PIECE)


def piece_name() -> str:
    """A name that nobody else has, of a file that is needed until the parts are written; :func:`is_offer`, too."""
    return f"{_PIECE}.{secrets.token_hex(8)}"
