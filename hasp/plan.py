"""Plan: how many parts, and what they will weigh, before any work starts.

The figures are closed forms of counts, dtypes and shapes; of the graph's contents only the EELs are looked at, once, to see
whether both directions are stored. They are functions of the graph, its roles and the settings alone, so that
a manifest may hold them.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hasp.backends.auto import choose_for
from hasp.config import BuildConfig, parse_bytes, whole
from hasp.errors import HaspError
from hasp.graph import Graph, HaspWarning
from hasp.needs import Needs
from hasp.schema import Roles
from hasp.sizes import (
    available_memory,
    batch_bytes,
    expected_share,
    free_disk,
    in_parts,
    input_bytes,
    node_bytes,
    num_links,
    row_bytes,
    shared_bytes,
    stored_bytes,
)
from hasp.text import format_bytes

if TYPE_CHECKING:
    from hasp.probe import Probe

__all__ = ["ACTIVATION_FACTOR", "HEADROOM", "Plan", "batch_bytes", "plan"]

ACTIVATION_FACTOR = 64
"""Bytes of training per byte of a loaded batch when no model is given. Measured on a CPU from 8 (two SAGEConv layers) to
70 (edge-wise attention, three layers): one number cannot serve all, so :func:`hasp.probe.probe` is the better way."""

HEADROOM = 0.85
"""Share of a GPU's memory that a training step may fill; the rest is for the allocator's rounding and the context."""

_LESS = "multilevel takes a fifth of METIS, stream next to nothing"

SPILL = 0.5
"""Share of the free memory above which a build keeps arrays as long as the edges in scratch files: the tables that it reads
and the parts that it writes pass through the other half."""

EDGE_SPREAD = 1.35
"""Edges of the largest part over the mean part, all EELs counted: partitioners even out entities, not edges. The most seen on
two real and several made-up catalogues, at 8 and 64 parts; a random split has a tenth of that."""


@dataclass(frozen=True)
class Plan:
    """What a build is expected to need.

    Attributes:
        num_parts: parts.
        part_bytes: bytes of the largest part as a loaded batch: n_id, e_id and edge_index as int64, every attribute, the
            shared nodes and edges, and the sampled types at quota. Counts every EEL as kept, so the real one is smaller
            by what the cut takes away; entities of unusual degree are not foreseen.
        shared_bytes: of these, what every part repeats: semantic nodes, semantic-semantic edges, the sample.
        peak_build_bytes: memory of a build into a folder on top of its input, with two parts being written at a time, where
            everything is held in memory.
        input_bytes: bytes of the graph's arrays that lie in memory (memory-mapped files are not counted).
        entities: entities of the largest part.
        edges: edges with an entity end of the largest part.
        gpus: GPUs that share the parts.
        reason: why this many parts, in words.
        step_bytes: predicted peak of a training step on the largest part, or ``None`` without a GPU's memory.
        out_of_core: whether a build into a folder keeps arrays that are as long as the edges in scratch files.
        scratch_peak_bytes: memory of such a build, pages of mapped files included; 0: not known.
        scratch_bytes: disk that its scratch files take, until it ends.
        output_bytes: disk that the parts take.
        partitioner: what ``backend`` means for this graph, and why, in words.
    """

    num_parts: int
    part_bytes: int
    shared_bytes: int
    peak_build_bytes: int
    input_bytes: int = 0
    entities: int = 0
    edges: int = 0
    gpus: int = 1
    reason: str = ""
    step_bytes: int | None = None
    out_of_core: bool = False
    scratch_peak_bytes: int = 0
    scratch_bytes: int = 0
    output_bytes: int = 0
    partitioner: str = ""

    def explain(self) -> str:
        """A few lines for people."""
        lines = [
            f"parts            {self.num_parts:,} ({self.reason})",
            f"largest part     {format_bytes(self.part_bytes)} loaded, of which {format_bytes(self.shared_bytes)} in "
            f"every part; {self.entities:,} entities, {self.edges:,} edges, if no EEL is cut",
        ]
        if self.step_bytes is not None:
            lines.append(f"training step    {format_bytes(self.step_bytes)} of GPU memory")
        needed = self.scratch_peak_bytes if self.out_of_core else self.peak_build_bytes
        lines.append(f"build            {format_bytes(needed)} of memory beside {format_bytes(self.input_bytes)} of input")
        if self.out_of_core:
            lines[-1] += f"; in memory alone it would be {format_bytes(self.peak_build_bytes)}"
        if self.output_bytes:
            scratch = f", and {format_bytes(self.scratch_bytes)} of scratch files until then" if self.out_of_core else ""
            lines.append(f"disk             {format_bytes(self.output_bytes)} of parts{scratch}")
        if self.partitioner:
            lines.append(f"partitioner      {self.partitioner}")
        if self.num_parts % self.gpus:
            lines.append(f"note             {self.num_parts} parts do not divide among {self.gpus} GPUs: some will wait")
        return "\n".join(lines)

    def check(self, available_bytes: int | None = None, threads: int = 2, root: str | Path | None = None) -> None:
        """Refuse a build that cannot fit into memory, or onto the disk.

        Args:
            available_bytes: memory that may be used; ``None``: what the machine has free
                (:func:`hasp.sizes.available_memory`).
            threads: parts that are written at a time.
            root: where the parts go; ``None``: the disk is not looked at.

        Raises:
            HaspError: the predicted peak is more than that, or parts and scratch are more than the disk has free.

        Warns:
            HaspWarning: the predicted peak is more than four fifths of that.
        """
        if root is not None:
            self._check_disk(root)
        available = available_memory() if available_bytes is None else available_bytes
        if available is None:
            return
        needed = self.scratch_peak_bytes if self.out_of_core else self.peak_build_bytes
        needed += max(0, min(threads, self.num_parts) - 2) * self.part_bytes
        text = f"the build needs about {format_bytes(needed)}, and {format_bytes(available)} of memory is free"
        if needed > available:
            raise HaspError(
                f"{text}; free some, take a larger machine or another backend ({_LESS}; more parts do not help), or partition "
                "elsewhere and pass node_part="
            )
        if needed > 0.8 * available:
            warnings.warn(f"{text}; close other programs", HaspWarning, stacklevel=2)

    def _check_disk(self, root: str | Path) -> None:
        free, where = free_disk(root)
        needed = self.output_bytes + (self.scratch_bytes if self.out_of_core else 0)
        if needed > free:
            what = "parts and scratch files" if self.out_of_core else "parts"
            raise HaspError(
                f"{what} need about {format_bytes(needed)}, and {format_bytes(free)} is free on the disk of {where}; free "
                "some, or build into a folder on a larger disk"
            )

    def predicted(self) -> dict[str, int]:
        """The figures that a report puts beside the measured ones."""
        return {"part_bytes": self.part_bytes, "peak_build_bytes": self.peak_build_bytes}


def plan(
    graph: Graph,
    roles: Roles,
    *,
    num_parts: int | None = None,
    max_part_bytes: int | float | str | None = None,
    gpu_memory: int | float | str | None = None,
    gpus: int = 1,
    balance: str = "nodes",
    imbalance: float = 0.03,
    backend: str = "auto",
    weight: str = "",
    probe: Probe | None = None,
) -> Plan:
    """Choose ``num_parts``, or take the given one, and predict the sizes.

    Args:
        graph: its counts, dtypes and shapes, and its EELs.
        roles: of the same graph.
        num_parts: taken as it is.
        max_part_bytes: the largest loaded part may have this many bytes; the smallest ``num_parts`` that fits is taken.
        gpu_memory: a training step on the largest part may take :data:`HEADROOM` of this. Without ``probe``, a step is taken
            to need :data:`ACTIVATION_FACTOR` times the bytes of its batch.
        gpus: a chosen ``num_parts`` is a multiple of this.
        balance: as in the build; with ``"nodes"`` the slack of the partitioner shows in edges and bytes, with ``"edges"``
            and ``"bytes"`` in entities too.
        imbalance: as in the build.
        backend: as in the build; each has its own need of memory (:data:`hasp.needs.BACKEND_BYTES`); ``"auto"`` is counted
            as what it takes for this graph.
        weight: as in the build; EELs with weights take more memory.
        probe: measured cost of a training step (:func:`hasp.probe.probe`).

    Raises:
        HaspError: not exactly one way to choose ``num_parts`` is given, what every part repeats is above the budget alone,
            or no number of parts fits.
    """
    if num_parts is not None and (max_part_bytes is not None or gpu_memory is not None):
        raise HaspError(f"num_parts={num_parts} and a memory budget both decide the number of parts; give one of them")
    if num_parts is None and max_part_bytes is None and gpu_memory is None:
        raise HaspError("nothing decides the number of parts; give num_parts=, max_part_bytes= or gpu_memory=")
    gpus = whole("gpus", gpus)
    if gpus < 1:
        raise HaspError(f"gpus={gpus}: at least 1; leave it out on a CPU")
    BuildConfig(num_parts=1 if num_parts is None else num_parts, balance=balance, imbalance=imbalance, backend=backend)
    model = _Model(graph, roles, balance, imbalance, backend, weight, probe)
    if num_parts is not None:
        if num_parts > max(model.entities, 1):
            names = ", ".join(roles.entity)
            raise HaspError(f"num_parts={num_parts} is more than the {model.entities:,} entities of {names}; lower num_parts")
        return model.plan(num_parts, gpus, "as asked")
    reason, batch_budget, step_budget = [], math.inf, math.inf
    if max_part_bytes is not None:
        batch_budget = parse_bytes(max_part_bytes)
        reason.append(f"the fewest within {format_bytes(batch_budget)} a part")
    if gpu_memory is not None:
        step_budget = HEADROOM * parse_bytes(gpu_memory)
        how = "as probed" if probe is not None else f"at {ACTIVATION_FACTOR} times the batch"
        reason.append(f"the fewest whose step, {how}, fits {HEADROOM:.0%} of {format_bytes(parse_bytes(gpu_memory))}")
    chosen = model.smallest(batch_budget, step_budget, gpus)
    return model.plan(chosen, gpus, " and ".join(reason), gpu_memory is not None)


class _Model:
    """Sizes as functions of ``num_parts``."""

    def __init__(
        self, graph: Graph, roles: Roles, balance: str, imbalance: float, backend: str, weight: str, probe: Probe | None
    ) -> None:
        self.graph, self.roles, self.probe, self.weighted = graph, roles, probe, bool(weight)
        links = {e: num_links(graph, e) for e in roles.eel}
        self.links = sum(links.values())
        self.backend, why = choose_for(graph, roles, links) if backend == "auto" else (backend, "as asked")
        self.partitioner = f"{self.backend} ({why})"
        self.slack = 1 + imbalance
        self.node_slack = 1.0 if balance == "nodes" else self.slack
        self.edge_slack = max(self.slack, EDGE_SPREAD if backend != "random" else 1 + (EDGE_SPREAD - 1) / 10)
        self.entities = sum(graph.num_nodes[t] for t in roles.entity)
        self.shared = shared_bytes(graph, roles)
        self.entity_bytes = sum(graph.num_nodes[t] * node_bytes(graph, roles, t) for t in roles.entity)
        self.edges, edge_bytes = 0.0, 0.0
        for edge_type in graph.edges:
            if in_parts(edge_type, roles):
                count = graph.num_edges(edge_type) * expected_share(edge_type, graph, roles)
                self.edges += count
                edge_bytes += count * row_bytes(graph.edge_attrs.get(edge_type, {}), 3)
        self.edge_bytes = edge_bytes

    def part(self, num_parts: int) -> tuple[int, int, int]:
        """Bytes, entities and edges of the largest part: means, with the slack of the balance, rounded up."""
        if num_parts == 1:
            return math.ceil(self.entity_bytes + self.edge_bytes) + self.shared, self.entities, math.ceil(self.edges)
        entities = min(self.entities, math.ceil(self.entities / num_parts * self.node_slack))
        rows = self.entity_bytes * (entities / self.entities if self.entities else 0)
        links = self.edge_bytes * min(1.0, self.edge_slack / num_parts)
        edges = math.ceil(self.edges * min(1.0, self.edge_slack / num_parts))
        return math.ceil(rows + links) + self.shared, entities, edges

    def step(self, num_parts: int) -> int:
        """Peak bytes of a training step on the largest part."""
        size, entities, edges = self.part(num_parts)
        return ACTIVATION_FACTOR * size if self.probe is None else self.probe.peak_bytes(entities, edges)

    def smallest(self, batch_budget: float, step_budget: float, gpus: int) -> int:
        """The smallest multiple of ``gpus`` that fits; sizes fall as parts rise, so bisection finds it."""

        def fits(multiple: int) -> bool:
            n = multiple * gpus
            return self.part(n)[0] <= batch_budget and self.step(n) <= step_budget

        per_shared = ACTIVATION_FACTOR if self.probe is None else 0
        if self.shared >= batch_budget or self.shared * per_shared >= step_budget:
            budget = batch_budget if self.shared >= batch_budget else step_budget / ACTIVATION_FACTOR
            raise HaspError(
                f"every part repeats {format_bytes(self.shared)} (semantic nodes and samples), and a part may have "
                f"{format_bytes(budget)}; use sample={{{self._largest_shared()!r}: <fewer nodes per part>}} or a larger budget"
            )
        last = min(self.entities, 2**15 - 1) // gpus
        if last < 1:
            raise HaspError(f"gpus={gpus} is more than the {self.entities} entities can feed; lower gpus")
        if not fits(last):
            size = self.part(last * gpus)[0]
            raise HaspError(
                f"even {last * gpus:,} parts have {format_bytes(size)} each, which does not fit; give a larger budget"
            )
        low, high = 1, last
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle + 1, high)
        return low * gpus

    def plan(self, num_parts: int, gpus: int, reason: str, step: bool = False) -> Plan:
        """All figures for one number of parts."""
        size, entities, edges = self.part(num_parts)
        step_bytes = self.step(num_parts) if step else None
        needs = Needs.of(self.graph, self.roles, self.links, num_parts, size, self.backend, self.weighted)
        taken, free = input_bytes(self.graph), available_memory()
        spills = free is not None and needs.memory > SPILL * free
        out = stored_bytes(self.graph, self.roles)
        plan = Plan(num_parts, size, self.shared, needs.memory, taken, entities, edges, gpus, reason, step_bytes)
        return replace(
            plan,
            out_of_core=spills,
            scratch_peak_bytes=needs.scratch_memory,
            scratch_bytes=needs.scratch,
            output_bytes=out,
            partitioner=self.partitioner if num_parts > 1 else "",
        )

    def _largest_shared(self) -> str:
        sizes = {t: self.graph.num_nodes[t] * row_bytes(self.graph.node_attrs.get(t, {}), 1) for t in self.roles.semantic}
        sizes |= {t: n * row_bytes(self.graph.node_attrs.get(t, {}), 1) for t, n in self.roles.quota.items()}
        return max(sizes, key=lambda t: sizes[t])
