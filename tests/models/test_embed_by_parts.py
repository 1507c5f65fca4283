"""``hasp-models embed --by-parts``: the embeddings of the whole graph, without the whole graph; what bad input gets."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mapreduce_graphs import EEL, parts_of
from mapreduce_graphs import source as small
from typer.testing import CliRunner

from hasp import HASPData, Schema
from hasp.graph import Graph
from hasp.sources import open_source
from hasp.sources.reverse import add_reverse
from hasp_models.cli import app
from hasp_models.embed_by_parts import FOLDER, link_degrees
from hasp_models.embeddings import Embeddings, links_of
from hasp_models.infer import embed_all
from hasp_models.mapreduce import embed_parts
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.tiers import Tiers

LINK = ("title", "co_engaged", "title")


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def good(*arguments: Any) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def bad(*arguments: Any) -> str:
    result = call(*arguments)
    assert result.exit_code == 2 and not result.stdout and result.stderr.count("\n") == 1
    return str(result.stderr)


@pytest.fixture(scope="module", params=["plain", "tiers"])
def work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts, a run and its embeddings; with weights, the run has links in tiers."""
    folder = tmp_path_factory.mktemp(request.param)
    graph = add_reverse(open_source("synthetic:400"))
    if request.param == "tiers":
        weight = 0.1 + (torch.arange(graph.num_edges(LINK)) % 10) / 10.0
        graph = dataclasses.replace(graph, edge_attrs={**graph.edge_attrs, LINK: {"weight": weight}})
    parts = HASPData(graph, Schema(entity="title", eel=[LINK]), num_parts=3, root=folder / "parts", log=False)
    assert parts.store.cut.edges[LINK].num_edges
    good("train", folder / "parts", "--out", folder / "run", "--epochs", 2, "--dim", 8, "--merge", 3)
    assert (json.loads((folder / "run" / "run.json").read_text())["model"]["tiers"] is not None) == (request.param == "tiers")
    good("embed", folder / "run", folder / "parts", "--out", folder / "emb")
    return folder


def same(a: Embeddings, b: Embeddings) -> None:
    torch.testing.assert_close(a.vectors, b.vectors, rtol=1e-5, atol=1e-6)
    assert a.alone is not None and b.alone is not None
    torch.testing.assert_close(a.alone, b.alone, rtol=1e-5, atol=1e-6)
    assert torch.equal(a.degree, b.degree) and a.ids.tolist() == b.ids.tolist()
    assert (a.names is None) == (b.names is None) and (a.names is None or b.names is None or list(a.names) == list(b.names))
    left = [
        {k: v for k, v in dataclasses.asdict(e).items() if k not in ("vectors", "alone", "degree", "ids", "names")}
        for e in (a, b)
    ]
    assert left[0] == left[1]


def test_the_embeddings_of_the_whole_graph(work: Path, tmp_path: Path) -> None:
    done = good("embed", work / "run", work / "parts", "--out", tmp_path, "--by-parts")
    assert done == {**good("embed", work / "run", work / "parts", "--out", tmp_path / "whole"), "out": str(tmp_path)}
    same(Embeddings.load(tmp_path), Embeddings.load(work / "emb"))
    assert good("similar", tmp_path, "title 5", "-k", 3)["similar"]
    assert good("origin", tmp_path, work / "parts", work / "run")["links"]
    before = (tmp_path / "embeddings.safetensors").read_bytes()
    good("embed", work / "run", work / "parts", "--out", tmp_path, "--by-parts")  # done already: opened
    assert (tmp_path / "embeddings.safetensors").read_bytes() == before


