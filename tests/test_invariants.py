"""What is always true of parts (docs/invariants.md, 1 to 5 and 9), over random graphs, in memory and on disk."""

from collections import Counter

import pytest
from builds import WHERE, built, check_batch, edge_ids, equal, labels
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import report as slow_report
from naive import rng as slow_rng
from naive.bucket import part_of_edge
from strategies import cases, num_parts_for

BUILDS = cases().flatmap(lambda case: st.tuples(st.just(case), num_parts_for(case)))
BALANCE = st.sampled_from(["nodes", "nodes", "edges", "bytes"])


@pytest.mark.parametrize("where", WHERE)
@settings(max_examples=40)
@given(BUILDS, BALANCE)
def test_1_who_is_where(where, build, balance):
    """Every entity is owned by exactly one part; every semantic node is in every part; a sampled type has
    min(quota, count) nodes, those of the definition."""
    case, num_parts = build
    with built(case, num_parts, where, balance=balance) as parts:
        assert len(parts) == parts.num_parts == num_parts
        own = {t: [parts.part(p).nodes[t].n_id.tolist() for p in range(num_parts)] for t in case.roles.entity}
        for node_type, lists in own.items():
            count = case.graph.num_nodes[node_type]
            assert sorted(i for ids in lists for i in ids) == list(range(count))
            assert all(ids == sorted(ids) for ids in lists)
            assert labels(parts)[node_type] == [next(p for p in range(num_parts) if i in lists[p]) for i in range(count)]
        for p in range(num_parts):
            batch = parts[p]
            for node_type, role in case.roles.nodes.items():
                ids, count = batch[node_type].n_id.tolist(), case.graph.num_nodes[node_type]
                if role == "entity":
                    assert ids == own[node_type][p]
                elif role == "semantic":
                    assert ids == list(range(count))
                else:
                    quota = case.schema.sample[node_type]
                    assert len(ids) == min(quota, count)
                    assert ids == slow_rng.sample(0, p, 0, node_type, count, quota)


@pytest.mark.parametrize("where", WHERE)
@settings(max_examples=40)
@given(BUILDS)
def test_2_edges_are_the_edges_of_the_source(where, build):
    """``n_id[edge_index]`` of a part, as stored and as loaded, equals the global edge at ``e_id``, and every attribute
    the source's row; edges are sorted by (destination, e_id)."""
    case, num_parts = build
    graph = case.graph
    source = {e: case.data[e].edge_index.t().tolist() for e in case.data.edge_types}
    with built(case, num_parts, where) as parts:
        for p in range(num_parts):
            stored, batch = parts.part(p), parts[p]
            for node_type, nodes in stored.nodes.items():
                assert set(nodes.attrs) == set(graph.node_attrs[node_type])
                for key, value in nodes.attrs.items():
                    assert equal(value, graph.node_attrs[node_type][key][nodes.n_id.long()])
            for edge_type, edges in stored.edges.items():
                e_id = edges.e_id.tolist()
                assert edge_ids(case, stored, edge_type) == [tuple(source[edge_type][e]) for e in e_id]
                assert set(edges.attrs) == set(graph.edge_attrs[edge_type])
                for key, value in edges.attrs.items():
                    assert equal(value, graph.edge_attrs[edge_type][key][edges.e_id.long()])
                order = list(zip(edges.edge_index[1].tolist(), e_id, strict=True))
                assert order == sorted(order)
            for edge_type in batch.edge_types:
                ends = [batch[t].n_id[i] for t, i in zip(edge_type[::2], batch[edge_type].edge_index, strict=True)]
                found = list(zip(*(v.tolist() for v in ends), strict=True))
                assert found == [tuple(source[edge_type][e]) for e in batch[edge_type].e_id.tolist()]


