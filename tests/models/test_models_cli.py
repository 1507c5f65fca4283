"""``hasp-models`` from pretraining to evaluation on a small catalogue, and what bad input gets."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_graphs import small_parts
from typer.testing import CliRunner

from hasp import HASPData, Schema
from hasp.errors import HaspError
from hasp.graph import HaspWarning
from hasp.sources import open_source
from hasp.sources.reverse import add_reverse
from hasp_models.cli import app
from hasp_models.data.neighbors import rank, top_k
from hasp_models.embeddings import Embeddings
from hasp_models.hybrid import HybridScorer, exact_of
from hasp_models.infer import embed_all
from hasp_models.kg_embedding import KGEmbedding
from hasp_models.runs import load_run
from hasp_models.tiers import Tiers

SOURCE = "synthetic:400"
EEL = ("title", "co_engaged", "title")


def call(*arguments: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def good(*arguments: Any) -> Any:
    code, out, error = call(*arguments, "--json")
    assert code == 0, error
    return json.loads(out)


def bad(*arguments: Any) -> str:
    code, out, error = call(*arguments)
    assert code == 2 and not out and error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts, pretrained concepts, a run and its embeddings."""
    folder = tmp_path_factory.mktemp("models")
    HASPData(open_source(SOURCE), num_parts=2, root=folder / "parts", reverse=True, log=False)
    done = good("pretrain", folder / "parts", "--out", folder / "kg", "--epochs", 3, "--dim", 8)
    assert done["triples"] > 400 and np.isfinite(done["loss"]).all()
    done = good("train", folder / "parts", "--concepts", folder / "kg", "--out", folder / "run", "--epochs", 3, "--dim", 8)
    assert done["epochs"] == 3 and len(done["history"]) == 3
    assert good("embed", folder / "run", SOURCE, "--out", folder / "emb")["entities"] == 400
    return folder


def test_the_concepts_are_the_pretrained_ones(work: Path) -> None:
    model, meta = load_run(work / "run")
    kg = KGEmbedding.load(work / "kg")
    for node_type, table in model.inputs.tables.items():
        assert torch.equal(table, kg.features(node_type))
    assert model.inputs.tables and meta["entity"] == "title"


def test_parts_and_source_give_the_same_embeddings(work: Path, tmp_path: Path) -> None:
    good("embed", work / "run", work / "parts", "--out", tmp_path)
    assert (tmp_path / "embeddings.safetensors").read_bytes() == (work / "emb" / "embeddings.safetensors").read_bytes()


def test_a_title_without_a_link_is_asked_for_by_its_concepts(work: Path, tmp_path: Path) -> None:
    made = Embeddings.load(work / "emb")
    assert made.alone is not None and made.alone.shape == made.vectors.shape
    bare, other = int(torch.nonzero(made.degree == 0)[0]), int(torch.nonzero(made.degree > 0)[0])
    for row, table in ((bare, made.alone), (other, made.vectors)):
        found = good("similar", work / "emb", made.label(row))["similar"]
        ids, scores = top_k(table, 10, queries=[row])
        assert [made.ids.tolist().index(a["id"]) for a in found] == ids[0].tolist()
        assert [a["score"] for a in found] == [round(float(s), 4) for s in scores[0]]
    good("train", work / "parts", "--out", tmp_path / "run", "--dim", 4, "--epochs", 1, "--objective", "infonce")
    good("embed", tmp_path / "run", SOURCE, "--out", tmp_path / "emb")
    assert Embeddings.load(tmp_path / "emb").alone is None  # such a model never saw entities without links


def test_a_run_that_is_repeated_is_done_and_one_with_more_epochs_goes_on(work: Path, tmp_path: Path) -> None:
    options = ("train", work / "parts", "--out", tmp_path, "--dim", 4, "--layers", 1, "--objective", "paper", "--epochs")
    first = good(*options, 1)
    again, more = good(*options, 1), good(*options, 2)
    assert "has 2 epochs, got epochs=1; raise it, or choose another folder" in bad(*options, 1)
    assert first["history"] == again["history"] == more["history"][:1] and more["epochs"] == 2
    assert {"log.jsonl", "log.csv", "metrics.json", "run.json", "model.safetensors", "checkpoint"} == {
        p.name for p in tmp_path.iterdir()
    }


