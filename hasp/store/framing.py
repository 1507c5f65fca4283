"""The safetensors framing, written as a stream and checked on reading.

The library's own serialiser builds one ``bytes`` of the whole file and orders equal-sized tensors as the platform likes;
here a part is written tensor by tensor, in one fixed order, so that equal parts are equal files.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import CorruptPart, HaspError

__all__ = ["DTYPES", "MAX_HEADER", "Spec", "chunks", "file_order", "header", "parse_header", "parse_json", "specs", "views"]

# Only what every safetensors >= 0.4.5 reads: complex64 and the FNUZ floats came later.
_CODES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _CODES.values()}
"""Name in a manifest -> dtype, of everything that a part can hold."""

_CODE_OF = {dtype: code for code, dtype in _CODES.items()}
_CODE = {name: _CODE_OF[dtype] for name, dtype in DTYPES.items()}
_ITEMSIZE = {name: dtype.itemsize for name, dtype in DTYPES.items()}
_NUMPY = {name: np.dtype(name) for name in DTYPES if not name.startswith(("bfloat", "float8"))}  # it has no others
_STEP = 1 << 24  # bytes made contiguous and written in one go
MAX_HEADER = 100_000_000  # the official reader's own limit


class Spec(NamedTuple):
    """Type of a tensor: ``dtype`` as torch spells it without the prefix (``"float32"``), and ``shape``.

    In a manifest's ``node_attrs`` and ``edge_attrs`` the shape is the trailing one, without the rows.
    """

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, value: Tensor, *, trailing: bool = False) -> Spec:
        """The spec of a tensor, or of one of its rows."""
        shape = tuple(value.shape)
        return cls(str(value.dtype).removeprefix("torch."), shape[1:] if trailing else shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as an object."""
        return DTYPES[self.dtype]

    @property
    def num_bytes(self) -> int:
        """Bytes of one tensor of this spec; exact, however absurd the shape."""
        return math.prod(self.shape) * _ITEMSIZE[self.dtype]

    def empty_whole(self) -> Tensor:
        """An uninitialised tensor of this very shape."""
        return torch.empty(self.shape, dtype=self.torch_dtype)

    def empty(self, rows: int = 0) -> Tensor:
        """An uninitialised ``[rows, *shape]`` tensor: the store of a type that has nothing here."""
        return torch.empty((rows, *self.shape), dtype=self.torch_dtype)


def specs(tensors: Mapping[str, Tensor]) -> dict[str, Spec]:
    """Spec per name, in the order of the file: larger elements first, then by name, so that everything is aligned.

    Raises:
        HaspError: a dtype or a layout that the format cannot hold.
    """
    for name, value in tensors.items():
        if value.layout != torch.strided:
            raise HaspError(f"parts hold dense tensors, but {name} is {value.layout}; call to_dense(), or make it edges")
        if value.dtype not in _CODE_OF:
            remedy = "torch.view_as_real" if value.is_complex() else ".to(...) one of these"
            raise HaspError(f"parts hold {', '.join(DTYPES)}, but {name} is {value.dtype}; convert it with {remedy}")
    return file_order({name: Spec.of(value) for name, value in tensors.items()})


def file_order(found: Mapping[str, Spec]) -> dict[str, Spec]:
    """The same specs in the order of the file."""
    return dict(sorted(found.items(), key=lambda item: (-_ITEMSIZE[item[1].dtype], item[0])))


def header(order: Mapping[str, Spec]) -> bytes:
    """The first bytes of a file that holds these tensors in this order: a length and JSON, a multiple of 8 bytes."""
    entries, end = [], 0
    for name, spec in order.items():
        start, end = end, end + spec.num_bytes
        shape = ",".join(map(str, spec.shape))
        # Put together by hand: this is done for every part that is loaded.
        entries.append(f'{_quoted(name)}:{{"dtype":"{_CODE[spec.dtype]}","shape":[{shape}],"data_offsets":[{start},{end}]}}')
    text = f"{{{','.join(entries)}}}".encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@functools.lru_cache(maxsize=1 << 12)  # the names of one part are those of all
