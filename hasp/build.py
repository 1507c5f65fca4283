"""Build: the only file that knows the order of the stages (paper, section 5.2).

check -> fingerprint -> split -> cut -> fill -> layout -> bucket -> write the parts, the cut, the shared and the sampled block
-> report. Every stage is a function of the graph, the roles and the config; threads and restarts never show in the bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hasp import memory
from hasp.backends.auto import choose_for
from hasp.blocks import Blocks
from hasp.config import BuildConfig
from hasp.count import count
from hasp.cut import check_backend, cut_linked
from hasp.errors import HaspError
from hasp.fill import fill
from hasp.graph import Graph, NotFinite, RowsOf, row_blocks
from hasp.layout import Layout, check_node_part
from hasp.parallel import run, writers
from hasp.part import Part
from hasp.plan import Plan
from hasp.schema import Roles, edge_name
from hasp.scratch import MEMORY, Scratch
from hasp.split import EelGraph, check_weights, entity_offsets, split
from hasp.store.framing import specs
from hasp.store.manifest import FORMAT_VERSION, Manifest, Spec
from hasp.store.memory import MemoryStore
from hasp.store.read import FolderStore
from hasp.store.write import Writer

if TYPE_CHECKING:
    from hasp.cluster.spread import Spread

__all__ = ["Progress", "assign", "build"]

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total), possibly from a worker thread."""

Labels = dict[str, npt.NDArray[np.int32]]


def build(
    graph: Graph,
    roles: Roles,
    config: BuildConfig,
    *,
    root: str | Path | None = None,
    node_part: Mapping[str, Any] | None = None,
    plan: Plan | None = None,
    overwrite: bool = False,
    out_of_core: bool | None = None,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
    disk: Any = None,
    spread: Spread | None = None,
) -> FolderStore | MemoryStore:
    """Cut a graph into parts.

    Args:
        graph: the source; read, never written.
        roles: ``schema.resolve(...)`` of the same graph.
        config: the settings; with ``node_part``, ``config.backend`` is ``"given"``. Instead of ``"auto"`` the manifest holds
            what that means for this graph (:func:`hasp.backends.auto.choose_for`); asked for by name, it is the same build.
        root: folder to build into; ``None`` keeps the parts in memory. A finished build of the same graph and settings is
            opened, an interrupted one continued, any other content refused.
        node_part: a partition made elsewhere: per entity type, whole numbers ``[n]`` in ``0..num_parts-1``.
        plan: what was predicted, for the report.
        overwrite: replace what the folder holds.
        out_of_core: keep arrays that are as long as the edges in nameless files beside the parts, which makes the same bytes
            in less memory; ``None``: as ``plan`` decides, in memory without one. Parts in memory are built in memory.
        progress: told of every step.
        say: told in one sentence what was done to a folder that held this build or some of it.
        disk: the object that does all I/O (:class:`hasp.store.disk.Disk`).
        spread: whose ``graph`` this is, where many workers read it, bucket it and write its parts
            (:func:`hasp.cluster.tables.open_spread`); the bytes are the same. Needs ``root``, which all of them see.

    Returns:
        The parts, opened.

    Raises:
        HaspError: bad input or settings; nothing has been written then.
        StaleParts: the folder holds other parts.
        BuildLocked: another process is building there.
    """
    spill = root is not None and (out_of_core if out_of_core is not None else plan is not None and plan.out_of_core)
    scratch = Scratch(root) if spill else MEMORY
    clock = _Clock(progress, scratch, plan)
    entities = {t: graph.num_nodes[t] for t in roles.entity}
    total = sum(entities.values())
    if config.num_parts > max(total, 1):
        raise HaspError(
            f"num_parts={config.num_parts} is more than the {total:,} entities of {', '.join(roles.entity)}; lower num_parts"
        )
    if node_part is None and config.backend == "given":
        raise HaspError("backend='given' is not one of those that partition; choose one, or pass node_part=")
    if spread is not None and root is None:
        raise HaspError("workers write parts into a folder, got root=None; give a folder that all of them see")
    given = None if node_part is None else check_node_part(node_part, entities, config.num_parts)
    with scratch:
        scratch.watch(graph.tensors())
        with clock("check"):
            clock.not_finite = (spread or graph).check()
            _check_settings(graph, roles, config)
            if given is None:
                config, clock.partitioner = _settled(graph, roles, config)
        with clock("fingerprint"):
            fingerprint = graph.fingerprint(given) if spread is None else spread.fingerprint(given, clock.not_finite)
        if root is None:
            return _in_memory(graph, roles, config, given, fingerprint, plan, clock)
        with Writer(root, fingerprint=fingerprint, config=config, roles=roles, overwrite=overwrite, disk=disk) as writer:
            if not writer.finished:
                _to_folder(writer, graph, roles, config, given, plan, clock, spread)
            if say is not None and writer.done:
                say(writer.done)
    return FolderStore.open(root)