def test_options_of_the_loop_reach_it(work: Path, tmp_path: Path) -> None:
    options = ("train", work / "parts", "--out", tmp_path, "--dim", 4, "--layers", 1, "--epochs", 1, "--free")
    good(*options, "--lazy-rows", "--amp")
    settings = json.loads((tmp_path / "metrics.json").read_text())["settings"]
    assert settings["lazy_rows"] and settings["amp"]
    assert "made with amp=True, this run has False" in bad(*options, "--lazy-rows")


def test_exact_similarities_are_told_to_the_model(work: Path, tmp_path: Path) -> None:
    options = ("train", work / "parts", "--dim", 4, "--epochs", 1, "--out")
    good(*options, tmp_path / "told", "--trust", 0.5, "--exact-content", 2, "--schedule", "cosine")
    settings = json.loads((tmp_path / "told" / "metrics.json").read_text())["settings"]
    assert "content=2" in settings["objective"] and "trust=0.5" in settings["objective"] and settings["schedule"] == "cosine"
    good(*options, tmp_path / "plain")
    plain = json.loads((tmp_path / "plain" / "metrics.json").read_text())["settings"]
    assert "exact" not in plain["objective"] and "schedule" not in plain
    told, other = (load_run(tmp_path / name)[0].state_dict() for name in ("told", "plain"))
    assert any(not torch.equal(told[k], other[k]) for k in told)
    assert "trust lies in (0, 1]" in bad(*options, tmp_path / "wrong", "--trust", 2)
    assert "schedule is 'constant' or 'cosine'" in bad(*options, tmp_path / "wrong", "--schedule", "linear")
    assert "with trust=0; give trust" in bad(*options, tmp_path / "wrong", "--exact-content", 2)
    for name in ("trust", "content", "cold"):
        other = bad(*options, tmp_path / "wrong", "--objective", "infonce", f"--{name}", 0.5)
        assert f"{name} is a setting of neighbors, got objective='infonce'; leave it out" in other
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("objective", ["infonce", "neighbors"])
def test_every_objective_trains_and_embeds(objective: str, work: Path, tmp_path: Path) -> None:
    run = ("train", work / "parts", "--out", tmp_path / "run", "--objective", objective, "--no-free")
    good(*run, "--dim", 4, "--layers", 2, "--epochs", 1)
    model, _ = load_run(tmp_path / "run")
    assert len(model.layers) == 2 and not model.inputs.free
    assert good("embed", tmp_path / "run", SOURCE, "--out", tmp_path / "emb")["dim"] == 4


def test_links_with_a_weight_are_put_in_tiers(tmp_path: Path) -> None:
    """The same tiers in training, in validation and when the graph is embedded, from parts as from a graph."""
    graph = add_reverse(open_source(SOURCE))
    count = graph.num_edges(EEL)
    weight = 0.1 + (torch.arange(count) % 10) / 10.0
    graph = dataclasses.replace(graph, edge_attrs={**graph.edge_attrs, EEL: {"weight": weight}})
    HASPData(graph, Schema(entity="title", eel=[EEL]), num_parts=2, root=tmp_path / "parts", log=False)
    ids = np.asarray(graph.ids.get("title", np.arange(400)))
    truth = tmp_path / "truth.csv"
    truth.write_text("a,b\n" + "".join(f"{ids[i]},{ids[i + 1]}\n" for i in range(50)))
    good("train", tmp_path / "parts", "--out", tmp_path / "run", "--dim", 8, "--epochs", 2, "--merge", 2, "--truth", truth)
    model, meta = load_run(tmp_path / "run")
    tiers = Tiers.from_json(meta["model"]["tiers"])
    assert len(tiers.types) > 3 and set(tiers.types) < set(model.edge_types) and EEL not in model.edge_types
    assert good("embed", tmp_path / "run", tmp_path / "parts", "--out", tmp_path / "emb")["entities"] == 400
    want = embed_all(model, dataclasses.replace(tiers.apply(graph), edge_attrs={}))["title"]
    torch.testing.assert_close(Embeddings.load(tmp_path / "emb").vectors, want, rtol=1e-5, atol=1e-6)


def test_similar_explains(work: Path) -> None:
    found = good("similar", work / "emb", "title 5", "-k", 400)
    assert found["query"] == {"id": 5, "name": "title 5"}
    answers = found["similar"]
    scores = [a["score"] for a in answers]
    assert len(answers) == 399 and scores == sorted(scores, reverse=True) and 5 not in [a["id"] for a in answers]
    graph = open_source(SOURCE)

    def concepts(title: int) -> set[str]:
        return {
            f"{e[2]}: {graph.names[e[2]][c]}" for e, (a, b) in graph.edges.items() if e != EEL for c in b[a == title].tolist()
        }

    def links(title: int) -> set[str]:
        a, b = graph.edges[EEL]
        return {str(graph.names["title"][i]) for i in [*b[a == title].tolist(), *a[b == title].tolist()]}

    for answer in answers:
        assert set(answer["concepts"]) == concepts(5) & concepts(answer["id"])
        assert set(answer["links"]) == links(5) & links(answer["id"])
        assert answer["linked"] == (answer["name"] in links(5))
    assert any(a["linked"] for a in answers) and any(a["links"] for a in answers)
    code, out, _ = call("similar", work / "emb", "title 5", "-k", 3)
    assert code == 0 and answers[0]["name"] in out


