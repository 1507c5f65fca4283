"""Inference as a map-reduce over parts: every edge kept, cut links included, by several processes, from disk to disk.

A model's layers are *stages*. In each, every part is mapped by itself: its entities' new vectors are written to a file of
their own, with what the part says to the concepts, which are put together when all parts are there (*reduce*). The next
stage reads these files. A process holds one part, the far ends of the cut links into it, and the concepts; never the graph.

Files appear whole or not at all, so whatever stops a run, the same call goes on where it was. Stage l is removed when stage
l + 1 is done.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, Protocol

import torch
from blake3 import blake3
from torch import Tensor, nn

from hasp import HASPData
from hasp.errors import HaspError
from hasp.store.disk import Disk
from hasp.store.read import FolderStore
from hasp_models.checkpoint import signature
from hasp_models.files import load_tensors, read_json, save_tensors, write_json
from hasp_models.origin import parts_input, stamp
from hasp_models.part_layers import Read, SemanticParts, Tensors
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.tiers import Tiers
from hasp_models.zoo.pinsage import PinSage
from hasp_models.zoo.pinsage_parts import PinSageParts

__all__ = ["PartEmbeddings", "Stages", "embed_parts"]

_VERSION, _JOB, _LOCK, _COMMON, _SHARED = 1, "job.json", ".lock", "common.safetensors", "shared.safetensors"


class Stages(Protocol):
    """What a model does with parts, stage by stage: :class:`hasp_models.part_layers.SemanticParts` and PinSage's own."""

    stages: int

    def prepare(self, store: Any) -> Tensors:
        """Once, before all stages: what every part needs to know of the whole graph."""

    def map(self, store: Any, common: Tensors, stage: int, part_id: int, read: Read) -> Tensors:
        """One part in one stage, 0 to ``stages``: ``h/<entity type>`` ``[owned, d]``, and whatever ``reduce`` wants."""

    def reduce(self, store: Any, common: Tensors, stage: int, read: Read, pieces: Callable[[int], Tensors]) -> Tensors:
        """All parts of a stage together: ``h/<type>`` of the types that every part repeats."""


@dataclass(frozen=True)
class _Files:
    """Who finds what where."""

    folder: Path

    def at(self, stage: int, part_id: int | None) -> Path:
        return self.folder / f"stage-{stage}" / (_SHARED if part_id is None else f"part-{part_id:05d}.safetensors")

    def read(self, stage: int, part_id: int | None) -> Tensors:
        """The vectors that a stage left, memory-mapped."""
        found = load_tensors(self.at(stage, part_id))
        return {k[2:]: v for k, v in found.items() if k.startswith("h/")}

    def done(self, stage: int, num_parts: int) -> tuple[set[int], bool]:
        """The parts of a stage that are there, and whether it was reduced."""
        names = set(Disk().list(self.folder / f"stage-{stage}"))
        return {p for p in range(num_parts) if self.at(stage, p).name in names}, _SHARED in names

    def drop(self, stage: int) -> None:
        """Remove a stage; what says that it is whole goes first."""
        disk, folder = Disk(), self.folder / f"stage-{stage}"
        names = disk.list(folder)
        for name in sorted(names, key=lambda n: n != _SHARED):
            disk.discard(folder / name)
        if names:
            folder.rmdir()


@dataclass(frozen=True)
class PartEmbeddings:
    """What :func:`embed_parts` left in a folder.

    Attributes:
        folder: where.
        parts: whose.
        stage: the last one.
    """

    folder: Path
    parts: HASPData
    stage: int

    def part(self, part_id: int) -> Tensors:
        """Node type -> ``[owned, d]``, in the order of the part's ``n_id``, memory-mapped."""
        return _Files(self.folder).read(self.stage, part_id)

    def vectors(self, node_type: str) -> Tensor:
        """All nodes of a type in the source's order, ``[N, d]``.

        Raises:
            HaspError: the model gives no vectors of that type.
        """
        entity = node_type in self.parts.roles.entity
        known = _Files(self.folder).read(self.stage, None) if not entity else self.part(0)
        if node_type not in known:
            raise HaspError(f"vectors are of {list(known)}, got {node_type!r}; name one of these, or an entity type")
        if not entity:
            return known[node_type]
        out = known[node_type].new_empty((self.parts.num_nodes[node_type], known[node_type].size(1)))
        for part_id in range(self.parts.num_parts):
            n_id = self.parts.part(part_id).nodes[node_type].n_id
            assert n_id is not None
            out[n_id.long()] = self.part(part_id)[node_type]
        return out


