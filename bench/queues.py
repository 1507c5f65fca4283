"""Queues: how batches get from the processes that prepare them to the training step, and what that costs either side.

The same batches by four ways: no worker at all, a thread that works ahead, torch's own worker (a pipe, pickled names of one
segment of shared memory per tensor), and a worker with a ring (one frame of bytes per batch, no lock, no pickle), with and
without the copy out of it. One worker each, kept over epochs; the first epoch warms up and is not counted. What arrives
is compared with what the loader makes without workers.

"Trainer" is the CPU time of the training process per batch without that of its step, "worker" that of the other process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.graphs import ENTITIES, Planted, hetero
from bench.measure import interleave, median, ratio
from bench.table import Table
from hasp.data import HASPData
from hasp.load.frames import Frame
from hasp.load.loader import HASPLoader
from hasp.load.ring_loader import RingLoader
from hasp.parallel import cores
from hasp.schema import Schema
from hasp_models.importance import Neighborhoods, Walks
from hasp_models.margin import MaxMargin
from hasp_models.zoo.pinsage import PinSage

__all__ = ["WAYS", "run", "same"]

LINK = ("title", "linked", "title")
# planted graph, parts, features, rounds
SIZES = {"small": (Planted(1_500, 6_000), 4, 4, 2), "full": (Planted(60_000, 300_000), 24, 64, 7)}
KEPT = {"num_workers": 1, "persistent_workers": True}
WAYS: dict[str, tuple[type[HASPLoader], dict[str, Any]]] = {
    "no worker": (HASPLoader, {}),
    "a thread": (HASPLoader, {"prefetch": 2}),
    "torch's worker": (HASPLoader, KEPT),
    "ring": (RingLoader, KEPT),
    "ring, no copy out": (RingLoader, {**KEPT, "copy": False}),
}
LINKS = {"edge_label_index": LINK, "neg_sampling": "binary", "disjoint_train_ratio": 0.5}


BESIDE = ("times faster than torch's worker", "than no worker")
"""Set a row beside its peers."""


def run(size: str = "full") -> list[Table]:
    """One table: pipelines, each by all ways."""
    spec, num_parts, features, rounds = SIZES[size]
    torch.set_num_threads(1)  # as in every worker
    table = Table(
        "queues",
        f"Batches of one part of {num_parts} ({spec.nodes:,} entities, {spec.edges:,} EELs, {features} floats), one worker",
        (
            "pipeline", "MB per batch", "tensors", "by", "trainer [ms CPU]", "worker [ms CPU]", "wall [ms]",
            "times faster than torch's worker", "than no worker",
        ),
        beside=BESIDE,
    )  # fmt: skip
    try:
        with TemporaryDirectory() as folder:
            root = Path(folder) / "parts"
            HASPData(hetero(spec, features=features), Schema(entity=ENTITIES), num_parts=num_parts, root=root, log=False)
            walked = {**LINKS, "transform": Neighborhoods("title", [LINK], 10, Walks(100, 3), threads=1)}
            _pipeline(table, root, rounds, "parts as they are, no step", {}, False)
            _pipeline(table, root, rounds, "links and negatives, no step", LINKS, False)
            _pipeline(table, root, rounds, "links, negatives, walks; a step of PinSage", walked, True)
    finally:
        torch.set_num_threads(cores())
    table.notes += [
        f"Medians of {rounds} interleaved epochs per way, torch on one thread on both sides.",
        "Times faster: wall clock, medians of the rounds' ratios; CPU milliseconds are per batch.",
        "All ways gave the same batches, bit for bit.",
        f"Load average {os.getloadavg()[0]:.0f} on {cores()} cores: where that is more, trust CPU and not the wall clock.",
    ]
    return [table]


def _pipeline(table: Table, root: Path, rounds: int, name: str, options: dict[str, Any], trained: bool) -> None:
    loaders = {by: kind(str(root), seed=1, **options, **more) for by, (kind, more) in WAYS.items()}
    want = [batch.clone() for batch in loaders["no worker"]]
    frame = Frame(want[0])
    found: dict[str, list[tuple[float, float | None]]] = {by: [] for by in WAYS}
    step = _step(root) if trained else (lambda batch: None)
    tasks = {}
    for by, loader in loaders.items():
        others = {p.pid for p in active_children()}
        loader.set_epoch(0)
        for batch, right in zip(loader, want, strict=True):
            same(batch, right)
        mine = [p.pid or 0 for p in active_children() if p.pid not in others]
        tasks[by] = partial(_epoch, loader, mine, step, found[by])
    walls = interleave(tasks, rounds)
    for by, times in walls.items():
        workers = [w for _, w in found[by] if w is not None]
        table.add(
            pipeline=name,
            tensors=len(frame.tensors),
            by=by,
            runs=times,
            **{
                "MB per batch": frame.size / 1e6,
                "trainer [ms CPU]": median([t for t, _ in found[by]]),
                "worker [ms CPU]": median(workers) if workers else None,
                "wall [ms]": median(times) * 1e3,
                "times faster than torch's worker": ratio(walls["torch's worker"], times),
                "than no worker": ratio(walls["no worker"], times),
            },
        )
    for loader in loaders.values():
        loader._iterator = None  # ends its worker


def _epoch(loader: Any, workers: list[int], step: Callable[[Any], None], found: list[tuple[float, float | None]]) -> float:
    """Seconds per batch; appends the CPU milliseconds per batch of both sides."""
    spent, before, begin, stepped, count = time.process_time(), _cpu(workers), time.perf_counter(), 0.0, 0
    for batch in loader:
        start = time.thread_time()
        step(batch)
        stepped += time.thread_time() - start
        count += 1
    wall = time.perf_counter() - begin
    after = _cpu(workers)
    theirs = None if before is None or after is None else (after - before) / count * 1e3
    found.append(((time.process_time() - spent - stepped) / count * 1e3, theirs))
    return wall / count


def _cpu(workers: list[int]) -> float | None:
    """CPU seconds of processes so far, as the kernel counts them; ``None`` where it does not say, or there are none."""
    try:
        stats = [Path(f"/proc/{pid}/schedstat").read_text() for pid in workers]
    except OSError:
        return None
    return sum(int(s.split()[0]) for s in stats) / 1e9 if stats else None


def _step(root: Path) -> Callable[[Any], None]:
    torch.manual_seed(0)
    parts = HASPData.open(root)
    model = PinSage.from_data(parts, dim=64, neighborhoods=Neighborhoods("title", [LINK]), normalize=True)
    optimizer, loss = torch.optim.AdamW(model.parameters()), MaxMargin(LINK, max_pairs=256, hard=0)

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        loss(model, batch).sum.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def same(found: Any, want: Any) -> None:
    """Assert that two batches are equal, attribute for attribute."""
    for a, b in zip(found.stores, want.stores, strict=True):
        assert list(a.keys()) == list(b.keys())
        for key in b.keys():  # noqa: SIM118 - a store iterates over values
            equal = torch.equal(a[key], b[key]) if isinstance(b[key], torch.Tensor) else a[key] == b[key]
            assert equal, f"{key} differs"
