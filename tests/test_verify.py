"""Verify: clean builds are clean, and every kind of damage is found although all checksums agree again."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from damaged import a_graph, build, check, damage, drop_edge, edit, rename_edge, resign, schema, swap_columns, swap_entities
from hypothesis import given
from strategies import cases

from hasp.data import HASPData
from hasp.graph import Graph
from hasp.store.manifest import Manifest
from hasp.verify import verify


@pytest.fixture
def built(tmp_path) -> tuple[Path, Graph]:
    return build(tmp_path)


def test_a_clean_build_is_clean(built):
    root, graph = built
    assert check(root) == []
    assert check(root, graph) == []
    steps = []
    verify(HASPData.open(root).store, graph, lambda stage, done, total: steps.append((done, total)))
    assert steps == [(i, steps[-1][1]) for i in range(steps[-1][1] + 1)]


@given(cases())
def test_any_build_in_memory_is_clean(case):
    entities = sum(case.data[t].num_nodes for t in case.schema.entity)
    for num_parts in {1, min(3, entities)}:
        parts = HASPData(case.data, case.schema, num_parts=num_parts)
        assert verify(parts.store, Graph.from_hetero_data(case.data)) == []


def relabel(tensors):
    labels = tensors["node_part/title"]
    labels[0] = (labels[0] + 1) % 4


def self_pair(tensors):
    tensors["pairs/title__co__title"][0, 1] = tensors["pairs/title__co__title"][0, 0]


def move_ptr(tensors):
    tensors["ptr/title__co__title"][1] = 0


DAMAGES = {
    # name: (file, damage, found without the source, words of the problem)
    "entity id out of range": ("part-00001.safetensors", edit("n_id/title", 0, 99), True, "n_id of title lie in 0..59"),
    "negative entity id": ("part-00001.safetensors", edit("n_id/title", 0, -1), True, "entry 0 is -1"),
    "entities out of order": ("part-00001.safetensors", swap_entities, True, "n_id of title ascends"),
    "an entity twice": (
        "part-00001.safetensors",
        lambda t: edit("n_id/title", 1, t["n_id/title"][0])(t),
        True,
        "owned by one part",
    ),
    "a label that is wrong": ("node_part.safetensors", relabel, True, "by node_part, but listed here"),
    "a label out of range": ("node_part.safetensors", edit("node_part/title", 5, 4), True, "lie in 0..3, but entry 5 is 4"),
    "local id out of range": (
        "part-00002.safetensors",
        edit("edge_index/title__has__genre", (0, 0), 15),
        True,
        "edge_index[0] of title__has__genre lie in 0..14",
    ),
    "semantic id out of range": (
        "part-00002.safetensors",
        edit("edge_index/title__has__genre", (1, -1), 5),
        True,
        "edge_index[1] of title__has__genre lie in 0..4",
    ),
    "edge id out of range": (
        "part-00002.safetensors",
        edit("e_id/title__has__genre", 0, 90),
        True,
        "e_id of title__has__genre",
    ),
    "an edge twice": (
        "part-00002.safetensors",
        lambda t: edit("e_id/user__saw__title", -1, t["e_id/user__saw__title"][0])(t),
        True,
        "user__saw__title: every edge is in",
    ),
    "an edge lost": ("part-00002.safetensors", drop_edge, True, "is in none (1 such)"),
    "edges unsorted": ("part-00002.safetensors", swap_columns, True, "sorted by destination"),
    "edge ids exchanged": ("part-00000.safetensors", rename_edge, False, "of edge"),
    "another end": (
        "part-00000.safetensors",
        lambda t: edit("edge_index/title__has__genre", (0, 0), (int(t["edge_index/title__has__genre"][0, 0]) + 1) % 15)(t),
        False,
        "the source of edge",
    ),
    "another attribute": ("part-00000.safetensors", edit("node/title/x", (2, 1), 0.5), False, "x of title: row 2"),
    "another edge attribute": (
        "part-00003.safetensors",
        edit("edge/title__co__title/time", 1, -4),
        False,
        "time of title__co__title",
    ),
    "another shared attribute": ("shared.safetensors", edit("node/genre/weight", 4, 2.0), False, "weight of genre: row 4"),
    "another shared edge": (
        "shared.safetensors",
        edit("e_id/genre__sub__genre", 0, 7),
        True,
        "e_id of genre__sub__genre lie in 0..5",
    ),
    "another sampled edge": (
        "sampled.safetensors",
        lambda t: edit("edge_index/user__knows__user", (0, 3), (int(t["edge_index/user__knows__user"][0, 3]) + 1) % 20)(t),
        False,
        "user__knows__user: the source of edge",
    ),
    "a cut edge within a part": ("cut.safetensors", self_pair, True, "pairs are of two parts"),
    "cut groups broken": ("cut.safetensors", move_ptr, True, "ptr ascends from 0"),
    "a row beyond its part in the cut": (
        "cut.safetensors",
        edit("edge_index/title__co__title", (0, 0), 15),
        True,
        "row 15 of a part with 15 title",
    ),
    "another end in the cut": (
        "cut.safetensors",
        lambda t: edit("edge_index/title__co__title", (0, 0), (int(t["edge_index/title__co__title"][0, 0]) + 1) % 15)(t),
        False,
        "title__co__title: the source of edge",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_found_although_the_checksums_agree(built, kind):
    root, graph = built
    name, change, alone, words = DAMAGES[kind]
    damage(root, name, change)
    for source in (None, graph) if alone else (graph,):
        problems = check(root, source)
        assert any(words in p for p in problems), problems
        assert all(": " in p and "\n" not in p for p in problems)


@pytest.mark.parametrize("name", ["part-00002.safetensors", "cut.safetensors", "shared.safetensors", "node_part.safetensors"])
def test_a_flipped_byte_is_found(built, name):
    root, graph = built
    data = bytearray((root / name).read_bytes())
    data[-1] ^= 1
    (root / name).write_bytes(data)
    problems = check(root, graph)
    assert any(name in p and "blake3" in p for p in problems), problems


REPORTED = [
    ("cut", lambda v: {**v, "title__co__title": v["title__co__title"] + 1}),
    ("entities", lambda v: {"title": [v["title"][0] + 1, *v["title"][1:]]}),
    ("edges", lambda v: {**v, "title__has__genre": v["title__has__genre"][::-1]}),
    ("linked", lambda v: [v[0] - 1, *v[1:]]),
    ("degree_groups", lambda v: [[0, 0, 0], *v[1:]]),
    ("part_bytes", lambda v: [b + 1 for b in v]),
    ("cut_bytes", lambda v: v + 1),
    ("quota", lambda v: {"user": 5}),
    ("loaded_bytes", lambda v: [b + 1 for b in v]),
]


@pytest.mark.parametrize(("field", "change"), REPORTED, ids=[f for f, _ in REPORTED])
def test_a_report_that_lies_is_found(built, field, change):
    root, graph = built
    report = dict(Manifest.from_bytes((root / "manifest.json").read_bytes()).report)
    resign(root, report={**report, field: change(report[field])})
    problems = check(root, graph)
    assert len(problems) == 1 and problems[0].startswith(f"manifest.json: report: {field} is "), problems


def test_another_source_is_found(built):
    root, graph = built
    x = graph.node_attrs["title"]["x"].clone()
    x[3, 0] = 9.0
    problems = check(root, dataclasses.replace(graph, node_attrs={**graph.node_attrs, "title": {"x": x}}))
    assert "fingerprint" in problems[0] and any("x of title" in p for p in problems)
    problems = check(root, dataclasses.replace(graph, num_nodes={**graph.num_nodes, "genre": 6}))
    assert any("num_nodes of the source" in p for p in problems)
    assert any("the ids of title" in p for p in check(root, dataclasses.replace(graph, ids={"title": np.arange(60)})))


def test_an_uneven_fill_is_found(tmp_path):
    """Labels brought from elsewhere, in a manifest that claims the fill of this library."""
    graph = a_graph()
    labels = np.zeros(60, dtype=np.int32)
    labels[-2:] = [1, 1]
    with pytest.warns(UserWarning, match="NaN"):
        HASPData(graph, schema(), num_parts=2, node_part={"title": labels}, root=tmp_path)
    assert check(tmp_path, graph) == []
    config = Manifest.from_bytes((tmp_path / "manifest.json").read_bytes()).config
    resign(tmp_path, config={**config, "backend": "metis"})
    assert any("within one entity of the smallest, 2, got one of 58" in p for p in check(tmp_path))