def embed_parts(
    model: nn.Module,
    parts: HASPData,
    out: str | Path,
    *,
    processes: int = 1,
    tiers: Tiers | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> PartEmbeddings:
    """Embed all nodes of a graph part by part, with all its edges.

    The result equals that of the whole graph (:func:`hasp_models.infer.embed_all`) to rounding, for any number of parts and
    processes, and is bit for bit the same for any number of processes.

    Args:
        model: a SemanticGNN or a PinSage on the CPU; is put into eval mode and left in the mode it came in.
        parts: of the graph, on disk if there are several processes.
        out: folder for the vectors; an unfinished run in it is continued, a finished one is opened. Two stages lie on the
            disk at a time: twice the vectors of all nodes.
        processes: that map parts at once, each on one thread. 1: this one, on all of torch's threads.
        tiers: of a SemanticGNN, into which it has the links of the parts put (:mod:`hasp_models.tiers`).
        progress: called with (stage, parts done, parts).

    Raises:
        HaspError: the folder holds another run, a process died, or the parts are not of the model's graph.
    """
    if processes < 1:
        raise HaspError(f"parts are mapped by at least one process, got processes={processes}; correct it")
    store, files, stages = parts.store, _Files(Path(out)), _stages_of(model, tiers)
    if processes > 1 and not isinstance(store, FolderStore):
        raise HaspError(f"processes={processes} read parts from disk, but these are in memory; build with root=, or use 1")
    disk, training = Disk(), model.training
    disk.make_folder(files.folder)
    lock = disk.lock(files.folder / _LOCK)
    model.eval()
    try:
        _same_job(files.folder, parts, model, tiers)
        last = stages.stages
        ready = [s for s in range(last + 1) if files.done(s, parts.num_parts)[1]]
        if last not in ready:
            common = files.folder / _COMMON
            if _COMMON not in disk.list(files.folder):
                with torch.no_grad():
                    save_tensors(common, stages.prepare(store))
            with _mappers(processes, stages, store, files) as mapped:
                for stage in range(max(ready, default=-1) + 1, last + 1):
                    _run_stage(stages, store, files, stage, mapped, progress)
                    if stage:
                        files.drop(stage - 1)
        elif last:
            files.drop(last - 1)  # a run that ended between its last file and its tidying up
    finally:
        model.train(training)
        disk.unlock(lock)
    return PartEmbeddings(files.folder, parts, last)


Mapped = Callable[[int, Sequence[int]], Iterator[int]]


def _run_stage(
    stages: Stages, store: Any, files: _Files, stage: int, mapped: Mapped, progress: Callable[[int, int, int], None] | None
) -> None:
    Disk().make_folder(files.at(stage, None).parent)
    done, _ = files.done(stage, store.num_parts)
    count = len(done)
    for _part in mapped(stage, [p for p in range(store.num_parts) if p not in done]):
        count += 1
        if progress is not None:
            progress(stage, count, store.num_parts)
    with torch.no_grad():
        common = load_tensors(files.folder / _COMMON)
        read = partial(files.read, stage - 1)
        shared = stages.reduce(store, common, stage, read, lambda p: load_tensors(files.at(stage, p)))
        save_tensors(files.at(stage, None), shared)


@torch.no_grad()
def _map(stages: Stages, store: Any, files: _Files, stage: int, part_id: int) -> int:
    common = load_tensors(files.folder / _COMMON)
    save_tensors(files.at(stage, part_id), stages.map(store, common, stage, part_id, partial(files.read, stage - 1)))
    return part_id


# -- processes ---------------------------------------------------------------------------------------------------------

_own: list[Any] = []  # of a mapping process: stages, store, files


@contextlib.contextmanager
def _mappers(processes: int, stages: Stages, store: Any, files: _Files) -> Iterator[Mapped]:
    """A function that maps parts of a stage and yields each when it is done, in this process or in several."""
    if processes == 1:
        yield lambda stage, todo: (_map(stages, store, files, stage, p) for p in todo)
        return
    # Not a fork: this process may have threads of torch and of numba, which a fork would leave behind half-way.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(processes, context, _begin, (stages, store, files))

    def mapped(stage: int, todo: Sequence[int]) -> Iterator[int]:
        waiting = {pool.submit(_map_own, stage, p) for p in todo}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool as error:
            raise HaspError(
                f"one of {processes} mapping processes died in stage {stage} (killed, or out of memory); "
                "call again to go on, with fewer processes if memory is short"
            ) from error

    try:
        yield mapped
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(stages: Stages, store: Any, files: _Files) -> None:
    """What a mapping process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for this one decides
    torch.set_num_threads(1)
    _own[:] = [stages, store, files]
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _map_own(stage: int, part_id: int) -> int:
    stages, store, files = _own
    return _map(stages, store, files, stage, part_id)


# -- what is what ------------------------------------------------------------------------------------------------------


def _stages_of(model: nn.Module, tiers: Tiers | None) -> Stages:
    if isinstance(model, SemanticGNN):
        return SemanticParts(model, tiers)
    if tiers is not None:
        raise HaspError(f"a SemanticGNN has its links in tiers, got {type(model).__name__}; leave tiers out")
    if isinstance(model, PinSage):
        return PinSageParts(model)
    raise HaspError(f"a map-reduce embeds with a SemanticGNN or a PinSage, got {type(model).__name__}; use one of these")


def _same_job(folder: Path, parts: HASPData, model: nn.Module, tiers: Tiers | None) -> None:
    """Write what this run is, or raise :class:`HaspError` if the folder holds another."""
    digest = blake3()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    what = (signature(model), repr(model), *(() if tiers is None else (tiers.to_json(),)))
    made = blake3(repr(what).encode()).hexdigest()
    mine = {
        "format_version": _VERSION,
        **stamp(parts=parts_input(parts)),
        "model": made,
        "weights": digest.hexdigest(),
    }
    if _JOB not in Disk().list(folder):
        others = [n for n in Disk().list(folder) if n != _LOCK]
        if others:
            raise HaspError(f"{folder} holds other files ({others[0]}); choose an empty folder")
        write_json(folder / _JOB, mine)
        return
    found = read_json(folder / _JOB)
    wrong = [k for k, v in mine.items() if found.get(k) != v and k != "library"]
    if wrong:
        raise HaspError(f"{folder} holds vectors of another run (of other {wrong[0]}); choose another folder, or empty it")
