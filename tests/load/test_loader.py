"""HASPLoader: a DataLoader like PyG's, whose epochs can be stopped and resumed anywhere."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from load_fakes import example, same
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler
from torch_geometric.data import HeteroData
from torch_geometric.loader import CachedLoader, PrefetchLoader, ZipLoader

from hasp.errors import HaspError
from hasp.load.loader import HASPLoader
from hasp.load.merge import merge

CO = ("title", "co", "title")
# Two cores are enough for four workers of this size; torch says otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def parts_of(loader: Any) -> list[list[int]]:
    return [b.part_id.tolist() for b in loader]


def tag(batch: HeteroData) -> HeteroData:
    batch.tag = torch.tensor([batch["title"].num_nodes])
    return batch


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


def test_pyg_wrappers() -> None:
    _, store = example()
    loader = HASPLoader(store, shuffle=True)
    fresh = [merge(store, b, epoch=0) for b in parts_of(HASPLoader(store, shuffle=True))]
    for a, b in zip(PrefetchLoader(loader, torch.device("cpu")), fresh, strict=True):
        same(a, b)
    loader.set_epoch(0)
    cached = CachedLoader(loader, torch.device("cpu"))
    for _ in range(2):
        for a, b in zip(cached, fresh, strict=True):
            same(a, b)
    for per_worker in (True, False):
        for workers in (0, 2):
            pair = [HASPLoader(store, shuffle=True), HASPLoader(store, edge_label_index=CO, neg_sampling="binary")]
            zipped = ZipLoader(pair, filter_per_worker=per_worker, batch_size=2, num_workers=workers)
            got = list(zipped)
            assert [a.part_id.tolist() for a, _ in got] == [[0, 1], [2, 3], [4, 5]]
            for (a, b), parts in zip(got, [[0, 1], [2, 3], [4, 5]], strict=True):
                same(a, merge(store, parts))
                same(b, pair[1](parts))


def test_mixins_and_pinning() -> None:
    _, store = example()
    loader = HASPLoader(store, num_workers=2, multiprocessing_context="fork")
    with loader.enable_memory_log():
        assert len(list(loader)) == 6
    with loader.enable_cpu_affinity([0, 0]):
        assert len(list(loader)) == 6
    pinned = HASPLoader(store, pin_memory=True, filter_per_worker=False)
    with pytest.warns(UserWarning, match="pin_memory") if not torch.cuda.is_available() else pytest.MonkeyPatch.context():
        assert len(list(pinned)) == 6
    assert repr(loader) == "HASPLoader(6 parts, batch_size=1, shuffle=False, rank 0 of 1)"


def reinstantiate(loader: Any, sampler: Any, predicting: bool = False) -> Any:
    """What Lightning does to a DataLoader: a new one from the attributes named as the arguments of the constructor."""
    attrs = {k: v for k, v in vars(loader).items() if not k.startswith("_")}
    attrs["multiprocessing_context"] = loader.multiprocessing_context
    params = dict(inspect.signature(type(loader).__init__).parameters)
    params.update(inspect.signature(DataLoader.__init__).parameters)
    params.pop("self", None)
    names = {name for name, p in params.items() if name in attrs and p.default is not attrs[name]} | {"dataset"}
    kwargs = {k: v for k, v in attrs.items() if k in names}
    if predicting:
        inner = BatchSampler(sampler, batch_size=loader.batch_sampler.batch_size, drop_last=False)
        kwargs.update(sampler=None, shuffle=False, batch_sampler=Wrapped(inner), batch_size=1, drop_last=False)
    else:
        kwargs.update(sampler=sampler, shuffle=False, batch_sampler=None)
    required = {
        p.name
        for p in params.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty and p.name not in kwargs
    }
    assert not required
    return type(loader)(**kwargs)


class Wrapped:
    """Lightning's wrapper of a batch sampler, which remembers indices."""

    def __init__(self, inner: BatchSampler) -> None:
        self.inner = inner
        self.sampler = inner.sampler
        self.batch_size = inner.batch_size

    def __iter__(self) -> Any:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


@pytest.mark.parametrize("predicting", [False, True])
def test_lightning_makes_the_loader_again(predicting: bool) -> None:
    _, store = example()
    make: dict[str, Any] = {
        "shuffle": True, "seed": 5, "transform": tag, "edge_label_index": (CO, None), "neg_sampling": "binary",
        "disjoint_train_ratio": 0.2, "resample": False, "index_dtype": torch.int32, "filter_per_worker": False,
        "parts_per_step": 4,
    }  # fmt: skip
    loader = HASPLoader(store, 2, **make)
    assert isinstance(loader.sampler, DistributedSampler)  # so that Lightning leaves it in place
    loader.sampler.set_epoch(2)
    expected = list(loader)
    loader.sampler.set_epoch(2)
    again = reinstantiate(loader, loader.sampler, predicting)
    assert again.epoch == 2 and again.shuffle
    for a, b in zip(again, expected, strict=True):
        same(a, b)
    assert again.epoch == 3
    assert {**again.state_dict(), "epoch": 2} == {**HASPLoader(store, 2, **make).state_dict(), "epoch": 2}


