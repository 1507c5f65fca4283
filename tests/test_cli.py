"""The command line: what its commands print, and where."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command import SOURCE, run
from typer.testing import CliRunner

from hasp.cli import app
from hasp.data import HASPData
from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.report import Report
from hasp.sources import open_source
from hasp.sources.tables import write_tables


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "parts"
    run("build", SOURCE, out, "--num-parts", 3)
    return out


def test_help_teaches():
    out, _ = run("--help")
    for words in ("An example:", "hasp build shop/ parts/ --num-parts 8", "HASPLoader", "Exit codes:", "130"):
        assert words in out
    for name in ("plan", "build", "report", "verify", "export", "generate"):
        assert name in out and "--json" in run(name, "--help")[0]
    assert run()[0] == out
    assert run("--version")[0].startswith("hasp ")


def test_plan_prints_roles_and_sizes():
    out, err = run("plan", SOURCE, "--max-part-bytes", "30kB", "--gpus", 2)
    for words in (
        "has links to its own type",
        "title__co_engaged__title",
        "the fewest within 30.0 kB a part",
        "of memory beside",
    ):
        assert words in out
    assert err == ""
    value = json.loads(run("plan", SOURCE, "--max-part-bytes", "30kB", "--gpus", 2, "--json")[0])
    assert value["plan"]["num_parts"] % 2 == 0 and value["plan"]["part_bytes"] <= 30_000
    assert value["roles"]["nodes"]["title"] == "entity"


def test_build_prints_the_plan_first_then_the_report(tmp_path):
    out, err = run("build", SOURCE, tmp_path / "p", "--num-parts", 4, "--verify", "source", "--html", tmp_path / "r.html")
    assert 0 <= out.index("4 (as asked)") < out.index("4 parts, 300 entities")
    assert "largest loaded part" in out and (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    manifest = HASPData.open(tmp_path / "p").manifest
    assert f"Parts made by hasp {manifest.library}, of the graph {manifest.fingerprint}." in (tmp_path / "r.html").read_text()
    assert "wrote" in err and "\x1b" not in out + err  # no terminal: no bar, no colour
    again, err = run("build", SOURCE, tmp_path / "p", "--num-parts", 4)
    assert "already held this build" in err and again.split("\n\n")[2:5] == out.split("\n\n")[2:5]


def test_build_says_what_it_did_to_a_folder_that_held_some_of_it(tmp_path):
    def build():
        return run("build", SOURCE, tmp_path / "p", "--num-parts", 4)[1]

    assert "held" not in build()  # nothing was there
    before = {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    (tmp_path / "p" / "part-00002.safetensors").unlink()
    said = build()
    assert "held this build damaged: part-00002.safetensors made anew" in said and "nothing was done" not in said
    for part in range(4):
        (tmp_path / "p" / f"part-0000{part}.safetensors").write_bytes(b"damaged")
    said = build()
    assert "part-00000.safetensors, part-00001.safetensors, part-00002.safetensors and 1 more made anew" in said
    assert "nothing was done" in build()
    after = {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    assert all(after[name] == data for name, data in before.items() if name != "build.json")


def test_parts_do_not_go_to_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (("build", SOURCE, "s3://bucket/parts", "--num-parts", 2), ("report", "s3://bucket/parts")):
        result = CliRunner().invoke(app, [str(a) for a in command])
        assert (
            result.exit_code == 2
            and "='s3:/bucket/parts': a folder whose files can be mapped and renamed, not a URL" in result.stderr
        )
    assert not list(tmp_path.iterdir())


def test_build_says_that_it_went_on_where_it_was_interrupted(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise HaspError("the disk is full; free some")

    with monkeypatch.context() as patch:
        patch.setattr("hasp.store.write.Writer.finish", full)
        run("build", SOURCE, tmp_path / "p", "--num-parts", 4, code=2)
    (tmp_path / "p" / "part-00001.safetensors").unlink()
    said = run("build", SOURCE, tmp_path / "p", "--num-parts", 4)[1]
    assert re.search(r"held this build unfinished: went on with the \d+ files whose hash agreed", said)


def test_build_options_reach_the_build(tmp_path):
    args = ["--entity", "title", "--eel", "title__co_engaged__title", "--semantic", "genre", "--sample", "tone=3", "--reverse"]
    for name in ("audience", "country", "decade", "language", "maturity", "setting", "storyline", "theme"):
        args += ["--exclude", name]
    args += ["--balance", "edges", "--backend", "random", "--seed", 5, "--imbalance", 0.1, "--threads", 1]
    out, err = run("build", SOURCE, tmp_path / "p", "--num-parts", 2, *args, "--json")
    value = json.loads(out)
    assert "2 (as asked)" in err and value["problems"] == []
    data = HASPData.open(tmp_path / "p")
    assert Report.from_json(value["report"]) == data.report()
    assert set(data.node_types) == {"title", "genre", "tone"} and data.roles.quota == {"tone": 3}
    assert any(e[0] == "genre" and e[2] == "title" for e in data.edge_types)
    config = data.manifest.config
    assert (config["balance"], config["backend"], config["seed"], config["imbalance"]) == ("edges", "random", 5, 0.1)


def test_weights_reach_the_plan_and_the_build(tmp_path):
    co = ("title", "co_engaged", "title")
    ids, weight = torch.arange(2000) % 300, "strength"
    graph = Graph({"title": 300}, {co: (ids, (ids * 7 + 1) % 300)}, edge_attrs={co: {weight: ids % 5 + 1.0}})
    write_tables(graph, tmp_path / "shop")
    args = [tmp_path / "shop", "--num-parts", 3]
    plain, weighted = (json.loads(run("plan", *args, *more, "--json")[0])["plan"] for more in ([], ["--weight", weight]))
    assert weighted["peak_build_bytes"] > plain["peak_build_bytes"]
    out, _ = run("build", *args[:1], tmp_path / "p", *args[1:], "--weight", weight, "--json")
    report = json.loads(out)["report"]
    assert report["predicted"]["peak_build_bytes"] == weighted["peak_build_bytes"]
    assert HASPData.open(tmp_path / "p").manifest.config["weight"] == weight
    for command in (["plan", *args], ["build", *args[:1], tmp_path / "q", *args[1:]]):
        assert "weight='speed': one number per EEL" in run(*command, "--weight", "speed", code=2)[1]


def test_the_partitioner_is_in_the_plan_and_in_the_report(parts, tmp_path):
    out, _ = run("build", SOURCE, tmp_path / "p", "--num-parts", 3)
    assert re.search(r"^partitioner      metis \([\d,]+ EELs are few\)$", out, re.MULTILINE)
    assert re.search(r"^partitioner: metis \([\d,]+ EELs are few\)$", out, re.MULTILINE)
    run("build", SOURCE, tmp_path / "q", "--num-parts", 3, "--backend", "metis")
    assert (tmp_path / "q" / "manifest.json").read_bytes() == (parts / "manifest.json").read_bytes()
    assert "partitioner      multilevel (as asked)" in run("plan", SOURCE, "--num-parts", 3, "--backend", "multilevel")[0]


def test_build_refuses_other_parts_until_told(parts, tmp_path):
    before = (parts / "manifest.json").read_bytes()
    _, err = run("build", SOURCE, parts, "--num-parts", 4, code=2)
    assert err.splitlines()[-1].startswith("error: ")
    assert (parts / "manifest.json").read_bytes() == before
    run("build", SOURCE, tmp_path / "p", "--num-parts", 2)
    run("build", SOURCE, tmp_path / "p", "--num-parts", 3, "--overwrite")
    assert (tmp_path / "p" / "manifest.json").read_bytes() == before  # and the plan's path does not show in the bytes


def test_a_budget_that_the_cut_could_not_keep_is_said(tmp_path):
    """The plan foresees means; who is told a budget hears when a part is above it."""
    _, err = run("build", SOURCE, tmp_path / "p", "--max-part-bytes", "15kB")
    largest = max(HASPData.open(tmp_path / "p").report().loaded_bytes)
    assert ("warning: the largest part takes" in err) == (largest > 15_000)


def test_report_as_text_json_and_page(parts, tmp_path):
    report = HASPData.open(parts).report()
    assert run("report", parts)[0] == f"{report}\n"
    assert Report.from_json(json.loads(run("report", parts, "--json")[0])) == report
    _, err = run("report", parts, "--html", tmp_path / "r.html", "--verify", "always")
    assert str(tmp_path / "r.html") in err and "3 parts" in (tmp_path / "r.html").read_text()


def test_verify_says_so_when_nothing_is_wrong(parts):
    assert "nothing is wrong" in run("verify", parts)[0]
    assert f"and the source {SOURCE}" in run("verify", parts, "--source", SOURCE)[0]
    value = json.loads(run("verify", parts, "--source", SOURCE, "--json")[0])
    assert value == {"parts": str(parts), "source": SOURCE, "ok": True, "problems": []}


def test_verify_leaves_with_two_when_something_is(tmp_path):
    run("build", SOURCE, tmp_path / "p", "--num-parts", 2)
    out, err = run("verify", tmp_path / "p", "--source", "synthetic:300:2", code=2)
    assert "fingerprint" in out and "problems found" in err
    file = tmp_path / "p" / "part-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    out, err = run("verify", tmp_path / "p", "--json", code=2)
    value = json.loads(out)
    assert not value["ok"] and any("part-00001" in p for p in value["problems"])
    file.write_bytes(data[:-8])
    out, _ = run("verify", tmp_path / "p", code=2)
    assert "part-00001" in out and "bytes" in out


def test_export_of_labels_has_the_users_ids(parts, tmp_path):
    run("export", parts, tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    data = HASPData.open(parts)
    assert [r["id"] for r in rows] == [str(i) for i in data.ids("title")]
    assert [int(r["part"]) for r in rows] == data.node_part("title").tolist()
    assert {r["node_type"] for r in rows} == {"title"}
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: no Parquet")
    value = json.loads(run("export", parts, tmp_path / "labels.parquet", "--json")[0])
    table = pq.read_table(tmp_path / "labels.parquet")
    assert value["rows"] == 300 and table.column("part").to_pylist() == data.node_part("title").tolist()


def test_export_of_a_part_is_a_source_again(parts, tmp_path):
    run("export", parts, tmp_path / "one", "--part", 1)
    graph, batch = open_source(tmp_path / "one"), HASPData.open(parts)[1]
    assert graph.num_nodes["title"] == batch["title"].num_nodes
    assert np.array_equal(graph.ids["title"], HASPData.open(parts).ids("title")[batch["title"].n_id.numpy()])
    edge_type = ("title", "co_engaged", "title")
    local = np.stack([end.numpy() for end in graph.edges[edge_type]])
    assert np.array_equal(local, batch[edge_type].edge_index.numpy())


def test_an_export_says_what_it_was_made_of(parts, tmp_path):
    manifest = HASPData.open(parts).manifest
    run("export", parts, tmp_path / "labels.csv")
    run("export", parts, tmp_path / "one", "--part", 1)
    for path, part in ((tmp_path / "labels.csv.origin.json", None), (tmp_path / "one/origin.json", 1)):
        said = json.loads(path.read_text())
        assert said["part"] == part and said["library"] == manifest.library
        assert said["parts"]["fingerprint"] == manifest.fingerprint and said["parts"]["config"]["num_parts"] == 3


def test_generate_plan_build_verify(tmp_path):
    out, _ = run("generate", tmp_path / "shop", "--titles", 200, "--talent", 30, "--features", 2)
    assert "next: hasp plan" in out
    run("build", tmp_path / "shop", tmp_path / "p", "--num-parts", 2, "--sample", "talent=5")
    run("verify", tmp_path / "p", "--source", tmp_path / "shop")
    value = json.loads(run("generate", tmp_path / "more", "--titles", 100, "--json")[0])
    assert value["nodes"] > 100 and value["edges"] > 0