def test_evaluate_ranks_what_is_near_first(work: Path, tmp_path: Path) -> None:
    # The nearest of each title as its truth: map@10 of these queries is 1 where the pair is mutual, and never 0.
    found = Embeddings.load(work / "emb")
    table = torch.nn.functional.normalize(found.vectors, dim=1)
    near = (table @ table.T).fill_diagonal_(-2).argmax(1).tolist()
    path = tmp_path / "pairs.csv"
    path.write_text("a,b\n" + "".join(f"{i},{j}\n" for i, j in enumerate(near)))
    result = good("evaluate", work / "emb", "--truth", path)
    everyone = result["metrics"]["all"]["map@10"]
    assert everyone["queries"] == 400 and everyone["low"] <= everyone["mean"] <= everyone["high"] and everyone["mean"] > 0.5
    groups = result["metrics"]
    assert sum(groups[g]["map@10"]["queries"] for g in ("group0", "group1", "group2")) == 400
    assert {"map@10", "map@50", "map@100"} <= set(groups["group2"])
    assert "group0" in call("evaluate", work / "emb", "--truth", path)[1]


def test_hybrid_search_adds_what_the_graph_says(work: Path, tmp_path: Path) -> None:
    found = Embeddings.load(work / "emb")
    graph = found.graph()
    plain, none, much = (
        [a["id"] for a in good("similar", work / "emb", "title 5", "-k", 20, *more)["similar"]]
        for more in ((), ("--hybrid", 0), ("--hybrid", 1e6))
    )
    assert plain == none != much
    assert much == rank(HybridScorer(found.scorer(), exact_of(graph, [EEL], "title"), 1e6), [5], 20)[0][0].tolist()
    assert much != [
        a["id"] for a in good("similar", work / "emb", "title 5", "-k", 20, "--hybrid", 1e6, "--exact-content", 9)["similar"]
    ]
    # The pairs that the graph itself says: the more it counts, the better they are found.
    path = tmp_path / "pairs.csv"
    path.write_text(
        "a,b\n" + "".join(f"{a},{b}\n" for a, b in zip(*(x.tolist() for x in graph.edges[EEL]), strict=True) if a < b)
    )
    scores = [
        good("evaluate", work / "emb", "--truth", path, *more)["metrics"]["all"]["map@10"]["mean"]
        for more in ((), ("--hybrid", 0.5), ("--hybrid", 50, "--source", SOURCE))
    ]
    assert scores[0] < scores[1] < scores[2]
    assert "without hybrid" in bad("similar", work / "emb", "title 5", "--exact-content", 1)
    assert "got score 'dot'" in bad("evaluate", work / "emb", "--truth", path, "--hybrid", 1, "--score", "dot")
    assert "is 0 or more, got -1" in bad("similar", work / "emb", "title 5", "--hybrid", -1)
    assert "another graph" in bad("evaluate", work / "emb", "--truth", path, "--hybrid", 1, "--source", "synthetic:400:1")


