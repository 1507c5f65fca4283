"""HASPLoader: a DataLoader like PyG's, with the same batches from any number of workers."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from load_fakes import example, parts_of, same, tag

from hasp.errors import HaspError
from hasp.load.loader import HASPLoader
from hasp.load.merge import merge

CO = ("title", "co", "title")
# Two cores are enough for four workers of this size; torch says otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.mark.parametrize("how", ["plain", "links", "seeds"])
def test_any_number_of_workers_gives_the_same_bytes(how: str) -> None:
    _, store = example()
    make: dict[str, Any] = {"shuffle": True, "seed": 3, "transform": tag}
    if how == "links":
        make |= {"edge_label_index": CO, "neg_sampling": "binary", "disjoint_train_ratio": 0.3}
    if how == "seeds":
        make |= {"input_nodes": ("title", torch.arange(0, 60, 2))}
    expected = list(HASPLoader(store, 2, **make))
    for workers in (1, 4):
        for per_worker in (True, False):
            loader = HASPLoader(store, 2, num_workers=workers, filter_per_worker=per_worker, **make)
            batches = list(loader)
            assert len(batches) == len(expected) == len(loader) == 3
            for a, b in zip(batches, expected, strict=True):
                same(a, b)


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_persistent_workers_follow_the_epoch(context: str, workers: int) -> None:
    _, store = example()
    make: dict[str, Any] = {"shuffle": True, "edge_label_index": CO, "neg_sampling": "binary"}
    loader = HASPLoader(store, num_workers=workers, persistent_workers=True, multiprocessing_context=context, **make)
    plain = HASPLoader(store, **make)
    for _ in range(3):
        for a, b in zip(loader, plain, strict=True):
            same(a, b)
    assert loader.epoch == plain.epoch == 3
    for batch in loader:  # a break in the middle leaves nothing behind
        first = batch
        break
    for a, b in zip(loader, plain, strict=True):
        same(a, b)
        if a.part_id.tolist() == first.part_id.tolist():
            same(a, first)


def test_an_epoch_has_every_part_once_and_the_next_is_another() -> None:
    _, store = example(num_parts=6)
    loader = HASPLoader(store, shuffle=True, seed=1)
    epochs = [parts_of(loader) for _ in range(4)]
    assert all(sorted(p for b in e for p in b) == list(range(6)) for e in epochs)
    assert len({str(e) for e in epochs}) == 4
    loader.set_epoch(1)
    assert parts_of(loader) == epochs[1] and loader.epoch == 2
    for _ in loader:
        break
    assert loader.epoch == 2 and parts_of(loader) == epochs[2]
    again = HASPLoader(store, shuffle=True, seed=1)
    assert [parts_of(again) for _ in range(4)] == epochs
    assert parts_of(HASPLoader(store, shuffle=True, seed=2)) != epochs[0]
    assert parts_of(HASPLoader(store, 4)) == [[0, 1, 2, 3], [4, 5]]
    assert parts_of(HASPLoader(store, 4, drop_last=True)) == [[0, 1, 2, 3]]


def test_sampled_types_are_drawn_anew_unless_told_otherwise() -> None:
    _, store = example()
    loader, fixed = HASPLoader(store), HASPLoader(store, resample=False)
    for epoch in range(3):
        for p, (a, b) in enumerate(zip(loader, fixed, strict=True)):
            same(a, merge(store, [p], epoch=epoch))
            same(b, merge(store, [p]))


def test_calling_merges_on_demand() -> None:
    _, store = example()
    loader = HASPLoader(store, transform=tag)
    expected = tag(merge(store, [3, 5]))
    for index in ([3, 5], (5, 3), torch.tensor([3, 5]), range(3, 6, 2)):
        same(loader(index), expected)
    loader.filter_per_worker = False
    same(loader([3, 5]), expected)
    same(loader(3), tag(merge(store, [3])))
    same(loader([]), tag(merge(store, [])))
    with pytest.raises(HaspError, match=r"numbered 0\.\.5"):
        loader([6])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        ({"batch_size": 0}, "batch_size is at least 1"),
        ({"batch_size": 2, "parts_per_step": 3}, "multiple of batch_size=2"),
        ({"rank": 0}, "come together"),
        ({"rank": 2, "world_size": 2}, "rank lies in 0..1"),
        ({"rank": 0, "world_size": 0}, "world_size is at least 1"),
    ],
)
def test_wrong_arguments_are_refused(make: Any, text: str) -> None:
    _, store = example()
    with pytest.raises(HaspError, match=text):
        HASPLoader(store, **make)
    with pytest.raises(HaspError, match="epochs count from 0"):
        HASPLoader(store).set_epoch(-1)
    with pytest.raises(HaspError, match="reads HASPData"):
        HASPLoader([1, 2])  # type: ignore[arg-type]


def test_a_loader_can_be_pickled_and_copied() -> None:
    _, store = example()
    for part in store.parts:  # plain pickle has no uint16 tensors (worker processes send them by another way)
        del part.nodes["title"].attrs["odd"]
    loader = HASPLoader(store, shuffle=True, edge_label_index=CO, neg_sampling="binary")
    for other in (pickle.loads(pickle.dumps(loader)), copy.copy(loader)):
        same(other([1, 2]), loader([1, 2]))


def test_two_iterations_at_once_do_not_disturb_each_other() -> None:
    _, store = example()
    loader = HASPLoader(store, shuffle=True)
    pairs = [(a.part_id.tolist(), b.part_id.tolist()) for a, b in zip(loader, loader, strict=True)]
    assert all(a == b for a, b in pairs) and len(pairs) == 6


def test_loading_compiles_nothing() -> None:
    # PyG imports numba where it finds it; here it, and the partitioner, cannot be found.
    code = (
        "import warnings; warnings.simplefilter('ignore'); import sys; sys.modules.update(numba=None, pymetis=None); "
        "import hasp.load.loader, hasp.store.read; "
        "sys.exit(any(m in sys.modules for m in ('hasp.build', 'hasp.kernels', 'hasp_models')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