@pytest.mark.parametrize("where", WHERE)
@settings(max_examples=40)
@given(BUILDS)
def test_3_where_edges_are(where, build):
    """Every entity-semantic edge is in exactly one part, every semantic-semantic edge in all; an edge between entities is
    in exactly one part or in the cut, there under the parts of its two ends."""
    case, num_parts = build
    with built(case, num_parts, where) as parts:
        part_of = labels(parts)
        holders = {e: Counter() for e in case.data.edge_types}
        for p in range(num_parts):
            batch = parts[p]
            for edge_type in batch.edge_types:
                holders[edge_type].update(batch[edge_type].e_id.tolist())
        for edge_type, role in case.roles.edges.items():
            ends = case.data[edge_type].edge_index.t().tolist()
            if role == "semantic-semantic":
                assert holders[edge_type] == Counter(dict.fromkeys(range(len(ends)), num_parts))
            elif role == "entity-semantic":
                assert holders[edge_type] == Counter(range(len(ends)))
            elif role in ("eel", "entity-entity"):
                cut = parts.store.cut.edges[edge_type]
                assert holders[edge_type] + Counter(cut.e_id.tolist()) == Counter(range(len(ends)))
                where_to = [part_of_edge(edge_type, s, d, part_of) for s, d in ends]
                assert sorted(cut.e_id.tolist()) == [e for e, p in enumerate(where_to) if p == "cut"]
                _check_cut(parts, cut, edge_type, ends, part_of)
            elif "entity" in (case.roles.nodes[edge_type[0]], case.roles.nodes[edge_type[2]]):
                # On disk such an edge is in the part of its entity, whatever the sample.
                stored = [parts.part(p).edges[edge_type].e_id.tolist() for p in range(num_parts)]
                where_to = [part_of_edge(edge_type, s, d, part_of) for s, d in ends]
                assert [sorted(e) for e in stored] == [[e for e, q in enumerate(where_to) if q == p] for p in range(num_parts)]


def _check_cut(parts, cut, edge_type, ends, part_of):
    """Pairs ascend and are not empty, and their edges' rows are rows of the two parts, by (destination, e_id)."""
    pairs, ptr = [tuple(p) for p in cut.pairs.tolist()], cut.ptr.tolist()
    assert pairs == sorted(set(pairs)) and ptr[0] == 0 and ptr[-1] == cut.num_edges
    for i, (a, b) in enumerate(pairs):
        assert ptr[i] < ptr[i + 1] and a != b
        source_ids = parts.part(a).nodes[edge_type[0]].n_id.tolist()
        destination_ids = parts.part(b).nodes[edge_type[2]].n_id.tolist()
        order = []
        for k in range(ptr[i], ptr[i + 1]):
            s, d = cut.edge_index[:, k].tolist()
            e = int(cut.e_id[k])
            assert [source_ids[s], destination_ids[d]] == ends[e]
            assert (part_of[edge_type[0]][ends[e][0]], part_of[edge_type[2]][ends[e][1]]) == (a, b)
            order.append((d, e))
        assert order == sorted(order)


@pytest.mark.parametrize("where", WHERE)
@settings(max_examples=40)
@given(BUILDS, BALANCE)
def test_4_nothing_is_lost_and_the_report_is_right(where, build, balance):
    """The union of all blocks is the input, edge for edge; the report's numbers equal a recount."""
    case, num_parts = build
    with built(case, num_parts, where, balance=balance) as parts:
        store = parts.store
        blocks = [*(store.part(p) for p in range(num_parts)), store.shared, store.sampled, store.cut]
        for edge_type in case.data.edge_types:
            found = [e for b in blocks if edge_type in b.edges for e in b.edges[edge_type].e_id.tolist()]
            assert sorted(found) == list(range(case.data[edge_type].edge_index.size(1))), edge_type
        for block in (store.shared, store.sampled):
            for edge_type, edges in block.edges.items():
                ends = case.data[edge_type].edge_index[:, edges.e_id.long()]
                assert edges.edge_index.tolist() == ends.tolist()
                for key, value in edges.attrs.items():
                    assert equal(value, case.graph.edge_attrs[edge_type][key][edges.e_id.long()])
        for edge_type, edges in store.cut.edges.items():
            for key, value in edges.attrs.items():
                assert equal(value, case.graph.edge_attrs[edge_type][key][edges.e_id.long()])
        report = parts.report()
        recount = slow_report.recount(case.data, case.roles.nodes, case.schema.eel, labels(parts), num_parts)
        for name, value in recount.items():
            assert getattr(report, name) == value, name
        sizes = [sum(t.nbytes for t in b.to_tensors().values()) for b in blocks]
        assert report.part_bytes == sizes[:num_parts]
        assert [report.shared_bytes, report.sampled_bytes, report.cut_bytes] == sizes[num_parts:]