def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, piece by piece; no tensor is copied but a block of a non-contiguous one."""
    order = specs(tensors)
    head = header(order)
    if len(head) - 8 > MAX_HEADER:
        raise HaspError(f"the header of a file has at most {MAX_HEADER:,} bytes, got {len(head) - 8:,}; use fewer types")
    yield head
    for name in order:
        yield from _blocks(tensors[name])


def views(data: npt.NDArray[np.uint8], order: Mapping[str, Spec], start: int) -> dict[str, Tensor]:
    """The tensors of a file, as views of its bytes.

    Each has a storage of its own bytes alone, so that saving or sharing one tensor takes no more than it.

    Args:
        data: the whole file, uint8 ``[size]``.
        order: the specs in the order of the file; their bytes follow each other without holes.
        start: of the first, a multiple of 8.
    """
    out: dict[str, Tensor] = {}
    for name, (dtype, shape) in order.items():
        if 0 in shape:  # no bytes to view
            out[name] = torch.empty(shape, dtype=DTYPES[dtype])
            continue
        known = _NUMPY.get(dtype)
        if known is None:
            number = np.ndarray(shape, f"u{_ITEMSIZE[dtype]}", data, start)
            out[name] = torch.from_numpy(number).view(DTYPES[dtype])
        else:
            number = np.ndarray(shape, known, data, start)
            out[name] = torch.from_numpy(number)
        start += number.nbytes
    return out


def _blocks(value: Tensor) -> Iterator[memoryview]:
    value = value.detach()
    if not value.numel():  # an empty tensor may have any strides, which a view of bytes would refuse
        return
    rows = value.size(0) if value.dim() and not value.is_contiguous() else 1
    # A contiguous tensor is one block. Any other is copied a few rows at a time, so that memory stays bounded.
    step = max(1, _STEP * rows // max(1, value.nbytes)) if rows > 1 else 1
    for block in torch.split(value, step) if rows > 1 else (value,):
        dense = block.cpu().resolve_neg().contiguous()
        # as_strided, not view: a single element counts as contiguous with any stride, and a view of bytes would refuse.
        flat = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8)
        data = cast(npt.NDArray[np.uint8], flat.numpy()).data
        for start in range(0, data.nbytes, _STEP):
            yield data[start : start + _STEP]


def parse_json(data: bytes | str) -> Any:
    """JSON without what makes two readers disagree: no repeated keys, no NaN or infinity, UTF-8 only.

    Raises:
        CorruptPart: anything else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            keys = [key for key, _ in pairs]
            raise CorruptPart(f"a key stands once, but {next(k for k in keys if keys.count(k) > 1)!r} is repeated")
        return out

    def refuse(text: str) -> Any:
        raise CorruptPart(f"numbers are finite, got {text}")

    try:
        text = data if isinstance(data, str) else data.decode()
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except CorruptPart:
        raise
    except (ValueError, RecursionError) as error:
        raise CorruptPart(f"this is no JSON: {error}") from error


def parse_header(data: bytes, size: int) -> dict[str, Spec]:
    """Specs of a file's tensors, from its first bytes (the length and the JSON) and its size.

    Everything is checked: the length, the keys, known dtypes, and offsets that follow each other without holes or overlaps
    from 0 to the end of the file.

    Raises:
        CorruptPart: any of it is wrong.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER, size - 8) or len(data) < 8 + length:
        raise CorruptPart(f"the header fits the file, but {length:,} bytes are announced in a file of {size:,}")
    value = parse_json(data[8 : 8 + length])
    if not isinstance(value, dict):
        raise CorruptPart(f"the header is an object, got {type(value).__name__}")
    out, end = {}, 0
    for name, entry in value.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise CorruptPart(f"the header entry {name!r} has dtype, shape and data_offsets, got {str(entry)[:80]}")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if str(entry["dtype"]) not in _CODES or not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
            raise CorruptPart(f"the header entry {name!r} has a known dtype and whole numbers, got {str(entry)[:80]}")
        spec = Spec(str(_CODES[entry["dtype"]]).removeprefix("torch."), tuple(shape))
        if offsets[0] != end or offsets[1] - offsets[0] != spec.num_bytes:
            raise CorruptPart(f"tensors follow each other and fill their shape, but {name!r} has {offsets} after {end}")
        out[name], end = spec, offsets[1]
    if 8 + length + end != size:
        raise CorruptPart(f"tensors fill the file, but they end at {8 + length + end:,} of {size:,} bytes")
    return out


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)
