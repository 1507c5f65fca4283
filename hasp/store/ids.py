"""The users' own ids and names as tensors: numbers as they are, text as UTF-8 bytes and offsets. No pickle, no objects."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import CorruptPart, HaspError
from hasp.store.framing import DTYPES

__all__ = ["decode", "encode"]

Array = npt.NDArray[Any]

_WIDE = 1 << 30  # bytes of a fixed-width array above which one long text would cost too much: then an array of objects


def encode(kind: str, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Arrays per node type -> tensors: ``<kind>/<type>``, or ``<kind>_bytes/<type>`` and ``<kind>_ptr/<type>`` for text.

    Args:
        kind: ``"ids"`` or ``"names"``.
        arrays: per node type ``[n]``: integers, floats, booleans, or text (NumPy strings, or objects that are all ``str``).

    Raises:
        HaspError: another dtype, or text that UTF-8 cannot carry.
    """
    out: dict[str, Tensor] = {}
    for node_type, given in arrays.items():
        array = np.asarray(given)
        what = f"{kind} of {node_type!r}"
        if array.ndim != 1:
            raise HaspError(f"{what} are one per node, got an array of shape {array.shape}; flatten it")
        if array.dtype == object:
            array = _from_objects(array, what)
        if array.dtype.kind in "UOST":
            out[f"{kind}_bytes/{node_type}"], out[f"{kind}_ptr/{node_type}"] = _encode_text(array, what)
        elif array.dtype.name in DTYPES or array.dtype == np.bool_:
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            # A copy where torch would warn: it cannot mark a tensor read-only.
            out[f"{kind}/{node_type}"] = torch.from_numpy(native if native.flags.writeable else native.copy())
        else:
            raise HaspError(
                f"{what} are numbers or text, got {array.dtype}; convert them with .astype('int64') or .astype(str)"
            )
    return out


def decode(kind: str, node_type: str, tensors: Mapping[str, Tensor]) -> Array | None:
    """Invert :func:`encode` for one type; ``None`` if it has none. Text comes back as fixed-width NumPy strings, or as
    ``str`` objects where one long text would make those take more than a gigabyte.

    Raises:
        CorruptPart: offsets or bytes are no text.
    """
    if f"{kind}/{node_type}" in tensors:
        array: Array = tensors[f"{kind}/{node_type}"].numpy()
        return array
    name = f"{kind}_bytes/{node_type}"
    if name not in tensors:
        return None
    ptr_name = f"{kind}_ptr/{node_type}"
    if ptr_name not in tensors:
        raise CorruptPart(f"{name} has its offsets beside it, but {ptr_name} is missing; rebuild the parts")
    data, ptr = tensors[name].numpy(), tensors[ptr_name].numpy()
    ok = data.dtype == np.uint8 and data.ndim == 1 and ptr.dtype == np.int64 and ptr.ndim == 1 and ptr.size > 0
    if not ok or ptr[0] != 0 or ptr[-1] != data.size or (np.diff(ptr) < 0).any():
        raise CorruptPart(f"{ptr_name} rises from 0 to the {data.size:,} bytes of {name}; rebuild the parts")
    starts = (data & 0xC0) != 0x80  # the first byte of each character
    if not starts[ptr[:-1][ptr[:-1] < data.size]].all():
        raise CorruptPart(f"{ptr_name} cuts between characters; rebuild the parts")
    try:
        text = data.tobytes().decode()
    except UnicodeDecodeError as error:
        raise CorruptPart(f"{name} is UTF-8, but {error}; rebuild the parts") from error
    # From offsets of bytes to offsets of characters, so that the text is decoded once and then only sliced.
    at = np.concatenate(([0], np.cumsum(starts, dtype=np.int64)))[ptr]
    ends = at.tolist()
    rows = [text[a:b] for a, b in itertools.pairwise(ends)]
    width = int(np.diff(at).max(initial=1))
    return np.array(rows, dtype=object if width * 4 * len(rows) > _WIDE else f"<U{max(width, 1)}")


def _from_objects(array: Array, what: str) -> Array:
    kinds = {type(v) for v in array.tolist()}
    if kinds <= {str}:
        return array
    if kinds <= {int}:
        try:
            return array.astype(np.int64)
        except OverflowError as error:
            raise HaspError(f"{what} fit 64 bits, but {error}; use text") from error
    raise HaspError(
        f"{what} are all numbers or all text, got {sorted(k.__name__ for k in kinds)}; convert them with .astype(str)"
    )


def _encode_text(array: Array, what: str) -> tuple[Tensor, Tensor]:
    try:
        rows = array.tolist()
        encoded = rows if array.dtype.kind == "S" else [row.encode() for row in rows]
        data = b"".join(encoded)
        if array.dtype.kind == "S":
            data.decode()
    except UnicodeError as error:
        raise HaspError(f"{what} are text that UTF-8 can carry: {error}; clean them first") from error
    if b"\0" in data and any(row.endswith(b"\0") for row in encoded):
        raise HaspError(f"{what} do not end in NUL, which NumPy strings cannot keep; strip them first")
    ptr = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)), out=ptr[1:])
    bytes_ = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return bytes_, torch.from_numpy(ptr)