def assign(
    graph: Graph, roles: Roles, config: BuildConfig, eels: EelGraph, clock: _Clock | None = None, rows: RowsOf = row_blocks
) -> Labels:
    """Give every entity a part: the partitioner for the linked ones, the fill for the others.

    ``rows`` gives the rows of an array of the graph.

    Returns:
        Per entity type, int32 ``[n]`` in ``0..num_parts-1``.
    """
    clock = clock or _Clock(None)
    with clock("cut"):
        labels = np.full(eels.num_entities, -1, dtype=np.int32)
        how = (config.backend, None, eels.edge_weight, config.imbalance, config.seed, config.threads)
        labels[eels.linked] = cut_linked(eels.indptr, eels.indices, config.num_parts, *how)
    with clock("fill"):
        weight = _fill_weight(graph, roles, config.balance, eels, rows)
        labels = fill(labels, config.num_parts, weight, config.seed)
    return {t: labels[at : at + graph.num_nodes[t]] for t, at in entity_offsets(graph, roles).items()}


def _settled(graph: Graph, roles: Roles, config: BuildConfig) -> tuple[BuildConfig, str]:
    """The settings with the name of a partitioner in them, and the words for the report."""
    backend, why = choose_for(graph, roles) if config.backend == "auto" else (config.backend, "as asked")
    return replace(config, backend=backend), f"{backend} ({why})"


def _check_settings(graph: Graph, roles: Roles, config: BuildConfig) -> None:
    """What only a later stage would refuse: by then the folder is begun and, with ``overwrite``, the old parts are gone."""
    check_backend(config.backend)
    check_weights(graph, roles, config.weight)
    for prefix, stores in (("node", graph.node_attrs), ("edge", {edge_name(e): v for e, v in graph.edge_attrs.items()})):
        for label, attrs in stores.items():
            specs({f"{prefix}/{label}/{name}": value for name, value in attrs.items()})


def _prepare(
    graph: Graph, roles: Roles, config: BuildConfig, given: Labels | None, clock: _Clock, spread: Spread | None = None
) -> tuple[Blocks, EelGraph, Labels]:
    with clock("split"):
        eels = split(graph, roles, config.weight, config.threads, clock.scratch)
    rows = row_blocks if spread is None else spread.rows
    labels = given if given is not None else assign(graph, roles, config, eels, clock, rows)
    with clock("bucket"):
        eels = replace(eels, indices=eels.indices[:0].copy(), edge_weight=None)  # only its degrees are still asked for
        layout = Layout.make(labels, config.num_parts, config.threads)
        if spread is not None:
            blocks: Blocks = spread.blocks(roles, layout, clock.scratch)
        else:
            blocks = Blocks.make(graph, roles, layout, config.threads, clock.scratch)
    return blocks, eels, labels


def _in_memory(
    graph: Graph, roles: Roles, config: BuildConfig, given: Labels | None, fingerprint: str, plan: Plan | None, clock: _Clock
) -> MemoryStore:
    blocks, eels, labels = _prepare(graph, roles, config, given, clock)
    with clock("parts", config.num_parts) as step:
        parts = run(_stepping(blocks.part, step), range(config.num_parts), config.threads)
    rest = {"shared": blocks.shared(), "sampled": blocks.sampled(), "cut": blocks.cut()}
    report = count(
        blocks, eels, [p.num_bytes for p in parts], {k: v.num_bytes for k, v in rest.items()}, plan, clock.not_finite
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        library=_library(),
        fingerprint=fingerprint,
        config=config.to_json(),
        roles=roles,
        files={},
        report=report.to_json(measured=False),
        **_specs(graph),
    )
    node_part = {t: torch.from_numpy(v) for t, v in labels.items()}
    store = MemoryStore(
        manifest, parts, rest["shared"], rest["sampled"], rest["cut"], node_part, dict(graph.ids), dict(graph.names)
    )
    store.build_log = clock.log()
    return store


