"""Every benchmark runs at its small size and hands back rows that mean something. No time is judged here."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from bench_rows import numbers

from bench import csr, ladder, loader, materialise, measure, partition_graphs, pipeline, pretrain, run, samplers, transe
from bench.graphs import ENTITIES, Planted, hetero, load, planted, save
from bench.measure import Peak
from bench.table import Table
from hasp.errors import HaspError
from hasp.part import Edges, Part

pytestmark = pytest.mark.usefixtures("peers_may_warn")


def test_memory_of_a_process_that_was_started_counts():
    with Peak() as held:
        np.ones(10_000_000).sum()
    assert held.bytes is None or 70e6 < held.bytes < 200e6
    with Peak() as held:
        subprocess.run([sys.executable, "-c", "b = bytearray(2_000_000_000)"], check=True)
    assert held.bytes is None or 1.9e9 < held.bytes < 2.2e9
    with Peak() as held:
        np.ones(10_000_000).sum()
    assert held.bytes is None or held.bytes < 200e6


def test_memory_is_touched_up_to_half_of_what_is_free(monkeypatch):
    monkeypatch.setattr(measure, "available_memory", lambda: 3 << 20)
    assert measure.touch_memory(1 << 20) == 1 << 20 and measure.touch_memory() == 3 << 19
    monkeypatch.setattr(measure, "available_memory", lambda: None)
    assert measure.touch_memory() == 0


def test_planted_graph_is_deterministic_and_has_the_mixing_that_was_asked_for():
    spec = Planted(3_000, 20_000, seed=5)
    src, dst, community = planted(spec)
    again = planted(spec)
    assert all(np.array_equal(a, b) for a, b in zip((src, dst, community), again, strict=True))
    assert not np.array_equal(src, planted(Planted(3_000, 20_000, seed=6))[0])
    assert (src != dst).all() and src.min() >= 0 and max(src.max(), dst.max()) < 3_000
    assert 0.15 < (community[src] != community[dst]).mean() < 0.3
    degree = np.bincount(np.concatenate([src, dst]))
    assert degree.max() > 8 * degree.mean()  # a power law, not a uniform graph


def test_hetero_graph_has_its_types_and_survives_a_file(tmp_path):
    graph = hetero(Planted(500, 2_000), features=3, semantic_edges=600)
    graph.check()
    assert len(graph.edges) == 15 and sum(graph.num_nodes[t] for t in ENTITIES) == 500
    assert sum(graph.num_edges(e) for e in graph.edges) == 2_600
    back = load(save(graph, tmp_path / "graph.safetensors"))
    assert back.fingerprint() == graph.fingerprint()


def test_materialise_compares_equal_results():
    (table,) = materialise.run("small")
    assert [(row["parts"], row["features"]) for row in table.rows] == [(k, f) for k in (4, 8) for f in ("none", "64 floats")]
    for column in ("one pass [s]", "loop of HeteroData.subgraph [s]", "faster", "times the floor"):
        numbers(table, column)


def test_materialise_notices_a_wrong_edge():
    graph = hetero(Planted(300, 1_000), semantic_edges=300)
    labels = {t: (np.arange(graph.num_nodes[t]) % 2).astype(np.int32) for t in ENTITIES}
    roles = materialise.Schema(entity=ENTITIES).resolve(graph.num_nodes, graph.edges)
    part = materialise.all_parts(graph, roles, labels, 2)[0]
    peer = graph.to_hetero_data().subgraph(materialise.subset(labels, 0))
    materialise.equal_to_subgraph(graph, part, peer)
    edge_type, edges = next((e, v) for e, v in part.edges.items() if v.num_edges > 1)
    wrong = edges.edge_index.clone()
    wrong[0] = torch.flip(wrong[0], [0])
    bad = Part(0, part.nodes, {**part.edges, edge_type: Edges(wrong, edges.e_id)})
    with pytest.raises(AssertionError, match="differ"):
        materialise.equal_to_subgraph(graph, bad, peer)


def test_csr_asserts_equal_graphs_and_measures_memory():
    (table,) = csr.run("small")
    assert [row["by"] for row in table.rows] == list(csr.CONTENDERS)
    numbers(table, "seconds")
    assert len(numbers(table, "hasp on as many threads is faster by")) == 4


def test_loader_measures_every_contender():
    (disk,) = loader.run("small")
    assert {row["cache"] for row in disk.rows} == {"warm", "cold"}
    numbers(disk, "MB/s")


def test_samplers_say_what_they_left_out():
    (table,) = samplers.run("small")
    numbers(table, "message edges per second")
    by = [row["by"] for row in table.rows]
    assert sum(name.startswith("ClusterLoader") for name in by) == 2
    assert any("torch-sparse" in note for note in table.notes) != ("NeighborLoader" in by)


def test_pipeline_runs_every_route_in_its_own_process():
    (table,) = pipeline.run("small")
    assert [row["route"] for row in table.rows] == ["hasp", "multilevel", "loop", "partitioner"]
    numbers(table, "written [MB]")
    assert "'HeteroData' has no attribute 'edge_index'" in " ".join(table.notes)


def test_a_contender_that_dies_is_a_row_not_a_crash():
    assert "no_such_name" in measure.call_in_child("bench.csr:no_such_name")["error"]
    assert "not done" in measure.call_in_child("bench.pipeline:hasp", 0.01, source="", num_parts=1)["error"]


def test_interleaving_alternates_and_pairs_ratios():
    order = []
    times = measure.interleave({"a": lambda: order.append("a") or 2.0, "b": lambda: order.append("b") or 1.0}, 2)
    assert order == ["a", "b", "b", "a"] and measure.ratio(times["a"], times["b"]) == 2.0
    assert measure.ratio([10.0, 2.0, 30.0], [1.0, 1.0, 1.0]) == 10.0


def test_tables_go_between_their_markers_and_the_history_grows(tmp_path, monkeypatch):
    table = Table("demo", "A title", ("a", "b"), [{"a": 1234, "b": 0.12345, "hidden": 1}], ["A note."])
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench:demo -->\nold\n<!-- /bench -->\nafter <!-- bench:other -->\n<!-- /bench -->\n")
    assert run.write_tables(readme, {"demo": table.markdown(), "absent": "x"}) == ["demo"]
    text = readme.read_text()
    assert "| 1,234 | 0.123 |" in text and "old" not in text and text.endswith("<!-- bench:other -->\n<!-- /bench -->\n")
    assert text.startswith("before\n") and "A note." in text
    fake = type("Fake", (), {"SIZES": {"small": 1}, "run": staticmethod(lambda size: [table])})
    monkeypatch.setattr(run.importlib, "import_module", lambda name: fake)
    for _ in range(2):
        assert run.main(["csr", "--size", "small", "--results", str(tmp_path)]) == 0
    lines = (tmp_path / "demo.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[1])["rows"][0]["hidden"] == 1
    assert json.loads(lines[0])["machine"]["cores"] >= 1
    with pytest.raises(SystemExit):
        run.main(["no-such-bench"])


def test_an_epoch_of_transe_is_timed_each_way_and_equal_steps_have_equal_losses():
    (table,) = pretrain.run("small")
    assert [row["by"].split(",")[0] for row in table.rows] == [
        "hasp_models",
        "the same steps",
        "PyG's TransE",
        "PyG's TransE",
    ]
    numbers(table, "seconds")
    triples = pretrain.catalogue(200, 2, 20, 1)
    ours, torchs = (pretrain.one_epoch(triples, 8, steps)[1] for steps in (pretrain.RowAdam, pretrain.SparseSteps))
    assert ours == pytest.approx(torchs, rel=1e-4) and ours > 0


def test_transe_stands_beside_its_oracle(capsys, monkeypatch):
    """As run where pykeen is, with its place taken by ours from other seeds; without it, it says what is missing."""

    def graph(name):
        facts = np.unique(np.random.default_rng(len(name)).integers(0, [20, 3, 20], (300, 3)), axis=0)
        parts = (SimpleNamespace(mapped_triples=torch.from_numpy(facts[i::3])) for i in range(3))
        named = dict(zip(("training", "validation", "testing"), parts, strict=True))
        return SimpleNamespace(num_entities=20, num_relations=3, **named)

    ways = {"hasp_models": transe.ours, "pykeen": lambda data, epochs, seed: transe.ours(data, epochs, seed + 9)}
    table = transe.compare(("a", "bc"), 2, 3, ways, graph, "pykeen 0")
    assert [(row["graph"], row["by"]) for row in table.rows] == [(g, way) for g in ("a", "bc") for way in ways]
    assert not table.alone() and "pykeen 0. Means" in table.markdown()
    for mine, peer in zip(table.rows[::2], table.rows[1::2], strict=True):
        mrr, other = ([metrics["mrr"] for metrics, _ in row["runs"]] for row in (mine, peer))
        difference, error = map(float, mine[transe.DIFFERENCE].split(" ± "))
        assert difference == pytest.approx(np.mean(mrr) - np.mean(other), abs=6e-4)
        assert error == pytest.approx(np.sqrt(np.var(mrr, ddof=1) / 3 + np.var(other, ddof=1) / 3), abs=6e-4)
        assert mine[transe.FASTER] == pytest.approx(peer["seconds"] / mine["seconds"]) and peer[transe.FASTER] == 1
    monkeypatch.setattr(transe.importlib.util, "find_spec", lambda name: None)
    assert transe.run("small") == [] and "needs pykeen" in capsys.readouterr().out


def test_ladder_climbs_on_every_rung_with_the_same_model():
    (table,) = ladder.run("small")
    assert [row["rung"] for row in table.rows] == list(ladder.RUNGS)
    numbers(table, "ms per step")
    same = [row for row, (_, parts, pairs) in zip(table.rows, ladder.RUNGS.values(), strict=True) if (parts, pairs) == (1, 256)]
    assert [row["rung"].split(",")[0] for row in same] == ["PyG's way", "factorised torch", "fused"]
    whole = [row["losses"] for row in same]
    for losses in whole[1:]:
        both = min(len(losses), len(whole[0]))  # the first rung to reach the MAP ends there
        np.testing.assert_allclose(losses[:both], whole[0][:both], rtol=1e-3)
    assert table.rows[0]["times faster"] == 1.0 and same[-1]["steps to the MAP"] is not None
    assert "the fused full graph in 4 steps" in table.markdown()


def test_made_up_graphs_have_their_shapes():
    indptr, indices = partition_graphs.csr_of("grid:12")
    assert indptr.size == 145 and indices.size == 2 * (2 * 12 * 11 + 11 * 11)
    assert np.diff(partition_graphs.csr_of("regular:50:6")[0]).max() <= 6
    degree = np.diff(partition_graphs.csr_of("attached:2000:3")[0])
    assert degree.min() >= 1 and degree.max() > 10 * degree.mean()
    assert np.diff(partition_graphs.csr_of("recursive:8:2000")[0]).max() > 30
    with pytest.raises(HaspError, match="a made-up graph is grid:<side>"):
        partition_graphs.csr_of("grid:a")


def test_partitioners_are_compared_on_a_graph_of_your_own(tmp_path, capsys):
    indptr, indices = partition_graphs.csr_of("grid:12")
    np.savez(tmp_path / "own.npz", indptr=indptr, indices=indices)
    out = tmp_path / "out"
    own = ["partition-quality", str(tmp_path / "own.npz"), "--out", str(out), "--parts", "3"]
    assert run.main([*own, "--backends", "metis,hash"]) == 0
    said = capsys.readouterr().out
    assert "own.npz: 385 EELs between 144 entities. hasp build takes metis: 385 EELs are few." in said
    assert "\n3 parts\n" in said and str(tmp_path) not in said.partition("written to")[0]
    rows = json.loads((out / "rows.json").read_text())
    assert [(row["parts"], row["backend"]) for row in rows] == [(3, "metis"), (3, "hash")]
    assert rows[0]["cut / METIS's"] == 1 and rows[1]["cut / METIS's"] > 3
    for row in rows:
        assert 0 < row["cut"] < 1 and row["entities: largest / mean"] >= 1 and row["bytes per EEL"] >= 0
        assert [k is None for k in row["kept"]] == [False, False, True]  # corners 2 or 3, sides 4, inside 6: none above
    text = (out / "table.md").read_text()
    assert "![Partitioners on own.npz](plot.svg)" in text and "Machine: " in text
    drawn = ElementTree.parse(out / "plot.svg").getroot()
    dots = [e for e in drawn.iter("{http://www.w3.org/2000/svg}circle") if e.find("{*}title") is not None]
    assert len(dots) >= 4 * 2 + 2 * 2  # five numbers, bytes may be zero of two backends; two of three degree groups


@pytest.mark.parametrize(
    "words, match",
    [
        (["nowhere"], "nowhere does not exist"),
        (["grid:9", "--parts", "a"], "whole numbers from 1"),
        (["grid:9", "--parts", "0"], "whole numbers from 1"),
        (["grid:9", "--parts", "82"], "more than the 81 linked entities"),
        (["grid:9", "--backends", "magic"], "backend='magic' is not one of"),
        (["grid:9", "--rounds", "0"], "1 or more"),
        (["grid:a"], "a made-up graph is grid:<side>"),
        (["{tmp}/bad.npz"], "is no .npz file"),
        (["{tmp}/other.npz"], "not indptr and indices"),
        (["{tmp}/crooked.npz"], "indptr ascends from 0"),
        (["{tmp}/empty.npz"], "nothing to cut"),
        (["synthetic:100", "--eel", "title__likes__title"], "title__likes__title|likes"),
        (["synthetic:100", "--entity", "song"], "song"),
    ],
)
def test_a_graph_that_cannot_be_compared_is_named_in_one_line(tmp_path, capsys, words, match):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no zip")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    np.savez(tmp_path / "crooked.npz", indptr=np.array([0, 5]), indices=np.array([0]))
    np.savez(tmp_path / "empty.npz", indptr=np.array([0, 1]), indices=np.array([0]))
    out = tmp_path / "out"
    assert run.main(["partition-quality", *(w.format(tmp=tmp_path) for w in words), "--out", str(out)]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and re.search(match, error[0]) and not out.exists()


def test_a_saved_hetero_data_is_a_graph_of_your_own(tmp_path):
    graph = hetero(Planted(120, 400), semantic_edges=60)
    torch.save(graph.to_hetero_data(), tmp_path / "graph.pt")
    indptr, indices = partition_graphs.csr_of(str(tmp_path / "graph.pt"), entity=ENTITIES)
    assert np.array_equal(np.sort(indices), np.sort(np.repeat(np.arange(indptr.size - 1), np.diff(indptr))))
    some, _ = partition_graphs.csr_of(str(tmp_path / "graph.pt"), ENTITIES, ["title__linked__title"])
    assert some.size < indptr.size


def test_no_row_stands_alone():
    """Whatever the README shows has its peer or its floor beside it, and the machine below."""
    shown = [table for name in (*run.BENCHES, *run.BY_HAND, *run.DRAWN) if (table := run.last(run.HERE / "results", name))]
    assert {"materialise", "pipeline", "samplers", "billion", "scaling"} <= {table.name for table in shown}
    for table in shown:
        if table.name != "demo":  # whose lines carry their baselines
            assert table.beside and "Machine: " in " ".join(table.notes), table.name
            left = [row.get("by") or row.get("stage") for row in table.alone()]
            assert not set(left) - {"views only: merge, ids as stored"} - UNPAIRED, table.name


UNPAIRED = {"plan", "check", "fingerprint", "split", "cut", "fill", "bucket", "shared and cut", "train"}
"""Stages inside the billion-edge build: that of the whole build is what its floor is for."""


def test_a_demo_shows_what_it_printed(monkeypatch):
    """As run by the bench, with the command's output in the place of a run."""
    from bench import demo

    monkeypatch.setattr(
        demo.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="catalogue   5 titles\n\nplan\ntook 1 s\n")
    )
    (table,) = demo.run("small")
    assert table.markdown().splitlines()[:5] == ["```", "catalogue   5 titles", "", "took 1 s", "```"]
