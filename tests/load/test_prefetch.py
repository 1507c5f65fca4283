"""Batches that a thread makes ahead, and files that the system reads ahead: the same batches, sooner."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from load_fakes import example, same
from torch_geometric.data import HeteroData

from hasp.data import HASPData
from hasp.errors import HaspError
from hasp.load.iteration import Ahead, touch
from hasp.load.loader import HASPLoader
from hasp.load.sampler import PartSampler
from hasp.schema import Schema
from hasp.store.disk import Disk
from hasp.store.read import FolderStore

LINK = ("title", "co", "title")


@pytest.mark.parametrize("prefetch", [1, 3, 50])
@pytest.mark.parametrize("per_worker", [True, False])
def test_the_same_batches_come(prefetch: int, per_worker: bool) -> None:
    _, store = example()
    settings: dict[str, Any] = {"batch_size": 2, "shuffle": True, "edge_label_index": LINK, "neg_sampling": "binary"}
    plain = HASPLoader(store, filter_per_worker=per_worker, **settings)
    ahead = HASPLoader(store, filter_per_worker=per_worker, prefetch=prefetch, **settings)
    for _ in range(3):
        for mine, theirs in zip(plain, ahead, strict=True):
            same(mine, theirs)
        assert plain.state_dict() == ahead.state_dict()


def test_the_state_counts_what_the_loop_has_got() -> None:
    _, store = example()
    loader = HASPLoader(store, prefetch=4, shuffle=True)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    assert state["step"] == 1
    rest = [batch.part_id.tolist() for batch in iterator]
    again = HASPLoader(store, prefetch=2, shuffle=True)
    again.load_state_dict(state)
    assert [batch.part_id.tolist() for batch in again] == rest
    assert len(rest) == 5


def test_an_abandoned_pass_is_begun_again() -> None:
    _, store = example()
    loader = HASPLoader(store, prefetch=2)
    for _ in range(2):
        for batch in loader:
            assert batch.part_id.tolist() == [0]
            break
    assert [batch.part_id.tolist() for batch in loader] == [[p] for p in range(6)]
    assert loader.epoch == 1


def test_work_is_done_on_another_thread_and_no_further_than_asked() -> None:
    made: list[int] = []
    threads = set()

    def numbers() -> Iterator[int]:
        for i in range(10):
            threads.add(threading.current_thread().name)
            made.append(i)
            yield i

    ahead = Ahead(numbers(), 2)
    assert made == []
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    ahead._pool.submit(int).result()  # the thread has nothing left to do
    assert made == [0, 1, 2, 3, 4]
    assert list(ahead) == [3, 4, 5, 6, 7, 8, 9]
    assert list(ahead) == []  # it stays at its end
    assert len(threads) == 1
    assert threading.current_thread().name not in threads


def test_an_error_comes_where_its_batch_would() -> None:
    _, store = example()

    def fail(batch: HeteroData) -> HeteroData:
        if batch.part_id.tolist() == [2]:
            raise ValueError("part 2")
        return batch

    iterator = iter(HASPLoader(store, transform=fail, prefetch=5))
    assert [next(iterator).part_id.tolist() for _ in range(2)] == [[0], [1]]
    with pytest.raises(ValueError, match="part 2"):
        next(iterator)
    assert [batch.part_id.tolist() for batch in iterator] == [[3], [4], [5]]


@pytest.mark.parametrize("settings", [{"prefetch": -1}, {"prefetch": 2, "num_workers": 1}])
def test_prefetch_is_for_a_loader_without_workers(settings: dict[str, int]) -> None:
    _, store = example()
    with pytest.raises(HaspError, match=f"prefetch={settings['prefetch']} is a number of batches for num_workers=0"):
        HASPLoader(store, **settings)  # type: ignore[arg-type]


def test_a_loader_that_prefetches_is_pickled(tmp_path: Path) -> None:
    _folder(tmp_path)
    loader = HASPLoader(tmp_path, prefetch=1)
    again = pickle.loads(pickle.dumps(loader))
    assert again.prefetch == 1
    for mine, theirs in zip(loader, again, strict=True):
        same(mine, theirs)


def test_every_page_is_touched_once() -> None:
    batch = HeteroData()
    batch["title"].x = torch.zeros(3 * 4096 + 1, dtype=torch.uint8)
    batch["title"].empty = torch.zeros(0, 4)
    batch["title"].across = torch.zeros(4, 4).t()
    batch["title", "co", "title"].edge_index = torch.zeros(2, 1024, dtype=torch.int32)
    assert touch(batch) == 4 + 2
    assert touch([batch]) == 0  # not a batch of ours


@pytest.mark.parametrize("world_size", [1, 2])
def test_items_name_the_part_that_comes_in_the_next_batch(world_size: int) -> None:
    sampler = PartSampler(7, batch_size=2, parts_per_step=4, shuffle=True, rank=0, world_size=world_size)
    items = list(sampler)
    parts = [item.part for item in items]
    assert [item.later for item in items] == [*parts[2:], -1, -1]
    assert len(items) == len(sampler)


class Asked(Disk):
    """Remembers which files it was wished to read."""

    def __init__(self, resident: set[str]) -> None:
        self.there, self.asked, self.done = resident, list[str](), threading.Semaphore(0)
        self.fails = False

    def resident(self, path: Path) -> bool:
        if self.fails:
            raise OSError("no such thing")
        return path.name in self.there

    def ahead(self, path: Path, most: int) -> int:
        assert most > 0
        self.asked.append(path.name)
        self.done.release()
        return 0


def _folder(root: Path) -> None:
    data = HeteroData()
    data["title"].x = torch.arange(24.0).view(12, 2)
    ends = np.random.default_rng(0).integers(0, 12, (2, 30))
    data[LINK].edge_index = torch.from_numpy(ends)
    HASPData(data, Schema(entity="title"), num_parts=4, root=root, log=False)


def test_the_system_is_asked_for_the_next_parts_unless_it_has_them(tmp_path: Path) -> None:
    _folder(tmp_path)
    disk = Asked({"part-00000.safetensors", "part-00002.safetensors"})
    loader = HASPLoader(FolderStore.open(tmp_path, disk=disk))
    assert [batch.part_id.tolist() for batch in loader] == [[0], [1], [2], [3]]
    # Each part when the one before it is merged, and when its own turn has come and it is still not there.
    for _ in range(4):
        assert disk.done.acquire(timeout=10)
    assert sorted(disk.asked) == ["part-00001.safetensors"] * 2 + ["part-00003.safetensors"] * 2
    disk.fails = True
    assert len(list(loader)) == 4  # a wish that cannot be told is no error


def test_the_real_disk_is_asked(tmp_path: Path) -> None:
    _folder(tmp_path)
    disk, path = Disk(), tmp_path / "part-00000.safetensors"
    path.read_bytes()
    assert disk.resident(path) in (True, False)  # some file systems do not tell
    assert disk.ahead(path, 1 << 30) == path.stat().st_size
    with pytest.raises(FileNotFoundError):
        disk.resident(tmp_path / "part-00009.safetensors")
    with pytest.raises(FileNotFoundError):
        disk.ahead(tmp_path / "part-00009.safetensors", 1 << 30)


def test_every_byte_is_asked_for_in_wishes_that_linux_grants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a larger one it reads 128 KiB, where nobody set the device's read-ahead, and forgets the rest."""
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, at, size, advice: asked.append((at, size, advice)))
    path = tmp_path / "file"
    path.write_bytes(bytes(1_000_003))
    assert Disk().ahead(path, 1 << 30) == 1_000_003
    assert {advice for *_, advice in asked} == {os.POSIX_FADV_WILLNEED}
    assert [at for at, *_ in asked] == list(range(0, 1_000_003, 131_072)) and {size for _, size, _ in asked} == {131_072}
    asked.clear()
    assert Disk().ahead(path, 200_000) == 200_000 and [at for at, *_ in asked] == [0, 131_072]


def test_no_more_is_read_ahead_than_a_quarter_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(Asked):
        def ahead(self, path: Path, most: int) -> int:
            limits.append(most)
            super().ahead(path, most)
            return 300

    limits: list[int] = []
    _folder(tmp_path)
    disk = Counted(set())
    store = FolderStore.open(tmp_path, disk=disk)
    for free, limit in ((4000, 1000), (0, 1 << 40)):
        monkeypatch.setattr("hasp.store.read.available_bytes", lambda free=free: free)
        store.read_ahead([0, 1, 2])
        for _ in range(3):
            assert disk.done.acquire(timeout=10)
        assert limits[-3:] == [limit, limit - 300, limit - 600]
