"""Inference part by part: equal to the whole graph's, whatever the parts, models and processes; resumed; by real processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mapreduce_graphs import EEL, model_of, parts_of, source
from train_graphs import small_parts

from hasp import HASPData
from hasp.errors import BuildLocked, HaspError
from hasp.graph import Graph
from hasp_models.importance import Neighborhoods, Walks
from hasp_models.infer import embed_all
from hasp_models.mapreduce import embed_parts
from hasp_models.part_layers import Piece, merge_pieces
from hasp_models.zoo.graph_model import embed
from hasp_models.zoo.pinsage import PinSage


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(0, 50),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2]),
    st.sampled_from(["scale", "both"]),
    st.sampled_from([None, ["title"], ["title", "genre"], ["genre"]]),
    st.booleans(),
)
def test_equal_to_the_whole_graph(
    tmp_path_factory: pytest.TempPathFactory,
    num_parts: int,
    seed: int,
    layers: int,
    heads: int,
    beta: str,
    update: list[str] | None,
    normalize: bool,
) -> None:
    graph = source(seed)
    parts = parts_of(graph, num_parts)
    options: dict[str, Any] = {"layers": layers, "heads": heads, "beta": beta, "update": update, "normalize": normalize}
    model = model_of(parts, **options).double()  # in which nothing but a mistake is larger than 1e-12
    want = embed_all(model, graph)
    found = embed_parts(model, parts, tmp_path_factory.mktemp("vectors"))
    for node_type, vectors in want.items():
        got = found.vectors(node_type)
        assert got.shape == vectors.shape
        assert torch.allclose(got, vectors, atol=1e-12, rtol=1e-12), (node_type, (got - vectors).abs().max())


def test_single_precision_differs_by_a_millionth_and_cut_links_matter(tmp_path: Path) -> None:
    graph = source()
    parts = parts_of(graph, 5)
    model = model_of(parts, 1.0, layers=3, heads=2, normalize=True)
    want, found = embed_all(model, graph), embed_parts(model, parts, tmp_path)
    for node_type, vectors in want.items():
        assert torch.allclose(found.vectors(node_type), vectors, atol=1e-6, rtol=0)
    cut_less = embed_all(model, without_cut(graph, parts))["title"]
    assert (cut_less - want["title"]).abs().max() > 0.01


@pytest.mark.parametrize("pooling", ["importance", "uniform"])
def test_pinsage_walks_over_cut_links(tmp_path: Path, pooling: str) -> None:
    graph = source()
    weight = torch.rand(graph.num_edges(EEL), generator=torch.Generator().manual_seed(1))
    graph = dataclasses.replace(graph, edge_attrs={**graph.edge_attrs, EEL: {"weight": weight}})
    parts = parts_of(graph, 5)
    torch.manual_seed(2)
    made = Neighborhoods("title", [EEL], 4, Walks(30, 3), pooling=pooling, weight="weight")
    model = PinSage.from_data(parts, dim=8, free=True, neighborhoods=made, normalize=True)
    found = embed_parts(model, parts, tmp_path / "vectors").vectors("title")
    assert torch.allclose(found, embed(model, graph, "title"), atol=1e-6, rtol=0)
    assert (found - embed(model, without_cut(graph, parts), "title")).abs().max() > 0.01
    with pytest.raises(HaspError, match="embed the whole graph at once"):
        made = Neighborhoods("title", [EEL], through=[("title", "has", "genre")])
        embed_parts(PinSage.from_data(parts, dim=8, neighborhoods=made), parts, tmp_path / "through")
    with pytest.raises(HaspError, match="which these parts lack"):
        bare = parts_of(source(), 5)
        embed_parts(model, bare, tmp_path / "bare")


def without_cut(graph: Graph, parts: HASPData) -> Graph:
    label = {t: parts.node_part(t) for t in ("title", "person")}
    edges, attrs = {}, {}
    for e, (a, b) in graph.edges.items():
        keep = label[e[0]][a] == label[e[2]][b] if e[0] in label and e[2] in label else torch.ones_like(a, dtype=torch.bool)
        edges[e] = (a[keep], b[keep])
        attrs[e] = {k: v[keep] for k, v in graph.edge_attrs.get(e, {}).items()}
    return dataclasses.replace(graph, edges=edges, edge_attrs=attrs)


def test_pieces_of_a_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    logit, message = torch.randn(50, generator=generator).double() * 400, torch.randn(50, 3, generator=generator).double()
    pieces = []
    for some in torch.split(torch.arange(50), 7):
        mass = logit[some].logsumexp(0)
        pieces.append(Piece(torch.tensor([1]), ((logit[some] - mass).exp() @ message[some])[None], mass[None, None]))
    out = merge_pieces(torch.zeros(3, 3).double(), 1, pieces)
    assert torch.allclose(out[1], logit.softmax(0) @ message) and not out[[0, 2]].any()


class Stop(Exception):
    pass


def bits(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


def test_stopped_after_any_part_it_goes_on(tmp_path: Path) -> None:
    graph = source()
    parts = parts_of(graph, 3)
    model = model_of(parts, layers=2)
    seen: list[tuple[int, int, int]] = []
    embed_parts(model, parts, tmp_path / "whole", progress=lambda *done: seen.append(done))
    assert seen == [(s, p + 1, 3) for s in range(3) for p in range(3)]
    want = bits(tmp_path / "whole")
    assert sorted(want) == [
        "common.safetensors",
        *(f"stage-2/part-0000{p}.safetensors" for p in range(3)),
        "stage-2/shared.safetensors",
    ]
    for stop in range(9):
        folder, left = tmp_path / str(stop), [stop]

        def count(stage: int, done: int, total: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Stop

        with pytest.raises(Stop):
            embed_parts(model, parts, folder, progress=count)
        again: list[tuple[int, int, int]] = []
        embed_parts(model, parts, folder, progress=lambda *done, again=again: again.append(done))
        assert [a[:2] for a in again] == [s[:2] for s in seen[stop + 1 :]]  # nothing is made twice
        assert bits(folder) == want
    embed_parts(model, parts, tmp_path / "whole", progress=lambda *done: pytest.fail("it was finished"))


def test_several_processes_give_the_same_bits(tmp_path: Path) -> None:
    parts = parts_of(source(), 4, tmp_path / "parts")
    model = model_of(parts, layers=2).train()
    embed_parts(model, parts, tmp_path / "one")
    done: list[tuple[int, int, int]] = []
    two = embed_parts(model, parts, tmp_path / "two", processes=2, progress=lambda *d: done.append(d))
    assert done == [(s, p + 1, 4) for s in range(3) for p in range(4)] and model.training
    assert bits(tmp_path / "two") == bits(tmp_path / "one")
    n_id = parts.part(1).nodes["title"].n_id
    assert n_id is not None and torch.equal(two.part(1)["title"], two.vectors("title")[n_id.long()])


def test_killed_and_interrupted(tmp_path: Path) -> None:
    parts = parts_of(source(), 12, tmp_path / "parts")
    script = Path(__file__).with_name("mapreduce_graphs.py")
    env = {**os.environ, "PYTHONPATH": str(script.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)
    assert process.stdout is not None
    gone: list[int] = []

    def workers() -> list[int]:
        assert process.stdout is not None
        while (words := process.stdout.readline().split())[:1] != ["workers"]:
            assert words, "it ended"
        gone.extend(int(w) for w in words[1:])
        return gone[-2:]

    def stopped() -> list[str]:
        assert process.stdout is not None
        while (words := process.stdout.readline().split())[:1] != ["stopped"]:
            assert words, "it ended"
        return words[1:]

    os.kill(workers()[0], signal.SIGKILL)  # one that maps
    assert stopped()[:7] == ["HaspError", "one", "of", "2", "mapping", "processes", "died"]
    workers()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert stopped() == ["KeyboardInterrupt"]
    workers()
    process.kill()  # the one that waits
    process.communicate(timeout=60)
    assert len(set(gone)) == 6
    for worker in gone:  # nobody is left behind
        for _ in range(200):
            if not alive(worker):
                break
            time.sleep(0.05)
        assert not alive(worker)
    model = model_of(parts, layers=2)
    embed_parts(model, parts, tmp_path / "vectors")
    embed_parts(model, parts, tmp_path / "straight")
    assert bits(tmp_path / "vectors") == bits(tmp_path / "straight")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_refusals(tmp_path: Path) -> None:
    parts = parts_of(source(), 2)
    model = model_of(parts, layers=1)
    with pytest.raises(HaspError, match="at least one process"):
        embed_parts(model, parts, tmp_path, processes=0)
    with pytest.raises(HaspError, match="these are in memory"):
        embed_parts(model, parts, tmp_path, processes=2)
    with pytest.raises(HaspError, match="got Linear"):
        embed_parts(torch.nn.Linear(2, 2), parts, tmp_path)
    with pytest.raises(HaspError, match="use the parts of its graph"):
        embed_parts(model, small_parts(), tmp_path / "other")
    found = embed_parts(model, parts, tmp_path / "vectors")
    with pytest.raises(HaspError, match="got 'book'"):
        found.vectors("book")
    with pytest.raises(HaspError, match="of other inputs"):
        embed_parts(model, parts_of(source(), 3), tmp_path / "vectors")
    with torch.no_grad():
        model.relation.add_(1)
    with pytest.raises(HaspError, match="of other weights"):
        embed_parts(model, parts, tmp_path / "vectors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(HaspError, match="choose an empty folder"):
        embed_parts(model, parts, tmp_path / "full")

    def again(*done: int) -> None:
        embed_parts(model, parts, tmp_path / "busy")

    with pytest.raises(BuildLocked):
        embed_parts(model, parts, tmp_path / "busy", progress=again)
