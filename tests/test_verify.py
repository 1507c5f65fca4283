"""Verify: clean builds are clean, and every kind of damage is found although all checksums agree again."""

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from strategies import cases

import hasp.verify
from hasp.data import HASPData
from hasp.graph import Graph
from hasp.marks import Marks
from hasp.schema import Schema
from hasp.store.framing import specs
from hasp.store.manifest import FileEntry, Manifest
from hasp.verify import verify

CO, HAS, SUB, SAW, KNOWS = (
    ("title", "co", "title"),
    ("title", "has", "genre"),
    ("genre", "sub", "genre"),
    ("user", "saw", "title"),
    ("user", "knows", "user"),
)


def a_graph() -> Graph:
    rng = np.random.default_rng(0)

    def ends(a: int, b: int, count: int):
        return torch.from_numpy(rng.integers(0, a, count)), torch.from_numpy(rng.integers(0, b, count))

    nodes = {"title": 60, "genre": 5, "user": 20}
    edges = {CO: ends(40, 40, 160), HAS: ends(60, 5, 90), SUB: ends(5, 5, 6), SAW: ends(20, 60, 50), KNOWS: ends(20, 20, 30)}
    x = torch.from_numpy(rng.random((60, 3), dtype=np.float32))
    x[7, 1] = torch.nan  # equal to itself, as far as copies go
    return Graph(
        nodes,
        edges,
        {"title": {"x": x}, "genre": {"weight": torch.arange(5) / 4}},
        {CO: {"time": torch.arange(160)}},
        ids={"title": np.arange(60) + 1000},
    )


def schema() -> Schema:
    return Schema(entity="title", eel=[CO], sample={"user": 4})


@pytest.fixture
def built(tmp_path) -> tuple[Path, Graph]:
    with pytest.warns(UserWarning, match="NaN"):
        HASPData(a_graph(), schema(), num_parts=4, root=tmp_path / "parts")
    return tmp_path / "parts", a_graph()


def check(root: Path, source: Graph | None = None, threads: int = 0) -> list[str]:
    return verify(HASPData.open(root, verify="size").store, source, threads=threads)


def resign(root: Path, name: str | None = None, **changes) -> None:
    """Make the manifest agree with what lies in the folder."""
    path = root / "manifest.json"
    manifest = Manifest.from_bytes(path.read_bytes())
    if name is not None:
        data = (root / name).read_bytes()
        entry = FileEntry(len(data), blake3(data).hexdigest(), specs(load_file(root / name)))
        changes["files"] = {**manifest.files, name: entry}
    path.write_bytes(dataclasses.replace(manifest, **changes).to_bytes())


def damage(root: Path, name: str, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = {k: v.clone() for k, v in load_file(root / name).items()}
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, root / name)
    resign(root, name)


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


def edit(key: str, at, value) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key][at] = value

    return change


def swap_columns(tensors):
    """Two edges change places: still the same edges, no longer sorted."""
    for key in ("edge_index/title__has__genre", "e_id/title__has__genre"):
        value = tensors[key]
        value[..., [0, -1]] = value[..., [-1, 0]]


def drop_edge(tensors):
    for key in [k for k in tensors if k.split("/")[1] == "title__has__genre"]:
        tensors[key] = tensors[key][..., 1:]


def rename_edge(tensors):
    """The first two edges swap their ids: each id still once, each with the wrong ends or order."""
    tensors["e_id/title__co__title"][[0, -1]] = tensors["e_id/title__co__title"][[-1, 0]]


def swap_entities(tensors):
    tensors["n_id/title"][[0, 1]] = tensors["n_id/title"][[1, 0]]


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


def give_away(root: Path, giver: int, taker: int) -> int:
    """The first entity of one part, and its first link to a genre, take the places of another part's; whom they push out."""
    mine, theirs = (load_file(root / f"part-{p:05d}.safetensors") for p in (giver, taker))

    def take(tensors):
        tensors["n_id/title"][0] = mine["n_id/title"][0]
        tensors["e_id/title__has__genre"][0] = mine["e_id/title__has__genre"][0]

    damage(root, f"part-{taker:05d}.safetensors", take)
    return int(theirs["n_id/title"][0])


