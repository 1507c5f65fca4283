"""Frames: a batch as bytes and back: its tensors as they are, 64 bytes aligned, behind a table of what they are. No pickle.

The table is JSON: a line per store of the ``HeteroData``, and in it a line per attribute: a tensor's dtype, shape and place, or
a plain value.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from hasp.errors import HaspError
from hasp.store.framing import DTYPES

__all__ = ["Frame", "decode"]

_ALIGN = 64
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH = struct.Struct("<q")


class Frame:
    """A batch on its way out.

    Args:
        batch: tensors on the CPU, and numbers, text and lists of these.
        about: plain values that travel along.

    Attributes:
        size: bytes of the frame.
        tensors: where each begins behind the table, and it.

    Raises:
        HaspError: an attribute is neither; the message names it.
    """

    def __init__(self, batch: HeteroData, about: Any = None) -> None:
        self.tensors: list[tuple[int, Tensor]] = []
        at, stores = 0, []
        for store in batch.stores:
            rows: list[list[Any]] = []
            for name, value in store.items():
                if isinstance(value, Tensor):
                    value = _plain(value, name)
                    rows.append([name, _NAMES[value.dtype], list(value.shape), at])
                    self.tensors.append((at, value))
                    at += -(-value.numel() * value.element_size() // _ALIGN) * _ALIGN
                else:
                    rows.append([name, _checked(value, name)])
            key = getattr(store, "_key", None)
            stores.append([key if key is None or isinstance(key, str) else list(key), rows])
        self._table = json.dumps({"about": about, "stores": stores}).encode()
        self._begin = _begin(len(self._table))
        self.size = self._begin + at

    def write(self, room: Tensor) -> None:
        """Write the frame to uint8 ``[size]``."""
        room[: _LENGTH.size + len(self._table)] = torch.frombuffer(
            bytearray(_LENGTH.pack(len(self._table)) + self._table), dtype=torch.uint8
        )
        for at, value in self.tensors:
            start = self._begin + at
            into = room[start : start + value.numel() * value.element_size()]
            if value.numel():
                into.view(value.dtype).view(value.shape).copy_(value)


def decode(frame: Tensor) -> tuple[HeteroData, Any]:
    """The batch and what travelled along; its tensors are views of the frame, uint8 ``[size]``."""
    (length,) = _LENGTH.unpack(frame[: _LENGTH.size].numpy().tobytes())
    table = json.loads(frame[_LENGTH.size : _LENGTH.size + length].numpy().tobytes())
    data, batch = frame[_begin(length) :], HeteroData()
    for key, rows in table["stores"]:
        store = batch._global_store if key is None else batch[key if isinstance(key, str) else tuple(key)]
        for name, *what in rows:
            if len(what) == 1:
                store[name] = what[0]
                continue
            dtype, shape, at = DTYPES[what[0]], what[1], what[2]
            count = torch.Size(shape).numel()
            store[name] = data[at : at + count * dtype.itemsize].view(dtype).view(shape)
    return batch, table["about"]


def _begin(length: int) -> int:
    return -(-(_LENGTH.size + length) // _ALIGN) * _ALIGN


def _plain(value: Tensor, name: str) -> Tensor:
    if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in _NAMES:
        raise HaspError(
            f"a ring carries dense tensors of the CPU, {name!r} is {value.dtype}, {value.layout}, on {value.device}; "
            "use HASPLoader, whose workers pickle"
        )
    return value.detach().as_subclass(Tensor)


def _checked(value: Any, name: str) -> Any:
    if isinstance(value, (list, tuple)):
        return [_checked(v, name) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise HaspError(
        f"a ring carries tensors, numbers and text, {name!r} is {type(value).__name__}; use HASPLoader, whose workers pickle"
    )