def test_several_processes_and_an_interrupted_call(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hasp_models.mapreduce as mapreduce

    good("embed", work / "run", work / "parts", "--out", tmp_path / "one", "--by-parts")
    want = (tmp_path / "one" / "embeddings.safetensors").read_bytes()
    real, left = mapreduce.save_tensors, [4]

    def stops(path: Path, tensors: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(path, tensors)

    with monkeypatch.context() as patched:
        patched.setattr(mapreduce, "save_tensors", stops)
        assert call("embed", work / "run", work / "parts", "--out", tmp_path / "two", "--by-parts").exit_code != 0
    assert not (tmp_path / "two" / "embeddings.json").exists() and list((tmp_path / "two" / FOLDER).glob("stage-*/*"))
    good("embed", work / "run", work / "parts", "--out", tmp_path / "two", "--by-parts", "--processes", 2)
    assert (tmp_path / "two" / "embeddings.safetensors").read_bytes() == want


def test_what_is_refused(work: Path, tmp_path: Path) -> None:
    given = ("embed", work / "run", work / "parts", "--out", tmp_path)
    assert "got --processes 2 without --by-parts; add it" in bad(*given, "--processes", 2)
    message = "a graph is embedded by parts from a folder of parts, and synthetic:400 is none; run hasp build first"
    assert message in bad("embed", work / "run", "synthetic:400", "--out", tmp_path, "--by-parts")
    assert "holds no finished run" in bad("embed", tmp_path, work / "parts", "--out", tmp_path, "--by-parts")
    other = HASPData(small(), Schema(entity=["title", "person"], eel=[EEL]), num_parts=2, root=tmp_path / "other", log=False)
    assert other.num_parts == 2
    assert "these parts do not; use the parts of its graph" in bad(
        "embed", work / "run", tmp_path / "other", "--out", tmp_path / "emb", "--by-parts"
    )
    good(*given, "--by-parts")
    good("train", work / "parts", "--out", tmp_path / "run", "--epochs", 1, "--dim", 4, "--merge", 3)
    assert "holds vectors of another run" in bad("embed", tmp_path / "run", work / "parts", "--out", tmp_path, "--by-parts")


@pytest.mark.parametrize("num_parts", [1, 4])
@pytest.mark.parametrize("directed", [False, True])
def test_degrees_by_parts(num_parts: int, directed: bool) -> None:
    graph = small(3)
    if directed:  # each link in one direction alone
        a, b = graph.edges[EEL]
        graph = Graph(graph.num_nodes, {**graph.edges, EEL: (a[a < b], b[a < b])}, graph.node_attrs)
    parts = parts_of(graph, num_parts)
    eel = [EEL, ("title", "with", "person")]  # the second is passed over, as links_of does
    for entity in ("title", "person"):
        assert link_degrees(parts, entity, eel).tolist() == links_of(graph, entity, eel).counts.tolist()
    assert link_degrees(parts, "title", eel).max() > 2


def test_tiers_of_parts_are_those_of_the_graph(tmp_path: Path) -> None:
    """Two kinds of links in two layers; in double precision only a mistake is larger than 1e-12."""
    graph = small(1)
    links = [EEL, ("title", "rev_co", "title")]
    links = [e for e in links if e in graph.edges]
    generator = torch.Generator().manual_seed(4)
    weight = {e: {"weight": torch.rand(graph.num_edges(e), generator=generator)} for e in links}
    graph = dataclasses.replace(graph, edge_attrs={**graph.edge_attrs, **weight})
    tiers = Tiers.of(graph, links, (0.3, 0.6, 0.9))
    parts = parts_of(graph, 4)
    edge_types = [*(e for e in graph.edges if e not in links), *tiers.types]
    torch.manual_seed(0)
    model = SemanticGNN(
        (list(graph.num_nodes), edge_types), {"title": 3}, dim=8, layers=2, backend="torch",
        embed={t: n for t, n in graph.num_nodes.items() if t != "title"},
    ).double()  # fmt: skip
    double = {"title": {"x": graph.node_attrs["title"]["x"].double()}}
    want = embed_all(model, dataclasses.replace(tiers.apply(graph), edge_attrs={}, node_attrs=double))
    parts = parts_of(dataclasses.replace(graph, node_attrs=double), 4)
    found = embed_parts(model, parts, tmp_path / "a", tiers=tiers)
    for node_type, vectors in want.items():
        torch.testing.assert_close(found.vectors(node_type), vectors, rtol=1e-12, atol=1e-12)
