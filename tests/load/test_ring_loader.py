"""The loader on rings: every byte, every order, every end; by real processes that are killed."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from load_fakes import same
from torch_geometric.data import HeteroData

from hasp import HASPData, HASPLoader, Schema
from hasp.errors import CorruptPart, HaspError
from hasp.load.ring import Ring
from hasp.load.ring_loader import RingLoader

EEL = ("title", "co", "title")
OPTIONS: dict[str, Any] = {
    "shuffle": True, "seed": 3, "edge_label_index": EEL, "neg_sampling": "binary", "disjoint_train_ratio": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> HASPData:
    generator = torch.Generator().manual_seed(0)
    data = HeteroData()
    data["title"].x = torch.randn(200, 6, generator=generator)
    data["genre"].num_nodes = 5
    data[EEL].edge_index = torch.randint(200, (2, 900), generator=generator)
    data["title", "has", "genre"].edge_index = torch.stack([torch.arange(200), torch.arange(200) % 5])
    root = tmp_path_factory.mktemp("ring") / "parts"
    return HASPData(data, Schema(entity="title", eel=[EEL]), num_parts=7, root=root, log=False)


def epochs(loader: Any, count: int = 2) -> Iterator[HeteroData]:
    for _ in range(count):
        for found in loader:
            yield found.clone()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"copy": False}, {"persistent_workers": True}, {"batch_size": 3, "parts_per_step": 6}])
def test_the_same_batches_as_without_workers(parts: HASPData, workers: int, options: dict[str, Any]) -> None:
    own = {k: v for k, v in options.items() if k not in ("copy", "persistent_workers")}
    want = list(epochs(HASPLoader(parts, **OPTIONS, **own)))
    loader = RingLoader(parts, num_workers=workers, ring_bytes=1 << 17, **OPTIONS, **options)
    assert loader.num_workers == workers
    found = list(epochs(loader))
    assert len(found) == len(want)
    for a, b in zip(found, want, strict=True):
        same(a, b)


def drop_everything(batch: HeteroData) -> HeteroData:
    for found in gc.get_objects():
        if type(found).__name__ == "_Crew":
            found.__del__()
    return batch


def test_two_loaders_do_not_close_each_other(parts: HASPData) -> None:
    """A forked worker holds copies of what its trainer had, the rings of other loaders among them."""
    first = RingLoader(parts, num_workers=1, ring_bytes=1 << 15, persistent_workers=True, **OPTIONS)
    begun = iter(first)
    one = next(begun)
    second = list(RingLoader(parts, num_workers=2, ring_bytes=1 << 17, transform=drop_everything, **OPTIONS))
    for a, b, c in zip([one, *begun], second, HASPLoader(parts, **OPTIONS), strict=True):
        same(a, c)
        same(b, c)


def test_without_workers_it_is_the_loader(parts: HASPData) -> None:
    for a, b in zip(RingLoader(parts, **OPTIONS), HASPLoader(parts, **OPTIONS), strict=True):
        same(a, b)


@pytest.mark.parametrize("persistent", [False, True])
def test_state_and_a_break(parts: HASPData, persistent: bool) -> None:
    want = list(HASPLoader(parts, **OPTIONS))
    loader = RingLoader(parts, num_workers=2, ring_bytes=1 << 17, persistent_workers=persistent, **OPTIONS)
    for i, _found in enumerate(loader):
        if i == 2:
            break
    state = loader.state_dict()
    assert (state["epoch"], state["step"]) == (0, 3)
    for a, b in zip(loader, want, strict=True):  # the epoch from its beginning; what was asked for before is passed over
        same(a, b)
    other = RingLoader(parts, num_workers=1, ring_bytes=1 << 17, **OPTIONS)
    other.load_state_dict(state)
    for a, b in zip(other, want[3:], strict=True):
        same(a, b)


def test_tensors_are_one_s_own_unless_told_otherwise(parts: HASPData) -> None:
    kept = list(RingLoader(parts, num_workers=1, ring_bytes=3 << 13, prefetch_factor=8, **OPTIONS))  # it goes round
    for a, b in zip(kept, HASPLoader(parts, **OPTIONS), strict=True):
        same(a, b)
    loader = iter(RingLoader(parts, num_workers=1, ring_bytes=3 << 13, prefetch_factor=8, copy=False, **OPTIONS))
    first = next(loader)
    before = first["title"].x.clone()
    for _ in loader:
        pass
    assert not torch.equal(first["title"].x, before)


def die(batch: HeteroData) -> HeteroData:
    if 3 in batch.part_id.tolist():
        os.kill(os.getpid(), signal.SIGKILL)
    return batch


def fail(batch: HeteroData) -> HeteroData:
    if 3 in batch.part_id.tolist():
        raise CorruptPart("part 3 is broken; restore it")
    return batch


def divide(batch: HeteroData) -> HeteroData:
    raise ZeroDivisionError("by nothing")


def hang(batch: HeteroData) -> HeteroData:
    time.sleep(30)
    return batch


def strange(batch: HeteroData) -> HeteroData:
    batch["title"].strange = {1, 2}
    return batch


def shared_memory() -> set[str]:
    return (
        {p.name for p in Path("/dev/shm").iterdir() if "hasp" in p.name or p.name.startswith("psm")}
        if Path("/dev/shm").is_dir()
        else set()
    )


@pytest.mark.parametrize(
    ("transform", "options", "kind", "message"),
    [
        (die, {}, HaspError, r"worker \d of the loader died \(exit code -9"),
        (fail, {}, CorruptPart, "part 3 is broken; restore it"),
        (divide, {}, HaspError, "ZeroDivisionError: by nothing"),
        (hang, {"timeout": 0.3}, HaspError, "nothing came through a ring for"),
        (strange, {}, HaspError, "'strange' is set"),
        (None, {"ring_bytes": 4096}, HaspError, "does not fit a ring of 4,096; raise ring_bytes"),
    ],
)
def test_failures_reach_the_loop(
    parts: HASPData, transform: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    before, others = shared_memory(), set(multiprocessing.active_children())
    loader = RingLoader(parts, num_workers=2, transform=transform, **{"ring_bytes": 1 << 17, **options}, **OPTIONS)
    with pytest.raises(kind, match=message):
        list(loader)
    assert shared_memory() <= before
    assert set(multiprocessing.active_children()) <= others


def train(root: str, pids: Any) -> None:
    """Loads until it is stopped; ``pids`` gets its workers'."""
    loader = RingLoader(root, num_workers=2, ring_bytes=1 << 17, persistent_workers=True)
    try:
        for _ in range(10_000):
            for _batch in loader:
                pids[:] = [p.pid or 0 for p in multiprocessing.active_children()]
                time.sleep(0.01)
    except KeyboardInterrupt:
        os._exit(130)  # not even a finaliser runs


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_trainer(parts: HASPData, how: int) -> None:
    context = multiprocessing.get_context("fork")
    pids = context.Array("q", 2)
    before = shared_memory()
    trainer: Any = context.Process(target=train, args=(str(parts.store.root), pids))  # type: ignore[union-attr]
    trainer.start()
    for _ in range(500):
        if all(pids[:]):
            break
        time.sleep(0.02)
    workers = [int(p) for p in pids[:]]
    assert all(workers)
    os.kill(trainer.pid, how)
    trainer.join(20)
    for _ in range(300):
        if not any(alive(w) for w in workers):
            break
        time.sleep(0.02)
    assert not any(alive(w) for w in workers) and shared_memory() <= before


def test_refusals(parts: HASPData) -> None:
    with pytest.raises(HaspError, match="at least 128 bytes"):
        Ring(100)
    with pytest.raises(HaspError, match="does not fit a ring of 128"):
        Ring(128).write(b"x" * 65)
    for options in ({"filter_per_worker": False}, {"pin_memory": True}):
        with pytest.raises(HaspError, match="leave filter_per_worker and pin_memory out"):
            RingLoader(parts, num_workers=1, **options)
