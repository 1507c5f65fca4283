"""Graph: a view of the user's arrays, every rule of the input, and the fingerprint."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from strategies import cases
from torch_geometric.data import Data, HeteroData

from hasp import Graph, HASPData, HaspError, HaspWarning, InvalidGraph, Schema

LIKE = ("t", "like", "t")


@given(cases())
def test_repr_has_a_line_per_type_with_its_size_and_attributes_and_no_value(case):
    graph = case.graph
    whole = HASPData(graph, case.schema, num_parts=1, log=False).part(0)
    for shown, nodes, edges in (
        (graph, graph.node_attrs, graph.edge_attrs),
        (whole, {t: v.attrs for t, v in whole.nodes.items()}, {e: v.attrs for e, v in whole.edges.items()}),
    ):
        head, *lines = repr(shown).split("\n")
        assert head in ("Graph", "Part 0") and len(lines) == len(nodes) + len(edges)
        for line, (key, attrs) in zip(lines, [*nodes.items(), *edges.items()], strict=True):
            edge = isinstance(key, tuple)
            count = graph.num_edges(key) if edge else graph.num_nodes[key]
            assert (
                line.startswith(f"  {' '.join(key) if edge else key} ") and f" {count:,} {'edges' if edge else 'nodes'}" in line
            )
            assert all(name in line for name in attrs) and "tensor(" not in line and len(line) < 400


def hetero(edges=((0, 1), (1, 2)), count=3, **attrs):
    data = HeteroData()
    data["t"].num_nodes = count
    for key, value in attrs.items():
        data["t"][key] = value
    data[LIKE].edge_index = torch.tensor(edges).reshape(-1, 2).t()
    return data


@given(cases())
def test_nothing_is_lost_and_nothing_is_copied(case):
    graph = case.graph
    graph.check()
    for node_type in case.data.node_types:
        assert graph.num_nodes[node_type] == case.data[node_type].num_nodes
        keys = set(case.data[node_type].keys()) - {"num_nodes"}
        assert set(graph.node_attrs[node_type]) == keys
        for key in keys:
            assert graph.node_attrs[node_type][key].data_ptr() == case.data[node_type][key].data_ptr()
    for edge_type in case.data.edge_types:
        index = case.data[edge_type].edge_index
        assert torch.equal(torch.stack(graph.edges[edge_type]), index) and graph.num_edges(edge_type) == index.size(1)
        assert graph.edges[edge_type][0].data_ptr() == index.data_ptr()
        assert set(graph.edge_attrs[edge_type]) == set(case.data[edge_type].keys()) - {"edge_index"}
    back = graph.to_hetero_data()
    assert back.metadata() == case.data.metadata()
    assert Graph.from_hetero_data(back).fingerprint() == graph.fingerprint() or any(
        s.dtype == torch.int32 for s, _ in graph.edges.values()
    )


def test_memory_maps_and_parameters_are_taken_as_they_are(tmp_path):
    table = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=(3, 4))
    table[:] = np.arange(12).reshape(3, 4)
    table.flush()
    read_only = np.memmap(tmp_path / "x", dtype=np.float32, mode="r", shape=(3, 4))
    weight = torch.nn.Parameter(torch.ones(3, 2))
    graph = Graph.from_hetero_data(hetero(x=read_only, w=weight))
    assert torch.equal(graph.node_attrs["t"]["x"], torch.arange(12.0).view(3, 4))
    assert graph.node_attrs["t"]["w"].data_ptr() == weight.data_ptr() and not graph.node_attrs["t"]["w"].requires_grad
    graph.check()


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.uint16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int8, torch.uint64],
)
def test_every_dtype_passes_the_check_and_counts_in_the_fingerprint(dtype):
    zero, one = (Graph.from_hetero_data(hetero(x=torch.tensor([[0], [v], [0]]).to(dtype))) for v in (0, 1))
    zero.check()
    assert zero.fingerprint() != one.fingerprint()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Data(x=torch.ones(2, 1)), r"HASP cuts a HeteroData, got Data; use Data.to_heterogeneous\(\)"),
        (lambda: [1, 2], "HASP cuts a HeteroData, got list"),
    ],
)
def test_what_is_no_hetero_data(make, text):
    with pytest.raises(InvalidGraph, match=text):
        Graph.from_hetero_data(make())


def test_a_node_type_without_a_count():
    data = HeteroData()
    data["t"].note = "hello"
    data["t", "like", "t"].edge_index = torch.zeros(2, 0, dtype=torch.long)
    with pytest.raises(InvalidGraph, match=r"node type 't' has no count; set data\['t'\]\.num_nodes"):
        Graph.from_hetero_data(data)


def test_edges_without_an_edge_index():
    data = hetero()
    del data[LIKE].edge_index
    data[LIKE].edge_weight = torch.ones(2)
    with pytest.raises(InvalidGraph, match=r"has no edge_index \(it has \['edge_weight'\]\)"):
        Graph.from_hetero_data(data)


@pytest.mark.parametrize("index", [torch.zeros(3, 2, dtype=torch.long), torch.zeros(4, dtype=torch.long), [[0, 1], [1, 2]]])
def test_an_edge_index_of_another_shape(index):
    data = hetero()
    data[LIKE].edge_index = index
    with pytest.raises(InvalidGraph, match=r"has shape \[2, E\], got .*; transpose or convert it"):
        Graph.from_hetero_data(data)


def test_a_sparse_attribute():
    with pytest.raises(InvalidGraph, match=r"t\.x is a sparse tensor, and parts hold dense rows; store it as an edge type"):
        Graph.from_hetero_data(hetero(x=torch.eye(3).to_sparse()))


def test_a_tensor_on_another_device():
    with pytest.raises(InvalidGraph, match=r"t\.x is on meta; call data\.cpu\(\) first"):
        Graph.from_hetero_data(hetero(x=torch.ones(3, 1, device="meta")))
    data = hetero()
    data[LIKE].edge_index = data[LIKE].edge_index.to("meta")
    with pytest.raises(InvalidGraph, match=r"edge_index of .* is on meta; call data\.cpu\(\) first"):
        Graph.from_hetero_data(data)


def test_an_attribute_name_with_a_slash():
    with pytest.raises(HaspError, match="attribute names have no '/', got 'a/b'; rename it"):
        Graph.from_hetero_data(hetero(**{"a/b": torch.ones(3)}))


def test_what_cannot_be_cut_is_named_once():
    data = hetero(title=["a", "b", "c"], scalar=torch.tensor(3.0), wrong=torch.ones(5))
    data[LIKE].note = "x"
    with pytest.warns(HaspWarning, match=r"not carried into parts: t\.title, t\.scalar, t\.wrong, t__like__t\.note"):
        graph = Graph.from_hetero_data(data)
    assert graph.node_attrs["t"] == {}


def test_labels_of_a_split_are_left_to_the_loader():
    data = hetero()
    data[LIKE].edge_label = torch.ones(2)
    data[LIKE].edge_label_index = torch.zeros(2, 2, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Graph.from_hetero_data(data).edge_attrs[LIKE] == {}


@pytest.mark.parametrize(
    ("edges", "text"),
    [
        ([(0, 3)], r"ids of 't' in .* lie in 0\.\.2, got row 0: 3; correct them or raise num_nodes of 't'"),
        ([(0, 1), (-1, 2)], r"lie in 0\.\.2, got row 1: -1; correct them"),
        ([(0, 2**40)], r"got row 0: 1099511627776"),
    ],
)
def test_ids_out_of_range(edges, text):
    with pytest.raises(InvalidGraph, match=text):
        Graph.from_hetero_data(hetero(edges)).check()


def test_at_most_five_bad_ids_are_listed():
    with pytest.raises(InvalidGraph) as caught:
        Graph.from_hetero_data(hetero([(9, 0)] * 50)).check()
    assert str(caught.value).count("row ") == 5 and "\n" not in str(caught.value)


def test_bad_ids_late_in_a_long_list(monkeypatch):
    monkeypatch.setattr("hasp.graph._STEP", 4)
    with pytest.raises(InvalidGraph, match="row 9: 7"):
        Graph.from_hetero_data(hetero([(0, 1)] * 9 + [(7, 1)])).check()


def test_ids_that_are_no_whole_numbers():
    with pytest.raises(InvalidGraph, match=r"ids are integers, but those of .* are torch.float32; cast them"):
        Graph.from_hetero_data(hetero(((0.0, 1.0),))).check()


def test_an_edge_to_a_type_without_nodes():
    graph = Graph({"t": 2, "s": 0}, {("t", "of", "s"): (torch.tensor([0]), torch.tensor([0]))})
    with pytest.raises(InvalidGraph, match=r"ids of 's' .* lie in 0\.\.-1"):
        graph.check()


@pytest.mark.parametrize(
    ("graph", "text"),
    [
        (Graph({}, {}), "at least one node, got none; check that the source is not empty"),
        (Graph({"t": 0}, {}), "at least one node, got none"),
        (Graph({"t": 2}, {LIKE: (torch.tensor([0]), torch.tensor([0, 1]))}), "have one length, got .*; repair the table"),
        (Graph({"t": 2}, {("t", "of", "s"): (torch.tensor([0]), torch.tensor([0]))}), "ends in 's', but the node types are"),
        (Graph({"t": 2}, {}, {"t": {"x": torch.ones(3)}}), r"t\.x has one row per item, got \(3,\) for 2 nodes; repair"),
        (Graph({"t": 2}, {}, {"s": {"x": torch.ones(3)}}), "attributes name the node type 's'"),
        (
            Graph({"t": 2}, {LIKE: (torch.tensor([0]), torch.tensor([0]))}, {}, {LIKE: {"w": torch.ones(2)}}),
            r"t__like__t\.w has one row per item, got \(2,\) for 1 edges; repair the table",
        ),
    ],
)
def test_a_graph_that_breaks_a_rule(graph, text):
    with pytest.raises(InvalidGraph, match=text):
        graph.check()


@pytest.mark.parametrize(
    ("values", "dtype", "text"),
    [
        ([torch.nan, 0.0, torch.nan], torch.float32, r"t\.x holds 2 NaN values; they are kept as they are"),
        ([torch.inf, -torch.inf, 0.0], torch.float64, r"t\.x holds 2 infinite values; they are kept"),
        ([torch.inf, torch.nan, -torch.inf], torch.bfloat16, r"t\.x holds 1 NaN and 2 infinite values; they are kept"),
        ([70_000.0, 1.0, 65_504.0], torch.float16, r"holds 1 infinite values \(float16 ends at 65,504: what is larger becomes"),
        ([torch.nan, 448.0, 448.0], torch.float8_e4m3fn, r"t\.x holds 1 NaN values; they are kept"),
    ],
)
def test_what_is_not_finite_is_a_warning_with_the_column_and_the_counts(values, dtype, text):
    x = torch.tensor(values).to(dtype)
    with pytest.warns(HaspWarning, match=text) as found:
        counted = Graph.from_hetero_data(hetero(x=x)).check()
    assert len(found) == 1 and counted == {"t.x": (int(x.float().isnan().sum()), int(x.float().isinf().sum()))}


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 65_504.0), (torch.float32, 3e38), (torch.float64, 1.7e308)])
def test_large_values_whose_sum_is_not_finite_are_no_warning(dtype, most):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Graph.from_hetero_data(hetero(x=torch.full((3,), most, dtype=dtype))).check() == {}


def test_what_is_not_finite_stands_in_the_manifest_and_the_report(tmp_path):
    x = torch.tensor([torch.inf, 0.0, torch.nan])
    data = hetero(x=x)
    with pytest.warns(HaspWarning, match="1 NaN and 1 infinite"):
        parts = HASPData(data, Schema(entity="t"), num_parts=2, root=tmp_path / "parts", log=False)
    assert HASPData.open(tmp_path / "parts").report().not_finite == {"t.x": [1, 1]} and parts.verify(data) == []
    assert "not finite      t.x: 1 NaN, 1 infinite" in str(parts.report())
    clean = HASPData(hetero(x=torch.ones(3)), Schema(entity="t"), num_parts=2, log=False)
    assert "not_finite" not in clean.manifest.report and "not finite" not in str(clean.report())
    with pytest.warns(HaspWarning):
        mine = HASPData(data, Schema(entity="t"), num_parts=2, log=False)
    assert mine.manifest.report == parts.manifest.report
    report = {k: v for k, v in mine.manifest.report.items() if k != "not_finite"}
    mine.store.manifest = dataclasses.replace(mine.manifest, report=report)
    assert mine.verify(data) == ["manifest.json: report: not_finite is of [], recounted for ['t.x']"]


@given(cases(most_nodes=5))
def test_any_change_changes_the_fingerprint(case):
    graph = case.graph
    base = graph.fingerprint()
    assert Graph.from_hetero_data(case.data.clone()).fingerprint() == base
    changed = []
    for node_type, count in graph.num_nodes.items():
        if not graph.node_attrs[node_type]:
            changed.append(Graph({**graph.num_nodes, node_type: count + 1}, graph.edges, graph.node_attrs, graph.edge_attrs))
        for key, value in graph.node_attrs[node_type].items():
            if value.numel():
                attrs = {**graph.node_attrs[node_type], key: _flipped(value)}
                changed.append(Graph(graph.num_nodes, graph.edges, {**graph.node_attrs, node_type: attrs}, graph.edge_attrs))
    for edge_type, (source, destination) in graph.edges.items():
        if source.numel():
            changed.append(
                Graph(graph.num_nodes, {**graph.edges, edge_type: (_flipped(source), destination)}, graph.node_attrs)
            )
        for key, value in graph.edge_attrs[edge_type].items():
            if value.numel():
                attrs = {**graph.edge_attrs[edge_type], key: _flipped(value)}
                changed.append(Graph(graph.num_nodes, graph.edges, graph.node_attrs, {**graph.edge_attrs, edge_type: attrs}))
    assert base not in {g.fingerprint() for g in changed}


def test_ids_names_and_a_given_partition_count_in_the_fingerprint():
    graph = Graph({"t": 2}, {})
    with_ids = Graph({"t": 2}, {}, ids={"t": np.array(["a", "b"])})
    prints = {
        graph.fingerprint(),
        with_ids.fingerprint(),
        Graph({"t": 2}, {}, names={"t": np.array(["a", "b"])}).fingerprint(),
        graph.fingerprint({"t": np.array([0, 1], np.int32)}),
        graph.fingerprint({"t": np.array([1, 0], np.int32)}),
    }
    assert len(prints) == 5


def test_a_build_checks_first_and_names_num_parts():
    with pytest.raises(InvalidGraph, match=r"lie in 0\.\.2"):
        HASPData(hetero([(0, 9)]), Schema(entity="t"), num_parts=2)
    with pytest.raises(HaspError, match="num_parts=4 is more than the 3 entities of t; lower num_parts"):
        HASPData(hetero(), Schema(entity="t"), num_parts=4)
    with pytest.raises(HaspError, match="num_parts=0: at least 1 part"):
        HASPData(hetero(), Schema(entity="t"), num_parts=0)


def _flipped(value):
    """The same tensor with its last bit changed."""
    flat = torch.empty(value.numel(), dtype=value.dtype).copy_(value.reshape(-1))
    data = flat.view(torch.uint8)
    data[-1] ^= 1
    return flat.view(value.shape)
