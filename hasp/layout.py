"""Layout: which part owns which entity, and at which row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hasp.errors import HaspError
from hasp.parallel import run
from hasp.part import numpy_ids

__all__ = ["Layout", "TypeLayout", "check_node_part"]


@dataclass(frozen=True)
class TypeLayout:
    """Where the entities of one type are.

    Attributes:
        part: part of every entity ``[n]``, in the smallest unsigned dtype that holds ``num_parts`` (at most 2**15).
        local: row of every entity within its part ``[n]``, int32.
        n_id: all ids ordered by (part, id) ``[n]``, int32 or int64.
        ptr: int64 ``[num_parts + 1]``: ``n_id[ptr[p]:ptr[p + 1]]`` are the entities of part ``p``, ascending.
    """

    part: npt.NDArray[np.unsignedinteger[Any]]
    local: npt.NDArray[np.int32]
    n_id: npt.NDArray[np.signedinteger[Any]]
    ptr: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """The layouts of all entity types.

    Attributes:
        num_parts: parts.
        types: per entity type.
    """

    num_parts: int
    types: Mapping[str, TypeLayout]

    @classmethod
    def make(cls, node_part: Mapping[str, npt.NDArray[np.int32]], num_parts: int, threads: int = 0) -> Layout:
        """Number the entities of each part in ascending order of their ids.

        Args:
            node_part: per entity type, int32 ``[n]`` in ``0..num_parts-1`` (see :func:`check_node_part`).
            num_parts: parts.
            threads: never changes the result.
        """
        small: type[np.unsignedinteger[Any]] = np.uint8 if num_parts < 2**8 else np.uint16

        def one(labels: npt.NDArray[np.int32]) -> TypeLayout:
            part = labels.astype(small)
            ptr = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=num_parts))]).astype(np.int64)
            order = np.argsort(part, kind="stable")  # a radix sort for 8 and 16 bits
            local = np.empty(labels.size, dtype=np.int32)
            local[order] = np.arange(labels.size, dtype=np.int64) - np.repeat(ptr[:-1], np.diff(ptr))
            return TypeLayout(part, local, order.astype(numpy_ids(labels.size)), ptr)

        return cls(num_parts, dict(zip(node_part, run(one, node_part.values(), threads), strict=True)))


def check_node_part(
    node_part: Mapping[str, Any], num_nodes: Mapping[str, int], num_parts: int
) -> dict[str, npt.NDArray[np.int32]]:
    """Validate a partition that the user brings.

    Args:
        node_part: per entity type, whole numbers ``[n]`` in ``0..num_parts-1``.
        num_nodes: per entity type.
        num_parts: parts.

    Returns:
        The same as int32 arrays, in the order of ``num_nodes``.

    Raises:
        HaspError: an entity type is missing or unknown, a length is wrong, a label is out of range.
    """
    if not isinstance(node_part, Mapping):
        raise HaspError(
            f"node_part has one array per entity type, got {type(node_part).__name__}; write {{{next(iter(num_nodes))!r}: ...}}"
        )
    if set(node_part) != set(num_nodes):
        raise HaspError(
            f"node_part has one array per entity type {sorted(num_nodes)}, got {sorted(node_part)}; add or remove some"
        )
    out = {}
    for node_type, count in num_nodes.items():
        labels = np.asarray(node_part[node_type])
        if labels.shape != (count,) or labels.dtype.kind not in "iu":
            raise HaspError(
                f"node_part[{node_type!r}] is {count:,} whole numbers, got {labels.dtype} {labels.shape}; one label per entity"
            )
        if count and (labels.min() < 0 or labels.max() >= num_parts):
            bad = np.flatnonzero((labels < 0) | (labels >= num_parts))[:5]
            raise HaspError(
                f"node_part[{node_type!r}] lies in 0..{num_parts - 1}, got {labels[bad].tolist()} at rows {bad.tolist()}; "
                "give every entity a part"
            )
        out[node_type] = labels.astype(np.int32)
    return out
