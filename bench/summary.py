"""The README's first table: a line for each stage, read off the newest full results of its bench; measured nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.table import Table

__all__ = ["LINES", "Line", "table"]

Row = Mapping[str, Any]
Rows = Sequence[Row]


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        bench: whose history it is read from.
        what: was measured.
        beside: the peer.
        row: values by which the row is found.
        faster: its column that says how many times faster than the peer we are.
        memory: the rows of the bench -> our peak memory over the peer's.
    """

    bench: str
    what: str
    beside: str
    row: Row
    faster: str
    memory: Callable[[Rows], float] | None = None


def _ratio(column: str, ours: Row, peer: Row) -> Callable[[Rows], float]:
    return lambda rows: float(_only(rows, ours)[column] / _only(rows, peer)[column])


_PLANTED = {"graph": "planted, 1,000,000 entities, 8,000,000 edges, 64 floats", "parts": 64}
_EELS = {"EELs": 5_000_000}
_CUT = {"graph": "communities", "parts": 64}

LINES = (
    Line(
        "materialise",
        "all 64 parts of a partitioned graph: 1 million entities with 64 floats each, 8 million edges of 15 types",
        "a loop of `HeteroData.subgraph`",
        {"parts": 64, "features": "64 floats"},
        "faster",
    ),
    Line(
        "pipeline",
        "the same graph in memory -> partitioned (`multilevel`) -> 64 checksummed parts on disk",
        "METIS, that loop, `torch.save`",
        {**_PLANTED, "route": "multilevel"},
        "faster than the loop",
        lambda rows: float(_only(rows, {**_PLANTED, "route": "multilevel"})["memory / the loop's"]),
    ),
    Line(
        "partition_quality",
        "cutting 4.6 million EELs into 64 parts, `multilevel`, CPU seconds",
        "METIS",
        {**_CUT, "backend": "multilevel"},
        "CPU: faster than METIS",
        _ratio("bytes per EEL", {**_CUT, "backend": "multilevel"}, {**_CUT, "backend": "metis"}),
    ),
    Line(
        "csr",
        "5 million EELs -> symmetric, coalesced CSR",
        "PyG's `to_undirected`",
        {**_EELS, "by": "to_undirected, 2 threads"},
        "hasp on as many threads is faster by",
        _ratio("peak bytes per EEL", {**_EELS, "by": "hasp, 1 thread"}, {**_EELS, "by": "to_undirected, 1 thread"}),
    ),
    Line(
        "samplers",
        "message edges per second, batches for link prediction (movies)",
        "the fastest of PyG's samplers (by torch-sparse)",
        {"by": "HASPLoader, 1 of 8 parts per batch"},
        "edges: times PyG's fastest",
    ),
    Line(
        "queues",
        "batches with links, negatives and walks from a worker to a training step, `RingLoader`",
        "torch's own worker",
        {"pipeline": "links, negatives, walks; a step of PinSage", "by": "ring"},
        "times faster than torch's worker",
    ),
    Line(
        "relation_attention",
        "relation attention (Eq. 3) forward and backward, d=64, 300,000 edges",
        "the layer as PyG would write it",
        {"d": 64, "way": "fused, 2 threads"},
        "times faster",
    ),
    Line(
        "pretrain",
        "an epoch of TransE, d=512",
        "PyG's TransE, its loader and Adam",
        {"d": 512, "by": "hasp_models"},
        "times faster",
    ),
    Line(
        "ladder",
        "training SemanticGNN to the same validation MAP (books)",
        "PyG's way, full graph",
        {"rung": "fused, HASP parts"},
        "times faster",
        _ratio("peak MB", {"rung": "fused, HASP parts"}, {"rung": "PyG's way, full graph"}),
    ),
)


def table(last: Callable[[str], Table | None]) -> Table | None:
    """From the newest full result of each bench; ``None``: there is none. A bench without one has no line."""
    columns = ("what", "beside", "times faster", "memory, of its")
    found, machines = Table("summary", "Beside what one would use instead", columns, beside=("times faster",)), []
    for line in LINES:
        measured = last(line.bench)
        if measured is not None:
            memory = None if line.memory is None else line.memory(measured.rows)
            numbers = {"times faster": float(_only(measured.rows, line.row)[line.faster]), "memory, of its": memory}
            found.add(what=line.what, beside=line.beside, **numbers)
            machines += [note for note in measured.notes if note.startswith("Machine: ")]
    found.notes.append(
        "Each is a line of a table in [bench/README.md](bench/README.md), which has the sizes and the floors. A dash: the "
        "memory was not measured."
    )
    found.notes += dict.fromkeys(machines)
    return found if found.rows else None


def _only(rows: Rows, values: Row) -> Row:
    """The one row that has these values."""
    found = [row for row in rows if all(row.get(k) == v for k, v in values.items())]
    if len(found) != 1:
        raise ValueError(f"one row has {dict(values)}, found {len(found)}: the bench changed; correct bench/summary.py")
    return found[0]
