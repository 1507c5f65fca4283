"""What is always true of batches (docs/invariants.md, 7, 8 and 10), over random graphs. The loader's own tests go deeper."""

import warnings
from collections import Counter

import pytest
import torch
from builds import WHERE, built, check_batch, edge_ids
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import cases, num_parts_for
from torch_geometric.data import HeteroData
from torch_geometric.transforms import RandomLinkSplit

from hasp import HASPData, HASPLoader, Schema
from hasp.load.merge import merge
from hasp.load.order import batches_per_rank, num_steps, parts_order, rank_batches, step_batches

BUILDS = cases().flatmap(lambda case: st.tuples(st.just(case), num_parts_for(case)))
LIKE = ("title", "like", "title")


def kind(batch):
    """Everything about a batch but its rows: types, attributes, dtypes, widths."""

    def one(key, value):
        return (key, value.dtype, _width(key, value)) if isinstance(value, torch.Tensor) else (key, type(value))

    return batch.metadata(), [[one(k, v) for k, v in store.items()] for store in batch.stores]


def _width(key, value):
    return (value.shape[0],) if key == "edge_index" else tuple(value.shape[1:])


@pytest.mark.parametrize("where", WHERE)
@settings(max_examples=30)
@given(BUILDS)
def test_7_every_batch_is_of_one_kind(where, build):
    """Single parts, merged parts and the padding batch agree in metadata, keys, dtypes and widths."""
    case, num_parts = build
    with built(case, num_parts, where) as parts:
        whole = kind(merge(parts.store, range(num_parts)))
        assert whole[0] == case.data.metadata()
        for chosen in ([], *([p] for p in range(num_parts)), [0, num_parts - 1] if num_parts > 1 else []):
            assert kind(merge(parts.store, chosen)) == whole
        padding = merge(parts.store, [])
        assert all(padding[t].num_nodes == 0 for t in case.roles.entity)


@settings(max_examples=30)
@given(BUILDS, st.integers(1, 3), st.integers(0, 2))
def test_7_8_an_epoch_of_the_loader(build, batch_size, epoch):
    """Batches are of one kind, induced by their parts, and the parts of an epoch are all parts, once."""
    case, num_parts = build
    with built(case, num_parts) as parts:
        loader = HASPLoader(parts, batch_size=batch_size, shuffle=True, seed=5)
        loader.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == -(-num_parts // batch_size)
        assert Counter(p for b in batches for p in b.part_id.tolist()) == Counter(range(num_parts))
        assert all(kind(b) == kind(batches[0]) for b in batches)
        for batch in batches:
            check_batch(case, parts, batch, batch.part_id.tolist(), epoch)


@settings(max_examples=200)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(0, 9), st.booleans())
def test_8_ranks_share_an_epoch(num_parts, batch_size, per_step, world_size, epoch, shuffle):
    """Over all ranks an epoch has every part once; every rank has as many batches in every step, padding included."""
    parts_per_step = batch_size * per_step
    cost = (torch.arange(num_parts) % 7).double().numpy()
    order = parts_order(3, epoch, num_parts, shuffle)
    seen = Counter()
    for step in range(num_steps(num_parts, parts_per_step)):
        batches = step_batches(order, step, batch_size, parts_per_step)
        shares = [rank_batches(batches, cost, rank, world_size) for rank in range(world_size)]
        expected = batches_per_rank(num_parts, step, batch_size, parts_per_step, world_size)
        assert [len(share) for share in shares] == [expected] * world_size
        in_step = Counter(int(p) for share in shares for batch in share for p in batch)
        assert in_step == Counter(order[step * parts_per_step : (step + 1) * parts_per_step].tolist())
        seen += in_step
    assert seen == Counter(range(num_parts))


def undirected(data, num_edges):
    """Titles with both directions of every like, and their distinct pairs."""
    source = torch.tensor(data).reshape(-1, 2).t()
    graph = HeteroData()
    graph["title"].x = torch.arange(num_edges).view(-1, 1).float()
    graph[LIKE].edge_index = torch.cat([source, source.flip(0)], dim=1)
    graph[LIKE].edge_weight = torch.arange(2.0 * len(data))
    return graph


PAIRS = st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda p: p[0] < p[1]), min_size=4, max_size=40).map(
    sorted
)


@settings(max_examples=40)
@given(PAIRS, st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_10_parts_of_the_training_edges_hold_no_other_edge(data, num_parts, seed):
    """A graph as PyG splits it: neither direction of a val or test edge, and no label of one, is in a part or in the cut."""
    torch.manual_seed(seed)
    split = RandomLinkSplit(num_val=0.2, num_test=0.2, is_undirected=True, edge_types=[LIKE], neg_sampling_ratio=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyG's, of graphs with fewer negatives than asked for
        train, val, test = split(undirected(data, 12))
    # Supervision that happens to have one row per edge must not pass for an attribute of the edges.
    train[LIKE].edge_label = torch.ones(train[LIKE].edge_index.size(1))
    parts = HASPData(train, Schema(entity="title", eel=[LIKE]), num_parts=num_parts)
    held_out = set()
    for data_ in (val, test):
        label = data_[LIKE].edge_label_index[:, data_[LIKE].edge_label > 0]
        held_out |= {frozenset(e) for e in label.t().tolist()}
    assume(held_out)
    inside = set()
    case = _Titles(parts)
    for p in range(num_parts):
        block = parts.part(p)
        inside |= {frozenset(e) for e in edge_ids(case, block, LIKE)}
        assert set(block.edges[LIKE].attrs) == {"edge_weight"} and set(block.nodes["title"].attrs) == {"x"}
    everything = merge(parts.store, range(num_parts))
    inside |= {frozenset(e) for e in everything[LIKE].edge_index.t().tolist()}
    assert not inside & held_out
    assert inside == {frozenset(e) for e in train[LIKE].edge_index.t().tolist()}
    assert set(parts.manifest.edge_attrs[LIKE]) == {"edge_weight"}


class _Titles:
    def __init__(self, parts):
        self.roles = parts.roles


@settings(max_examples=40)
@given(PAIRS, st.integers(1, 4), st.integers(1, 3), st.sampled_from([0.25, 0.5, 1.0]))
def test_10_disjoint_supervision_is_in_no_message(data, num_parts, batch_size, ratio):
    """With ``disjoint_train_ratio``, a supervised pair is in the batch's messages in neither direction, and no pair of the
    batch is lost: it either supervises or carries messages."""
    parts = HASPData(undirected(data, 12), Schema(entity="title", eel=[LIKE]), num_parts=num_parts)
    loader = HASPLoader(parts, batch_size=batch_size, edge_label_index=LIKE, disjoint_train_ratio=ratio)
    supervised = 0
    for batch in loader:
        messages = {frozenset(e) for e in batch[LIKE].edge_index.t().tolist()}
        label = batch[LIKE].edge_label_index.t().tolist()
        asked = {frozenset(e) for e in label}
        supervised += len(asked)
        assert len(asked) == len(label) and not asked & messages
        whole = merge(parts.store, batch.part_id.tolist())
        assert asked | messages == {frozenset(e) for e in whole[LIKE].edge_index.t().tolist()}
    if ratio == 1.0:
        kept = {e for b in HASPLoader(parts, batch_size=batch_size) for e in map(frozenset, _global(b))}
        assert supervised == len(kept)


def _global(batch):
    return [tuple(batch["title"].n_id[list(e)].tolist()) for e in batch[LIKE].edge_index.t().tolist()]