@settings(max_examples=120)
@given(BUILDS, st.integers(0, 3))
def test_5_parts_are_as_even_as_the_linked_entities_allow(build, seed):
    """The largest and the smallest part, all entity types together, differ by at most one entity exactly if that is
    possible without moving a linked entity: with n = q * N + r entities, no part has more than q + 1 linked entities (q
    if r = 0) and at most r parts have q + 1."""
    case, num_parts = build
    with built(case, num_parts, seed=seed) as parts:
        part_of = labels(parts)
        linked = slow_report.neighbours(case.data, case.schema.eel)
        size, load = [0] * num_parts, [0] * num_parts
        for node_type, of_type in part_of.items():
            for i, p in enumerate(of_type):
                size[p] += 1
                load[p] += (node_type, i) in linked
        q, r = divmod(sum(size), num_parts)
        allowed = max(load) <= q + (r > 0) and sum(n > q for n in load) <= r
        assert (max(size) - min(size) <= 1) == allowed
        if not linked:
            assert allowed


@pytest.mark.parametrize("where", WHERE)
@settings(max_examples=25)
@given(cases(), st.integers(0, 2))
def test_9_one_part_is_the_input(where, case, epoch):
    """``num_parts=1`` gives the input graph up to the order of edges (full quotas), attributes included."""
    case = _full(case)
    with built(case, 1, where) as parts:
        assert all(edges.num_edges == 0 for edges in parts.store.cut.edges.values())
        _check_whole(case, parts[0])


@pytest.mark.parametrize("where", WHERE)
@settings(max_examples=40)
@given(BUILDS, st.data())
def test_9_merging_parts(where, build, draws):
    """Any parts merged, in any order and epoch, are the subgraph they induce; all of them with full quotas the input."""
    from hasp.load.merge import merge

    case, num_parts = build
    chosen = draws.draw(st.lists(st.integers(0, num_parts - 1), unique=True, max_size=4))
    epoch = draws.draw(st.integers(0, 3))
    with built(case, num_parts, where) as parts:
        batch = merge(parts.store, chosen, epoch=epoch)
        check_batch(case, parts, batch, chosen, epoch)
        backwards = merge(parts.store, chosen[::-1], epoch=epoch)
        for a, b in zip(batch.stores, backwards.stores, strict=True):
            assert list(a.keys()) == list(b.keys())
    with built(_full(case), num_parts, where) as parts:
        _check_whole(_full(case), merge(parts.store, range(num_parts), epoch=epoch))


@settings(max_examples=30)
@given(BUILDS)
def test_rows_scattered_back_are_in_the_order_of_the_source(build):
    case, num_parts = build
    with built(case, num_parts) as parts:
        for node_type in case.roles.entity:
            rows = [parts[p][node_type].n_id.view(-1, 1).repeat(1, 2) for p in range(num_parts)]
            back = parts.scatter_back(node_type, rows)
            assert back.tolist() == [[i, i] for i in range(case.graph.num_nodes[node_type])]


def _full(case):
    """The same case with every sampled type whole in every part."""
    from dataclasses import replace

    quota = {t: int(case.data[t].num_nodes) for t in case.schema.sample}
    return replace(case, schema=replace(case.schema, sample=quota))


def _check_whole(case, batch):
    for node_type, count in case.graph.num_nodes.items():
        assert batch[node_type].n_id.tolist() == list(range(count))
        for key, value in case.graph.node_attrs[node_type].items():
            assert equal(batch[node_type][key], value)
    for edge_type in case.data.edge_types:
        index, store = case.data[edge_type].edge_index, batch[edge_type]
        order = sorted(range(index.size(1)), key=lambda e: (int(index[1, e]), e))
        assert store.e_id.tolist() == order
        assert store.edge_index.tolist() == index[:, order].tolist()
        for key, value in case.graph.edge_attrs[edge_type].items():
            assert equal(store[key], value[order])