def test_a_foreign_sampler_yields_parts() -> None:
    _, store = example()
    loader = HASPLoader(store, 2, sampler=torch.utils.data.SequentialSampler(range(3)))
    assert parts_of(loader) == [[0, 1], [2]] and loader.epoch == 1
    with pytest.raises(HaspError, match="leave sampler= out"):
        loader.state_dict()
    assert list(loader.dataset) == list(range(6))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), min_size=1, max_size=4),
    st.booleans(),
)
def test_a_run_resumes_anywhere_at_any_world_size(q: int, per: int, schedule: Any, drop_last: bool) -> None:
    """Ranks that stop after each has got some batches, then go on at another world size, see the same steps."""
    _, store = EXAMPLE
    make: dict[str, Any] = {"shuffle": True, "seed": 9, "drop_last": drop_last}
    alone = HASPLoader(store, q, parts_per_step=q * per, **make)
    wanted = [
        sorted(p for _ in range(alone.batches_in_step(s)) for p in next(it))
        for it in [iter(parts_of(alone))]
        for s in range(alone.steps_per_epoch)
    ]
    done: list[list[int]] = []
    state = None
    for world, more in [*schedule, (2, 10**6)]:
        ranks = [
            HASPLoader(store, q, rank=r, world_size=world, parts_per_step=q * per if r or not state else None, **make)
            for r in range(world)
        ]
        for loader in ranks:
            if state:
                loader.load_state_dict(state)
        iterators = [iter(loader) for loader in ranks]
        for _ in range(more):
            step = ranks[0].state_dict()["step"]
            if step == ranks[0].steps_per_epoch:
                break
            got = [p for it in iterators for _ in range(ranks[0].batches_in_step(step)) for p in next(it).part_id.tolist()]
            done.append(sorted(got))
        states = [json.loads(json.dumps(loader.state_dict())) for loader in ranks]
        assert all(s == states[0] for s in states)
        state = states[0]
    assert done == wanted


EXAMPLE = example(num_parts=7, titles=14, edges=10)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_state_counts_what_the_loop_got(workers: int) -> None:
    _, store = example()
    make: dict[str, Any] = {"shuffle": True, "num_workers": workers}
    whole = parts_of(HASPLoader(store, **make))
    loader = HASPLoader(store, **make)
    states = [loader.state_dict()]
    states.extend(loader.state_dict() for _ in loader)
    assert [s["step"] for s in states] == list(range(7)) and {s["epoch"] for s in states} == {0}
    states.append(loader.state_dict())
    assert (states[-1]["epoch"], states[-1]["step"]) == (1, 0)
    after = parts_of(loader)
    for i, state in enumerate(states[:7]):
        resumed = HASPLoader(store, **make)
        resumed.load_state_dict(state)
        resumed.set_epoch(0)  # as a training loop does; it must not undo the resumption
        assert parts_of(resumed) == whole[i:]
        assert parts_of(resumed) == after
    resumed = HASPLoader(store, **make)
    resumed.load_state_dict(states[3])
    for _ in resumed:
        break
    assert resumed.state_dict()["step"] == 4
    assert parts_of(resumed) == whole  # after a break, the epoch from its start


def test_half_a_step_is_done_again() -> None:
    _, store = example()
    loader = HASPLoader(store, parts_per_step=4)
    steps = [loader.state_dict()["step"] for _ in loader]
    assert steps == [0, 0, 0, 1, 1, 2]
    assert [loader.batches_in_step(s) for s in range(2)] == [4, 2]


def test_the_steps_of_the_state_are_taken_over() -> None:
    _, store = example()
    state = HASPLoader(store, rank=0, world_size=2).state_dict()
    assert state["parts_per_step"] == 2
    alone = HASPLoader(store)
    alone.load_state_dict(state)
    assert alone.steps_per_epoch == 3 and alone.batches_in_step(0) == 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fingerprint": "x"}, "fingerprint='x'"),
        ({"num_parts": 8}, "num_parts=8"),
        ({"seed": 4}, "seed=4, this loader has 0"),
        ({"batch_size": 2}, "batch_size=2"),
        ({"shuffle": True}, "shuffle=True"),
        ({"drop_last": True}, "drop_last=True"),
        ({"parts_per_step": 5}, "parts_per_step=5, this loader has 3"),
        ({"version": 9}, "version 1"),
        ({"step": 3}, "within an epoch of 2 steps"),
        ({"step": -1}, "within an epoch of 2 steps"),
        ({"epoch": -1}, "within an epoch"),
    ],
)
def test_a_state_of_something_else_is_refused(change: Any, text: str) -> None:
    _, store = example()
    loader = HASPLoader(store, parts_per_step=3)
    before = loader.state_dict()
    with pytest.raises(HaspError, match=text):
        loader.load_state_dict({**before, **change})
    with pytest.raises(HaspError, match="all its keys"):
        loader.load_state_dict({k: v for k, v in before.items() if k != "seed"})
    assert loader.state_dict() == before and parts_of(loader) == [[p] for p in range(6)]


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
