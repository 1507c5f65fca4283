"""HASPLoader in the hands of others: PyG's wrappers and mixins, Lightning, a foreign sampler."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from load_fakes import example, parts_of, same, tag
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler
from torch_geometric.loader import CachedLoader, PrefetchLoader, ZipLoader

from hasp.errors import HaspError
from hasp.load.loader import HASPLoader
from hasp.load.merge import merge

CO = ("title", "co", "title")
# Two cores are enough for four workers of this size; torch says otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


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
    silent = torch.cuda.is_available() or torch.__version__ < "2.6"  # torch 2.5 does not say that there is nothing to pin for
    with nullcontext() if silent else pytest.warns(UserWarning, match="pin_memory"):
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
