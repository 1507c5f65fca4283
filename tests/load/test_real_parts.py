"""Parts of the real builder, on disk and in memory, load as those that are made by the definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from load_fakes import SCHEMA, build, random_graph, same

from hasp.data import HASPData
from hasp.load.loader import HASPLoader
from hasp.load.merge import merge

CO = ("title", "co", "title")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    data = random_graph(np.random.default_rng(3), {"title": 50, "game": 12, "genre": 6, "talent": 9}, 200)
    root = tmp_path_factory.mktemp("parts") / "four"
    on_disk = HASPData(data, SCHEMA, num_parts=4, root=root)
    in_memory = HASPData(data, SCHEMA, num_parts=4)
    expected = build(data, {t: on_disk.node_part(t) for t in ("title", "game")}, 4)
    return data, root, on_disk, in_memory, expected


@pytest.mark.parametrize("chosen", [[], [0], [3], [2, 0], [0, 1, 2, 3]])
def test_every_store_gives_the_same_batch(made: Any, chosen: list[int]) -> None:
    _, root, on_disk, in_memory, expected = made
    want = merge(expected, chosen, epoch=2)
    for parts in (on_disk, in_memory):
        same(merge(parts.store, chosen, epoch=2), want)
    loader = HASPLoader(root)
    loader.set_epoch(2)
    same(loader(chosen), want)
    if len(chosen) == 1:
        same(on_disk[chosen[0]], merge(expected, chosen))


@pytest.mark.parametrize("per_worker", [True, False])
def test_workers_read_the_folder(made: Any, per_worker: bool) -> None:
    _, root, on_disk, _, expected = made
    make: dict[str, Any] = {"shuffle": True, "edge_label_index": CO, "neg_sampling": "triplet"}
    want = list(HASPLoader(expected, 2, **make))
    for parts in (on_disk, str(root), Path(root)):
        loader = HASPLoader(parts, 2, num_workers=1, filter_per_worker=per_worker, **make)
        for a, b in zip(loader, want, strict=True):
            same(a, b)


def test_spawned_workers_open_the_folder_again(made: Any) -> None:
    _, _, on_disk, _, expected = made
    loader = HASPLoader(on_disk, shuffle=True, num_workers=1, multiprocessing_context="spawn")
    for a, b in zip(loader, HASPLoader(expected, shuffle=True), strict=True):
        same(a, b)


def test_ranks_share_a_step_by_bytes(made: Any) -> None:
    _, _, on_disk, _, _ = made
    size = [on_disk.part(p).num_bytes for p in range(4)]
    ranks = [HASPLoader(on_disk, rank=r, world_size=2, parts_per_step=4) for r in range(2)]
    load = [sum(size[p] for b in loader for p in b.part_id.tolist()) for loader in ranks]
    dearest, *others = sorted(size, reverse=True)
    assert sorted(load, reverse=True) in (
        [dearest + others[2], others[0] + others[1]],
        [others[0] + others[1], dearest + others[2]],
    )


def test_the_source_and_the_store_are_not_changed_by_loading(made: Any) -> None:
    data, _, on_disk, _, _ = made
    before = [{k: v.clone() for k, v in on_disk.part(p).to_tensors().items()} for p in range(4)]
    copy = data.clone()
    for q in (1, 3):
        list(HASPLoader(on_disk, q, edge_label_index=CO, neg_sampling="binary", disjoint_train_ratio=0.5))
        list(HASPLoader(on_disk, q, input_nodes=("title", torch.arange(0, 50, 3))))
    same(data, copy)
    for p in range(4):
        for key, value in on_disk.part(p).to_tensors().items():
            assert value.numpy().tobytes() == before[p][key].numpy().tobytes(), key
