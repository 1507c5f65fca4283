"""Verify on threads: what it says, and in which order, is the same at any number of them."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from damaged import a_graph, build, check, damage, drop_edge, edit, schema, swap_columns, swap_entities
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import hasp.verify
from hasp.data import HASPData
from hasp.graph import Graph
from hasp.marks import Marks
from hasp.verify import verify


@pytest.fixture
def built(tmp_path) -> tuple[Path, Graph]:
    return build(tmp_path)


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