SEVERAL = {
    # name: ((file, damage) in the order in which they are told, with words of its first line)
    "parts": (
        ("part-00000.safetensors", swap_entities, "n_id of title ascends"),
        ("part-00001.safetensors", edit("edge_index/title__has__genre", (0, 0), 15), "edge_index[0] of title__has__genre"),
        ("part-00002.safetensors", swap_columns, "sorted by destination"),
        ("part-00003.safetensors", edit("e_id/title__has__genre", 0, 90), "e_id of title__has__genre"),
    ),
    "blocks and parts": (
        ("cut.safetensors", edit("e_id/title__co__title", 0, 160), "e_id of title__co__title lie in 0..159"),
        ("shared.safetensors", edit("node/genre/weight", 4, 2.0), "weight of genre"),
        ("sampled.safetensors", edit("e_id/user__knows__user", -1, 30), "e_id of user__knows__user"),
        ("part-00001.safetensors", edit("n_id/title", 0, 99), "n_id of title lie in 0..59"),
        ("part-00003.safetensors", drop_edge, "is in none"),
    ),
    "given away": (("part-00002.safetensors", swap_columns, "sorted by destination"),),
}


@pytest.mark.parametrize("many", [0, 1 << 25], ids=["kernel", "numpy"])
@pytest.mark.parametrize("kind", SEVERAL)
def test_several_damages_are_told_in_order_at_any_number_of_threads(built, kind, many, monkeypatch):
    monkeypatch.setattr("hasp.verify._MANY", many)
    root, graph = built
    if kind == "given away":
        owners = dict.fromkeys((give_away(root, 0, 1), give_away(root, 1, 3)), 0)
        owners[int(load_file(root / "part-00003.safetensors")["n_id/title"][0])] = 3  # that of part 0, by way of part 1
    for name, change, _ in SEVERAL[kind]:
        damage(root, name, change)
    for source in (None, graph):
        problems = check(root, source, 1)
        for threads in (2, 3, 8):
            assert check(root, source, threads) == problems
        if source is not None:
            told = [[p.startswith(name) and words in p for p in problems] for name, _, words in SEVERAL[kind][:4]]
            at = [found.index(True) for found in told]
            assert at == sorted(at)
            assert any(SEVERAL[kind][-1][2] in p for p in problems)
    if kind == "given away":
        e_id = int(load_file(root / "part-00000.safetensors")["e_id/title__has__genre"][0])
        twice = f"title__has__genre: every edge is in one place, but edge {e_id} is in another file too (1 such)"
        assert [p for p in problems if "in another file" in p] == [f"part-0000{p}.safetensors: {twice}" for p in (1, 3)]
        first = min(owners)
        text = f"entity {first} has {owners[first]} (3 such)"
        assert f"parts: title: every entity is owned by one part, but {text}" in problems


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:title.x")
def test_as_many_parts_in_memory_as_threads_and_one_more(threads, monkeypatch):
    begun, most, lock = set(), [], threading.Lock()

    def look(known, block):
        with lock:
            begun.add(block)
            most.append(len(begun))
        return real_look(known, block)

    def take(check, found):
        time.sleep(0.01)  # all the others have time to get ahead
        real_take(check, found)
        with lock:
            begun.remove(found.block)

    real_look, real_take = hasp.verify.look, hasp.verify._Check.take
    monkeypatch.setattr("hasp.verify.look", look)
    monkeypatch.setattr("hasp.verify._Check.take", take)
    assert verify(HASPData(a_graph(), schema(), num_parts=12).store, threads=threads) == []
    assert max(most) <= threads + 1 and not begun


@given(st.data(), st.integers(0, 40), st.booleans())
def test_marks(draws, count, kernel):
    """Against a set; an id twice in one call was not marked before that call."""
    calls = draws.draw(st.lists(st.lists(st.integers(0, count - 1), max_size=12), max_size=4)) if count else [[]]
    marks, met = Marks(count, kernel), set()
    for ids in calls:
        again = marks.add(np.array(ids, draws.draw(st.sampled_from([np.int32, np.int64]))))
        assert again.tolist() == [at for at, i in enumerate(ids) if i in met]
        met.update(ids)
        missing = sorted(set(range(count)) - met)
        assert marks.missing() == (len(missing), missing[0] if missing else 0)


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
