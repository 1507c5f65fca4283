"""Report: what a build did to the graph, as counts, and every ratio that follows from them.

The fields are raw counts, so that a recount can be compared with them exactly; the ratios are properties, each with its
formula. One object gives text (``str``), JSON (:meth:`Report.to_json`) and a page (:meth:`Report.to_html`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hasp.errors import HaspError
from hasp.schema import parse_edge_name
from hasp.text import format_bytes, table

__all__ = ["DEGREE_GROUPS", "Report"]

DEGREE_GROUPS = ("1-3", "4-6", ">6")
"""Groups of linked entities by EEL degree: distinct neighbours, self-loops ignored (paper, section 6.3)."""

_SHOWN = 16  # parts listed one by one in the text


@dataclass(frozen=True)
class Report:
    """Counts of one build; ``N`` is the number of parts.

    Attributes:
        num_parts: ``N``.
        num_nodes: nodes of the graph per node type.
        node_roles: role per node type.
        num_edges: edges of the graph per edge type, spelled ``source__relation__destination``.
        edge_roles: role per edge type.
        entities: per entity type ``[N]``: entities owned by each part.
        edges: per edge type with an entity end ``[N]``: edges in each part's own file.
        cut: per edge type: edges between two parts (0, or left out, where an edge type has no cut).
        linked: ``[N]``: entities with an EEL, of all entity types.
        degree_groups: ``[N][3]``: linked entities by EEL degree, in the groups of :data:`DEGREE_GROUPS`.
        quota: sampled nodes per part of each sampled type.
        part_bytes: ``[N]``: bytes of the tensors in each part's file.
        shared_bytes: bytes of the shared block, which every part repeats when it is loaded.
        sampled_bytes: bytes of the sampled block.
        cut_bytes: bytes of the cut.
        loaded_bytes: ``[N]``: bytes of each part as a loaded batch (:func:`hasp.sizes.batch_bytes` of the real counts);
            empty where the builder did not count them.
        not_finite: per attribute that has some, ``<type>.<name>``: values that are NaN, values that are infinite.
        predicted: what the plan said: ``part_bytes`` (a loaded batch), ``peak_build_bytes``; empty without a plan.
        measured: ``peak_build_bytes``, ``partitioner`` and ``seconds`` per stage of this run, ``scratch_bytes`` and
            ``planned_peak_bytes`` of one with scratch files; ``None`` where nobody measured.
            Not deterministic, and so not part of a manifest.

    Raises:
        HaspError: a list has not one value per part, or a count is negative.
    """

    num_parts: int
    num_nodes: Mapping[str, int]
    node_roles: Mapping[str, str]
    num_edges: Mapping[str, int]
    edge_roles: Mapping[str, str]
    entities: Mapping[str, Sequence[int]]
    edges: Mapping[str, Sequence[int]]
    cut: Mapping[str, int]
    linked: Sequence[int]
    degree_groups: Sequence[Sequence[int]]
    quota: Mapping[str, int] = field(default_factory=dict)
    part_bytes: Sequence[int] = ()
    shared_bytes: int = 0
    sampled_bytes: int = 0
    cut_bytes: int = 0
    loaded_bytes: Sequence[int] = ()
    not_finite: Mapping[str, Sequence[int]] = field(default_factory=dict)
    predicted: Mapping[str, int] = field(default_factory=dict)
    measured: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("num_parts", "shared_bytes", "sampled_bytes", "cut_bytes"):
            object.__setattr__(self, name, _count(getattr(self, name), name))
        for name in ("num_nodes", "num_edges", "cut", "quota", "predicted"):
            object.__setattr__(self, name, {k: _count(v, f"{name}[{k!r}]") for k, v in getattr(self, name).items()})
        for name in ("node_roles", "edge_roles"):
            object.__setattr__(self, name, {k: str(v) for k, v in getattr(self, name).items()})
        for name in ("entities", "edges"):
            lists = {k: self._per_part(v, f"{name}[{k!r}]") for k, v in getattr(self, name).items()}
            object.__setattr__(self, name, lists)
        for name in ("linked", "part_bytes", "loaded_bytes"):
            object.__setattr__(self, name, self._per_part(getattr(self, name), name, empty=name != "linked"))
        groups = [[_count(v, "degree_groups") for v in row] for row in self.degree_groups]
        if len(groups) != self.num_parts or any(len(row) != len(DEGREE_GROUPS) for row in groups):
            raise HaspError(f"degree_groups of a report has 3 counts per part, got {len(groups)} rows; recount them")
        object.__setattr__(self, "degree_groups", groups)
        values = {k: [_count(n, f"not_finite[{k!r}]") for n in v] for k, v in self.not_finite.items()}
        object.__setattr__(self, "not_finite", values)
        for name in self.num_edges:
            parse_edge_name(name)

    def _per_part(self, values: Sequence[int], name: str, empty: bool = False) -> list[int]:
        if len(values) != self.num_parts and not (empty and not len(values)):
            raise HaspError(f"{name} of a report has one value per part, got {len(values)} for {self.num_parts}; recount")
        return [_count(v, name) for v in values]

    # ---- totals ----------------------------------------------------------------------------------------------------
    @property
    def num_entities(self) -> int:
        """Entities of all types."""
        return sum(self.num_nodes[t] for t in self.entities)

    @property
    def part_entities(self) -> list[int]:
        """``[N]``: entities of all types in each part."""
        return _sum(self.entities.values(), self.num_parts)

    @property
    def part_edges(self) -> list[int]:
        """``[N]``: edges of all types in each part's own file."""
        return _sum(self.edges.values(), self.num_parts)

    @property
    def eel(self) -> list[str]:
        """The EEL types."""
        return [e for e, role in self.edge_roles.items() if role == "eel"]

    # ---- ratios ----------------------------------------------------------------------------------------------------
    @property
    def kept(self) -> dict[str, float]:
        """Per edge type: ``1 - cut / edges``; 1 for a type without edges. Edges that every part repeats count once."""
        return {e: 1.0 - self.cut.get(e, 0) / n if n else 1.0 for e, n in self.num_edges.items()}

    @property
    def kept_all(self) -> float:
        """Edges in some part over edges of the graph: ``1 - sum(cut) / sum(edges)``, over all edge types."""
        total = sum(self.num_edges.values())
        return 1.0 - sum(self.cut.values()) / total if total else 1.0

    @property
    def edge_cut(self) -> float:
        """EELs in the cut over EELs: ``sum_t cut_t / sum_t edges_t`` over the EEL types; 0 without EELs."""
        total = sum(self.num_edges[e] for e in self.eel)
        return sum(self.cut.get(e, 0) for e in self.eel) / total if total else 0.0

    @property
    def random_edge_cut_by_type(self) -> dict[str, float]:
        """Per edge type between entities: the expected cut of a random split with the same part sizes.

        Between types ``a`` and ``b``: ``1 - sum_p (pairs in p) / (all pairs)``, with ``n_a(p) * n_b(p)`` pairs in a
        part if the types differ and ``n_a(p) * (n_a(p) - 1)`` if they are one (a self-loop is no pair).
        """
        out = {}
        for name, role in self.edge_roles.items():
            if role in ("eel", "entity-entity"):
                a, _, b = parse_edge_name(name)
                same = 1 if a == b else 0
                inside = sum(n * (m - same) for n, m in zip(self.entities[a], self.entities[b], strict=True))
                pairs = self.num_nodes[a] * (self.num_nodes[b] - same)
                out[name] = 1.0 - inside / pairs if pairs > 0 else 0.0
        return out

    @property
    def random_edge_cut(self) -> float:
        """:attr:`edge_cut` expected of a random split: the mean over the EEL types, weighted by their edges."""
        by_type, total = self.random_edge_cut_by_type, sum(self.num_edges[e] for e in self.eel)
        return sum(by_type[e] * self.num_edges[e] for e in self.eel) / total if total else 0.0

    @property
    def sampled_share(self) -> dict[str, float]:
        """Per edge type with a sampled end: the expected share of its edges that one epoch's sample lets into a part.

        The product of ``quota / count`` over the sampled ends; ``quota (quota - 1) / (count (count - 1))`` where both
        ends are of one type.
        """
        out = {}
        for name, role in self.edge_roles.items():
            if role == "sampled":
                a, _, b = parse_edge_name(name)
                share = 1.0
                for taken, end in enumerate((a, b)):
                    if end in self.quota:
                        less = taken if a == b else 0
                        count = self.num_nodes[end] - less
                        share *= max(self.quota[end] - less, 0) / count if count > 0 else 1.0
                out[name] = share
        return out

    @property
    def balance(self) -> dict[str, float]:
        """The largest part over the mean part, of ``entities``, ``edges`` and ``bytes``; 1 is even."""
        sizes = {"entities": self.part_entities, "edges": self.part_edges, "bytes": self.part_bytes}
        return {k: max(v) * len(v) / sum(v) if sum(v) else 1.0 for k, v in sizes.items()}

    @property
    def replication_factor(self) -> float:
        """Node copies over all parts, sampled types at quota, over the nodes of the graph.

        ``(sum of entities + N * semantic nodes + N * quotas) / nodes``.
        """
        semantic = sum(n for t, n in self.num_nodes.items() if self.node_roles.get(t) == "semantic")
        copies = sum(self.part_entities) + self.num_parts * (semantic + sum(self.quota.values()))
        nodes = sum(self.num_nodes.values())
        return copies / nodes if nodes else 1.0

    # ---- spellings -------------------------------------------------------------------------------------------------
    def to_json(self, measured: bool = True) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` turns back into an equal object.

        Args:
            measured: with the figures of this one run; without, the value depends on the build's inputs alone.
        """
        left = {f for f, leave in (("measured", not measured), ("not_finite", not self.not_finite)) if leave}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], measured: Mapping[str, Any] | None = None) -> Report:
        """Rebuild from :meth:`to_json`; ``measured`` fills in what a deterministic report leaves out.

        Raises:
            HaspError: a key is missing, unknown, or of the wrong kind.
        """
        names = {f.name for f in fields(cls)}
        try:
            known = dict(value)
            if measured is not None:
                known["measured"] = measured
            if set(known) - names:
                raise HaspError(f"a report has no fields {sorted(set(known) - names)}; it is from a newer version: upgrade")
            return cls(**known)
        except (TypeError, AttributeError, KeyError) as error:
            raise HaspError(f"a stored report cannot be read ({error}); rebuild the parts") from error

    def to_html(self, path: str | Path, origin: str = "") -> Path:
        """Write the report as one self-contained page; returns its path. ``origin``: who made the parts, of what.

        Raises:
            HaspError: the page cannot be written there.
        """
        from hasp.report_html import render

        path = Path(path)
        try:
            path.write_text(render(self, origin), encoding="utf-8")
        except OSError as error:
            raise HaspError(f"cannot write {path}: {error.strerror or error}; choose a file in a folder that exists") from error
        return path

    def __str__(self) -> str:
        blocks = [self._headline(), self._edge_table(), self._part_table(), self._memory()]
        return "\n\n".join(b for b in blocks if b)

    def _headline(self) -> str:
        parts = "1 part" if self.num_parts == 1 else f"{self.num_parts:,} parts"
        lines = [
            f"{parts}, {self.num_entities:,} entities, {sum(self.num_edges.values()):,} edges",
            f"edges kept      {_percent(self.kept_all)}",
        ]
        if any(self.num_edges[e] for e in self.eel):
            cut = f"{_percent(1 - self.edge_cut)} (edge cut {_percent(self.edge_cut)}, "
            lines.append(f"EELs kept       {cut}a random split's {_percent(self.random_edge_cut)})")
        balance = ", ".join(f"{k} {v:.3f}" for k, v in self.balance.items())
        lines.append(f"largest / mean  {balance}")
        lines.append(f"replication     {self.replication_factor:.3f} copies of a node")
        for label, (nan, infinite) in self.not_finite.items():
            lines.append(f"not finite      {label}: {nan:,} NaN, {infinite:,} infinite")
        return "\n".join(lines)

    def _edge_table(self) -> str:
        kept, random, share = self.kept, self.random_edge_cut_by_type, self.sampled_share
        rows = []
        for name, role in self.edge_roles.items():
            sample = f"{_percent(share[name])}" if name in share else "-"
            by_chance = _percent(1 - random[name]) if name in random else "-"
            cut = f"{self.cut.get(name, 0):,}"
            rows.append([name, role, f"{self.num_edges[name]:,}", cut, _percent(kept[name]), by_chance, sample])
        return table(["edge type", "role", "edges", "cut", "kept", "kept by chance", "sampled"], rows, left=2)

    def _part_table(self) -> str:
        entities, edges = self.part_entities, self.part_edges
        size = self.loaded_bytes or self.part_bytes or [0] * self.num_parts
        columns = [entities, self.linked, *(list(g) for g in zip(*self.degree_groups, strict=True)), edges]
        head = ["part", "entities", "with EEL", *(f"degree {g}" for g in DEGREE_GROUPS), "edges"]
        head.append("loaded" if self.loaded_bytes else "file")
        rows: list[list[str]] = []
        if self.num_parts <= _SHOWN:
            parts = range(self.num_parts)
            rows = [[str(p), *(f"{c[p]:,}" for c in columns), format_bytes(size[p])] for p in parts]
        for label, pick in (("min", min), ("mean", _mean), ("max", max)):
            cells = [f"{pick(c):,.0f}" for c in columns]
            rows.append([label, *cells, format_bytes(pick(size))])
        return table(head, rows)

    def _memory(self) -> str:
        rows = []
        measured = self.measured or {}
        if self.loaded_bytes or "part_bytes" in self.predicted:
            largest = max(self.loaded_bytes) if self.loaded_bytes else None
            rows.append(["largest loaded part", _size(self.predicted.get("part_bytes")), _size(largest)])
        if "peak_build_bytes" in measured or "peak_build_bytes" in self.predicted:
            planned = measured.get("planned_peak_bytes", self.predicted.get("peak_build_bytes"))
            rows.append(["memory of the build", _size(planned), _size(measured.get("peak_build_bytes"))])
        blocks = (("part", sum(self.part_bytes)), ("shared", self.shared_bytes), ("sampled", self.sampled_bytes))
        disk = ", ".join(f"{k} {format_bytes(v)}" for k, v in (*blocks, ("cut", self.cut_bytes)) if v)
        lines = [table(["", "predicted", "measured"], rows)] if rows else []
        if disk:
            lines.append(f"on disk: {disk}")
        if "scratch_bytes" in measured:
            lines.append(f"scratch files: {_size(measured['scratch_bytes'])} in all, while it was built")
        if "partitioner" in measured:
            lines.append(f"partitioner: {measured['partitioner']}")
        seconds = measured.get("seconds") or {}
        if seconds:
            lines.append("seconds: " + ", ".join(f"{k} {v:.2f}" for k, v in seconds.items()))
        return "\n".join(lines)


def _count(value: Any, name: str) -> int:
    number = int(value)
    if number < 0 or number != value:
        raise HaspError(f"{name} of a report is a count >= 0, got {value!r}; recount")
    return number


def _sum(lists: Any, length: int) -> list[int]:
    out = [0] * length
    for values in lists:
        out = [a + b for a, b in zip(out, values, strict=True)]
    return out


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _size(value: int | None) -> str:
    return "-" if value is None else format_bytes(value)