def test_unknown_ids_are_counted_and_named(work: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("a,b\n1,2\n3,4000\n-7,5\n")
    assert "2 are not ('-7', '4000')" in bad("evaluate", work / "emb", "--truth", path)
    assert good("evaluate", work / "emb", "--truth", path, "--skip-unknown")["queries"] == 2
    left = call("evaluate", work / "emb", "--truth", path, "--skip-unknown")[2]
    assert "2 of 3 pairs are left out, for 2 ids are no entity ('-7', '4000')" in left
    path.write_text("a,b\n1,1\n")
    assert "a pair of two entities" in bad("evaluate", work / "emb", "--truth", path)
    path.write_text("left,right\n1,2\n")
    assert "columns 'a' and 'b'" in bad("evaluate", work / "emb", "--truth", path)


def test_bad_input_is_one_line_and_leaves_no_folder(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train = ("train", work / "parts", "--out", out)
    assert "holds no finished run" in bad("embed", work / "kg", SOURCE, "--out", out)
    assert "holds no embeddings" in bad("similar", work / "run", "title 5")
    assert "are of another graph than synthetic:400:1" in bad("similar", work / "emb", "title 5", "--source", "synthetic:400:1")
    assert "found 0" in bad("similar", work / "emb", "no such title")
    assert "found 0" not in bad("similar", work / "emb", "TITLE 1")  # a piece of many names
    assert "score is cosine, dot or l2" in bad("similar", work / "emb", "title 5", "--score", "manhattan")
    assert "objective is one of ['neighbors', 'infonce', 'paper'], got 'hinge'" in bad(*train, "--objective", "hinge")
    assert "the link type is one of ['title__co_engaged__title']" in bad(*train, "--eel", "a__b__c")
    assert "holds no finished vectors" in bad(*train, "--concepts", work / "run")
    assert "patience" in bad(*train, "--patience", 2)
    assert "another model" in bad("train", work / "parts", "--out", work / "run", "--dim", 16)
    assert "dim, the length of the embeddings, is at least 1, got 0" in bad(*train, "--dim", 0)
    assert "--workers are ranks on Ray, got 3 without --ray" in bad(*train, "--workers", 3)
    HASPData(open_source("synthetic:300"), num_parts=2, root=tmp_path / "other", reverse=True, log=False)
    assert "pretrained concepts are of the graph" in bad("train", tmp_path / "other", "--out", out, "--concepts", work / "kg")
    assert not out.exists()


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "3 NaN and 0"), (float("inf"), "0 NaN and 3")])
def test_features_that_are_not_numbers_are_named_before_a_run_begins(tmp_path: Path, value: float, said: str) -> None:
    graph = open_source(SOURCE)
    x = torch.ones(400, 3)
    x[7, 1] = x[300, 0] = x[300, 2] = value
    graph = dataclasses.replace(graph, node_attrs={**graph.node_attrs, "title": {"x": x}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HaspWarning)  # NaN is legal in parts
        HASPData(graph, num_parts=3, root=tmp_path / "parts", reverse=True, log=False)
    error = bad("train", tmp_path / "parts", "--out", tmp_path / "out", "--dim", 4, "--epochs", 1)
    assert f"title.x holds {said} infinite values" in error and not (tmp_path / "out").exists()


def test_a_folder_holds_one_artefact(work: Path) -> None:
    before = {name: sorted(p.name for p in (work / name).iterdir()) for name in ("parts", "kg", "run", "emb")}
    for name, holds in (
        ("parts", "parts (manifest.json)"),
        ("kg", "concepts (kg.json)"),
        ("emb", "embeddings (embeddings.json)"),
    ):
        if name != "parts":
            assert holds in bad("train", work / "parts", "--out", work / name)
        if name != "kg":
            assert f"concepts: wants a folder of its own, but {work / name} holds {holds}" in bad(
                "pretrain", work / "parts", "--out", work / name
            )
        if name != "emb":
            assert holds in bad("embed", work / "run", work / "parts", "--out", work / name)
    assert "holds parts (manifest.json); choose another folder" in bad("train", work / "parts", "--out", work / "parts")
    assert {name: sorted(p.name for p in (work / name).iterdir()) for name in before} == before


def test_help_keeps_its_brackets_and_teaches() -> None:
    out = call()[1]
    assert "hasp-models similar emb/" in out and "Exit codes:" in out and call("--version")[1].startswith("hasp-models ")
    assert "[by objective]" in call("train", "--help")[1] and "[all]" in call("reproduce", "--help")[1]


def test_parts_without_links_are_refused(tmp_path: Path) -> None:
    small_parts([1] * 6, root=tmp_path / "parts")
    error = bad("train", tmp_path / "parts", "--out", tmp_path / "out")
    assert "training needs links inside parts, but 0 of" in error and "merge parts" in error
    graph = open_source(SOURCE)
    HASPData(graph, Schema(entity="title", eel=()), num_parts=2, root=tmp_path / "none", log=False)
    assert "no EEL type" in bad("train", tmp_path / "none", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_another_model_are_refused(work: Path, tmp_path: Path) -> None:
    good("train", work / "parts", "--out", tmp_path, "--dim", 4, "--epochs", 1)
    (tmp_path / "model.safetensors").write_bytes((work / "run" / "model.safetensors").read_bytes())
    with pytest.raises(HaspError, match="another model than"):
        load_run(tmp_path)
    assert "train again" in bad("embed", tmp_path, SOURCE, "--out", tmp_path / "emb")