def _to_folder(
    writer: Writer,
    graph: Graph,
    roles: Roles,
    config: BuildConfig,
    given: Labels | None,
    plan: Plan | None,
    clock: _Clock,
    spread: Spread | None,
) -> None:
    if given is None:
        stored = writer.load_node_part()  # of an interrupted build of the same graph and settings
        given = None if stored is None else {t: stored[t].numpy() for t in roles.entity}
    if spread is not None:
        spread = replace(spread, root=str(writer.root.absolute()))
    blocks, eels, labels = _prepare(graph, roles, config, given, clock, spread)
    writer.save_node_part({t: torch.from_numpy(v) for t, v in labels.items()})
    if graph.ids or graph.names:
        writer.save_ids(graph.ids, graph.names)

    def write(part_id: int) -> None:
        if not writer.has(part_id):  # it has those that an interrupted build finished, by their hash
            writer.write(blocks.part(part_id))

    with clock("parts", config.num_parts) as step:
        if spread is not None:
            spread.write(blocks, writer, step)
        else:
            run(_stepping(write, step), range(config.num_parts), writers(config.threads))
    rest_bytes = {}
    with clock("shared and cut", 3) as step:
        for name, make in (("shared", blocks.shared), ("sampled", blocks.sampled), ("cut", blocks.cut)):
            block: Part = make()
            rest_bytes[name] = block.num_bytes
            if name != "sampled" or roles.sampled:
                writer.write(block)
            step()
    sizes = [blocks.part_bytes(p) for p in range(config.num_parts)]
    report = count(blocks, eels, sizes, rest_bytes, plan, clock.not_finite)
    writer.finish(report=report.to_json(measured=False), build_log=clock.log(), **_specs(graph))


def _fill_weight(graph: Graph, roles: Roles, balance: str, eels: EelGraph, rows: RowsOf) -> npt.NDArray[np.int64] | None:
    """What each entity weighs in the fill, int64 ``[n]``; ``None`` for ``balance="nodes"``."""
    if balance == "nodes":
        return None
    offsets = entity_offsets(graph, roles)
    weight = eels.degree.copy()
    for edge_type, (source, destination) in graph.edges.items():
        if roles.edges[edge_type] not in ("entity-semantic", "sampled"):
            continue
        for end, ids in ((edge_type[0], source), (edge_type[2], destination)):
            if roles.nodes[end] == "entity":
                own = weight[offsets[end] : offsets[end] + graph.num_nodes[end]]
                for block in rows(ids):  # bincount makes int64 of what it counts
                    own += np.bincount(block.numpy(), minlength=own.size)
    if balance == "edges":
        return weight
    weight *= 24  # a loaded edge: two int64 ends and an int64 id
    for node_type, at in offsets.items():
        attrs = graph.node_attrs.get(node_type, {}).values()
        weight[at : at + graph.num_nodes[node_type]] += 8 + sum(_row_bytes(v) for v in attrs)
    return weight


def _row_bytes(value: Tensor) -> int:
    return value[:1].numel() * value.element_size() if value.size(0) else 0


def _specs(graph: Graph) -> dict[str, Any]:
    """Counts and attribute widths, so that a loader can make empty stores of the right kind."""
    return {
        "num_nodes": dict(graph.num_nodes),
        "num_edges": {e: graph.num_edges(e) for e in graph.edges},
        "node_attrs": {
            t: {k: Spec.of(v, trailing=True) for k, v in graph.node_attrs.get(t, {}).items()} for t in graph.num_nodes
        },
        "edge_attrs": {e: {k: Spec.of(v, trailing=True) for k, v in graph.edge_attrs.get(e, {}).items()} for e in graph.edges},
    }


def _library() -> str:
    from hasp import __version__

    return __version__


def _stepping(task: Callable[[int], Any], step: Callable[[], None]) -> Callable[[int], Any]:
    def stepped(item: int) -> Any:
        result = task(item)
        step()
        return result

    return stepped


class _Clock:
    """What the report of a build says beside counts: seconds, memory, what is not finite; tells the progress function."""

    def __init__(self, progress: Progress | None, scratch: Scratch = MEMORY, plan: Plan | None = None) -> None:
        self.scratch = scratch
        self._planned = 0 if plan is None else plan.scratch_peak_bytes
        self._progress = progress
        self._seconds: dict[str, float] = {}
        self.partitioner = ""
        self.not_finite: NotFinite = {}
        self._reset = memory.reset_peak()
        self._before = memory.resident_bytes()

    @contextmanager
    def __call__(self, stage: str, total: int = 1) -> Iterator[Callable[[], None]]:
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if self._progress is not None:
                self._progress(stage, done, total)

        if self._progress is not None:
            self._progress(stage, 0, total)
        start = time.perf_counter()
        yield step
        self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - start
        if self._progress is not None and done < total:
            self._progress(stage, total, total)

    def log(self) -> dict[str, Any]:
        """``seconds`` per stage, the ``partitioner`` and why it was taken, ``peak_build_bytes`` above what there was."""
        out: dict[str, Any] = {"seconds": {k: round(v, 4) for k, v in self._seconds.items()}}
        if self.partitioner:
            out["partitioner"] = self.partitioner
        if self._reset and memory.peak_bytes():
            out["peak_build_bytes"] = max(0, memory.peak_bytes() - self._before)
        if self.scratch.folder is not None:
            out["scratch_bytes"] = self.scratch.num_bytes
            if self._planned:  # the report itself holds what does not depend on the machine
                out["planned_peak_bytes"] = self._planned
        return out
