"""Join: the entities and the edges of q parts, and of the cut between them, in the order of a batch.

Entities stand part after part, as they lie in the parts, so that their rows are copied in one go, and edges that lead to them
are in order when those of one part follow those of another; cut edges are put between (:mod:`hasp.load.runs`). Where all
entities are there, an entity's row is its id.

Edges that lead to other types, or to all entities, come sorted run by run, and are sorted into one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.load.runs import Run, put_among, rows_among, scratch, sort_runs
from hasp.part import Edges
from hasp.rows import join_rows, spread_rows, take_rows

__all__ = ["Owned", "join_attrs", "join_edges", "join_entities"]

Ints = npt.NDArray[np.signedinteger[Any]]

_NUMPY = {torch.int32: np.int32, torch.int64: np.int64}


@dataclass(frozen=True)
class Owned:
    """The entities of one type in the batch.

    Attributes:
        n_id: global ids ``[n]``, part after part, ascending in each, or all of them; int64, or as stored.
        owner: part of each, int32 ``[n]``.
        start: the first place of each part, int64 ``[q]``, if parts stand one after the other.
        row: the row of each such place, int64 ``[n]``; ``None``: they do stand so, and it is its own.
    """

    n_id: Tensor
    owner: Tensor
    start: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64] | None = None

    def rows(self, position: int, local: Ints) -> tuple[Ints, int]:
        """A part's rows as rows of the batch, and what to add to them; ``position`` is the part's among those of the batch."""
        start = int(self.start[position])
        return (local, start) if self.row is None else (self.row[start:][local], 0)


def join_entities(n_ids: Sequence[Tensor], parts: Sequence[int], dtype: torch.dtype, whole: bool = False) -> Owned:
    """The entities of parts, one part after the other, or as in the input.

    Args:
        n_ids: per part, ascending ids of one dtype.
        parts: their numbers.
        dtype: of the joined ids, int32 or int64.
        whole: they are all entities of their type, and shall stand in the order of their ids.
    """
    counts = np.array([ids.numel() for ids in n_ids], dtype=np.int64)
    start, owners = np.cumsum(counts) - counts, np.repeat(np.array(parts, dtype=np.int32), counts)
    if whole:
        row = np.concatenate([ids.numpy() for ids in n_ids], dtype=np.int64)
        owner = np.empty_like(owners)
        owner[row] = owners
        return Owned(torch.arange(row.size, dtype=dtype), torch.from_numpy(owner), start, row)
    if len(n_ids) == 1:
        n_id = n_ids[0].to(dtype)
    else:
        n_id = torch.from_numpy(np.concatenate([ids.numpy() for ids in n_ids], dtype=_NUMPY[dtype]))
    return Owned(n_id, torch.from_numpy(owners), start)


def join_attrs(attrs: Sequence[Mapping[str, Tensor]], owned: Owned | None = None) -> dict[str, Tensor]:
    """The rows of several parts, one part after the other, or where ``owned`` has them. One part: its very tensors."""
    if len(attrs) == 1:
        return dict(attrs[0])
    if owned is None or owned.row is None:
        return {name: join_rows([each[name] for each in attrs]) for name in attrs[0]}
    return {name: spread_rows([each[name] for each in attrs], owned.row) for name in attrs[0]}


def join_edges(
    inside: Sequence[Edges],
    cut: Edges | None,
    chosen: Sequence[int],
    ends: tuple[Owned | int, Owned | int],
    num_edges: int,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> Edges:
    """The edges of one type inside each part and cut between them, renumbered and sorted by (destination, ``e_id``).

    Args:
        inside: per part.
        cut: the cut edges of the type; ``None``: it is never cut.
        chosen: the parts, ascending.
        ends: per end, the entities of its type, or how many nodes the type has: then ids stay what they are.
        num_edges: of the type in the whole graph.
        dtypes: of the new ``edge_index`` and ``e_id``, int32 or int64.
    """
    limits = _count(ends[1]), num_edges, _count(ends[0])
    runs = [_run(edges, ends, position) for position, edges in enumerate(inside)]
    attrs = join_attrs([e.attrs for e in inside])
    between, cut_attrs = _between(cut, chosen, ends)
    out, e_id = _room(sum(run.e_id.size for run in (*runs, *between)), dtypes)
    if isinstance(ends[1], Owned) and ends[1].row is None:
        stop = [*ends[1].start[1:].tolist(), limits[0]]
        more, cut_attrs = _sorted(between, limits, cut_attrs)
        place = put_among(runs, stop, more, out, e_id)
        if place.size:
            attrs = {k: rows_among(v, cut_attrs[k], place) for k, v in attrs.items()}
    else:
        order = sort_runs([*runs, *between], limits, out, e_id, ordered=bool(attrs))
        if order is not None:
            attrs = {
                k: take_rows(join_rows([v, cut_attrs[k]]) if between else v, torch.from_numpy(order)) for k, v in attrs.items()
            }
    return Edges(torch.from_numpy(out), torch.from_numpy(e_id), attrs)


def _run(edges: Edges, ends: tuple[Owned | int, Owned | int], position: int) -> Run:
    """The edges of a part, in rows of the batch."""
    index = edges.edge_index.numpy()
    (source, source_add), (destination, destination_add) = (
        (row, 0) if isinstance(end, int) else end.rows(position, row) for end, row in zip(ends, index, strict=True)
    )
    return Run(source, destination, edges.e_id.numpy(), source_add, destination_add)


def _between(
    cut: Edges | None, chosen: Sequence[int], ends: tuple[Owned | int, Owned | int]
) -> tuple[list[Run], dict[str, Tensor]]:
    """The cut edges between the chosen parts, in rows of the batch, and their attributes; nothing where there are none."""
    if cut is None:
        return [], {}
    groups, count = _groups(cut, chosen)
    if not count:
        return [], {}
    owned = [end for end in ends if isinstance(end, Owned)]
    assert len(owned) == 2  # edges are cut between entities
    from hasp.kernels import join as kernel

    _, _, *rows, e_id = scratch(count)
    kernel.put_groups(groups, *cut.edge_index.numpy(), cut.e_id.numpy(), *(end.start for end in owned), *rows, e_id)
    rows = [row if end.row is None else end.row[row] for row, end in zip(rows, owned, strict=True)]
    ranges = groups[:, :2].tolist()
    return [Run(rows[0], rows[1], e_id, in_order=False)], {
        k: join_rows([v[low:high] for low, high in ranges]) for k, v in cut.attrs.items()
    }


def _sorted(between: Sequence[Run], limits: tuple[int, int, int], attrs: Mapping[str, Tensor]) -> tuple[Run, dict[str, Tensor]]:
    """Cut edges and their attributes by (destination, ``e_id``), int64."""
    rows = np.empty((3, sum(run.e_id.size for run in between)), dtype=np.int64)
    order = sort_runs(between, limits, rows[:2], rows[2], ordered=bool(attrs)) if between else None
    if order is not None:
        attrs = {k: take_rows(v, torch.from_numpy(order)) for k, v in attrs.items()}
    return Run(*rows), dict(attrs)


def _groups(cut: Edges, chosen: Sequence[int]) -> tuple[npt.NDArray[np.int64], int]:
    """The cut edges between each two of the chosen parts (ascending), as (first, last + 1, position of the source's part in
    ``chosen``, of the destination's), int64 ``[g, 4]``, and how many they are. Looks at the pairs of these parts only.
    """
    from hasp.kernels import join as kernel

    if cut.pairs is None or cut.ptr is None:
        raise HaspError("the cut is grouped by pairs of parts, but this one has no pairs; rebuild the parts")
    out = np.empty((len(chosen) * (len(chosen) - 1), 4), dtype=np.int64)
    found, count = kernel.find_groups(cut.pairs.numpy(), cut.ptr.numpy(), np.array(chosen, dtype=np.int32), out)
    groups = out[:found]
    # Kernels do not look whether a place is there, and the file may not have been hashed.
    if found and (groups[:, 0].min() < 0 or groups[:, 1].max() > cut.num_edges or (groups[:, 0] > groups[:, 1]).any()):
        raise HaspError(f"groups of the cut lie within its {cut.num_edges:,} edges, but one does not; rebuild the parts")
    return groups, count


def _room(count: int, dtypes: tuple[torch.dtype, torch.dtype]) -> tuple[Ints, Ints]:
    """``edge_index`` and ``e_id``, not initialised."""
    return np.empty((2, count), _NUMPY[dtypes[0]]), np.empty(count, _NUMPY[dtypes[1]])


def _count(end: Owned | int) -> int:
    return end if isinstance(end, int) else end.n_id.numel()
