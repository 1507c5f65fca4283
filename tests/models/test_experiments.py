"""``reproduce`` on a made-up catalogue: every experiment, what is killed goes on, bad input leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import experiment_data as data
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hasp.errors import HaspError
from hasp_models.cli import app
from hasp_models.experiments.ablation import CHANGES, WITHOUT_KG
from hasp_models.experiments.context import Context
from hasp_models.experiments.method import digest
from hasp_models.experiments.methods import METHODS
from hasp_models.experiments.reproduce import EXPERIMENTS, SLOW, reproduce
from hasp_models.files import load_tensors

SIZE: dict[str, Any] = {"quick": True, "seeds": 1, "splits": 2, "samples": 200, "quiet": True}


@pytest.fixture(scope="module", autouse=True)
def as_killed(tiny: None) -> Iterator[None]:
    """Few epochs, few dimensions, and one thread, as the process that is killed has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("experiments") / "out"
    return out, reproduce("all", data.source, out, methods=list(METHODS), **SIZE)


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_writes_rows_a_table_and_plots(everything: Any, name: str) -> None:
    out, rows = everything
    mine = [row for row in rows if row["experiment"] == name]
    assert mine and json.loads((out / name / "rows.json").read_text()) == mine
    for row in mine:
        assert row["dataset"] == "made-up" and row["splits"] <= 2 and row["seeds"] == 1 and row["queries"] > 0
        assert 0 <= row["low"] <= row["mean"] + 1e-12 and row["mean"] <= row["high"] + 1e-12 <= 1 + 1e-9
    lines = (out / name / "rows.csv").read_text().splitlines()
    assert len(lines) == len(mine) + 1 and lines[0].startswith("experiment,dataset,method")
    text = (out / name / "table.md").read_text()
    assert "2 splits of the users, 1 training seed per split" in text and "quick run" in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(widths) > 2
    drawings = list((out / name).glob("*.svg"))
    assert drawings
    for drawing in drawings:
        root = xml.etree.ElementTree.fromstring(drawing.read_text())
        assert root.tag.endswith("svg") and len(root.findall(".//{http://www.w3.org/2000/svg}g")) > 1


def test_table_1_has_every_method_group_and_truth(everything: Any) -> None:
    rows = [row for row in everything[1] if row["experiment"] == "table1"]
    assert {row["method"] for row in rows} == set(METHODS)
    assert {row["truth"] for row in rows} == {"co_sim", "co_sim_new", "co_sim_raw", "hc"}
    assert {row["metric"] for row in rows} == {"map@10", "map@50", "map@100"}
    cold = [row for row in rows if row["truth"] == "hc" and row["group"] == "cold"]
    assert {row["method"] for row in cold} == set(METHODS)
    assert all("gain" in row and "p_holm" in row for row in cold if row["method"] != "semantic_gnn")
    said = {(r["method"], r["truth"]): r["paper_over_base"] for r in rows if "paper_over_base" in r and r["metric"] == "map@10"}
    assert said["semantic_gnn", "co_sim"] == 0.2167 and said["gcn", "hc"] == -0.4932
    kinds = {m.name: m.group for m in METHODS.values()}
    best = {k: max(r["mean"] for r in rows if r["truth"] == "co_sim" and kinds[r["method"]] == k) for k in set(kinds.values())}
    assert best["co-engagement"] > best["chance"] and best["hybrid"] > best["chance"]


def test_the_search_gave_every_method_the_same_number_of_trials(everything: Any) -> None:
    out, _ = everything
    for name, method in METHODS.items():
        rows = [json.loads(line) for line in (out / "search" / f"{name}.jsonl").read_text().splitlines()]
        assert len(rows) == (2 if method.space else 1), name
        assert rows[0]["settings"] == method.settings(quick=True) and all(row["validation"] >= 0 for row in rows)


def test_figure_6_has_both_modes_and_only_embeds_new_entities(everything: Any) -> None:
    rows = [row for row in everything[1] if row["experiment"] == "fig6"]
    assert {row["mode"] for row in rows} == {"cold", "warm"}
    for name in ("blend", "semantic_gnn"):  # links of new entities are heard in warm alone
        both = [
            next(r["mean"] for r in rows if (r["method"], r["mode"], r["truth"], r["group"]) == (name, mode, "co_sim", "all"))
            for mode in ("cold", "warm")
        ]
        assert both[0] != both[1]
    content = {r["mean"] for r in rows if r["method"] == "tf_idf" and (r["truth"], r["group"]) == ("hc", "all")}
    assert len(content) == 3  # one number per cut-off: content does not hear links


def test_figures_7_and_8_compare_with_no_change(everything: Any) -> None:
    rows = everything[1]
    links = {row["variant"] for row in rows if row["experiment"] == "fig7"}
    assert links == {"none"} | {
        f"k={k} {w} {s}" for k in (1, 3, 5) for w in ("directed", "undirected") for s in ("l2", "cosine")
    }
    parts = [row for row in rows if row["experiment"] == "fig8"]
    assert [row["variant"] for row in parts if (row["truth"], row["metric"], row["group"]) == ("hc", "map@10", "all")] == [
        "parts=1",
        "parts=4, all parts in a step",
        "parts=4, one part in a step, equal epochs",
        "parts=4, one part in a step, equal steps",
    ]
    assert all("over_base" not in row for row in parts if row["variant"] == "parts=1")
    assert any("over_base" in row for row in parts)
    for row in parts:
        if "over_base" in row:
            assert row["margin"] == 0.01 and row["within_margin"] == (row["over_base_low"] > -0.01)


def test_every_change_of_the_ablation_reaches_the_model(everything: Any) -> None:
    every = [r for r in everything[1] if r["experiment"] == "ablation" and r["truth"] == "co_sim" and r["group"] == "all"]
    rows = [row for row in every if "pair" not in row]
    means = {row["method"]: row["mean"] for row in rows}
    changed = {n for n, more in CHANGES.items() if more.get("trust") != 0.0 or len(more) > 1}  # here, trust is 0 as it is
    assert set(means) == {*changed, "without the KG"} and len(changed) == len(CHANGES) - 1
    full = means.pop("as it is")
    assert all(mean != full for mean in means.values()), means
    assert {r["method"] for r in rows if "gain_relative" in r} == set(means)
    pairs = {row["pair"]: row for row in every if "pair" in row}
    assert set(pairs) == set(WITHOUT_KG) <= {"as it is", *means}
    for name, row in pairs.items():  # each beside the same with the KG
        beside = full if name == "as it is" else means[name]
        assert row["gain_relative"] == pytest.approx(beside / row["mean"] - 1) and row["mean"] != beside
    assert pairs["as it is"]["mean"] == means["without the KG"]
    text = (everything[0] / "ablation" / "table.md").read_text()
    assert text.count("what pretrained concepts bring") == 1


def test_a_repeated_run_fits_nothing_and_gives_the_same_rows(everything: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rows = everything
    before = files(out)
    for name, method in list(METHODS.items()):
        monkeypatch.setitem(METHODS, name, replace(method, run=None))  # type: ignore[arg-type]
    assert reproduce("all", data.source, out, methods=list(METHODS), **SIZE) == rows and files(out) == before


def test_the_best_trial_is_not_fitted_again_for_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[tuple[str, int]] = []

    def counted(benchmark: Any, settings: Any, seed: int, quiet: bool) -> Any:
        fits.append((digest(settings), benchmark is not first))
        return method.run(benchmark, settings, seed, quiet)

    benchmarks = {split: data.source(split) for split in (0, 1)}
    first, method = benchmarks[0], METHODS["blend"]
    monkeypatch.setitem(METHODS, "blend", replace(method, run=counted))
    rows = reproduce("table1", benchmarks.__getitem__, tmp_path / "one", methods=["blend"], trials=3, **SIZE)
    assert len(set(fits[:3])) == 3 and len(fits) == 4 and fits[3][1]  # three trials; the second split has none
    monkeypatch.setattr(Context, "keep", lambda *_: None)
    assert rows == reproduce("table1", benchmarks.__getitem__, tmp_path / "two", methods=["blend"], trials=3, **SIZE)
    assert len(fits) == 4 + 5  # now it is, to the same numbers


METHODS_OF_THE_KILLED = ("tf_idf", "sage", "semantic_gnn", "netflix")


def test_what_is_killed_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    out, whole = tmp_path / "killed", tmp_path / "whole"
    script = Path(data.__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(script), str(out), "fig5", *METHODS_OF_THE_KILLED],
        env=environment,
        stderr=subprocess.DEVNULL,
        cwd=script.parents[2],
    )
    while process.poll() is None and len(list(out.rglob("*.safetensors"))) < 1:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    done = files(out)
    assert done and not (out / "fig5").exists()
    rows = reproduce("fig5", data.source, out, methods=METHODS_OF_THE_KILLED, **SIZE)
    after = files(out)
    assert len(after) > len(done) and {name: after[name] for name in done} == done
    assert rows == reproduce("fig5", data.source, whole, methods=METHODS_OF_THE_KILLED, **SIZE)
    assert (out / "fig5" / "table.md").read_bytes() == (whole / "fig5" / "table.md").read_bytes()
    for name in METHODS_OF_THE_KILLED[1:]:
        logs = [(folder / "search" / f"{name}.jsonl") for folder in (out, whole)]
        if logs[0].exists():  # the search of what the figure does not use is left out
            trials = [[json.loads(x)["validation"] for x in log.read_text().splitlines()] for log in logs]
            assert trials[0] == trials[1]


def no_curated(split: int) -> Any:
    benchmark = data.source(split)
    return replace(benchmark, test={k: v for k, v in benchmark.test.items() if k != "hc"})


def no_links(split: int) -> Any:
    from hasp_models.data.csr import CSR

    return replace(data.source(split), links=CSR.from_pairs(np.zeros(0), np.zeros(0), data.ITEMS))


@pytest.mark.parametrize(
    ("what", "source", "options", "message"),
    [
        ("fig9", data.source, {}, "fig7, fig8, ablation or all, got 'fig9'"),
        ("table1", data.source, {"methods": ["cosin"]}, "methods are popularity, .* got 'cosin'"),
        ("fig5", data.source, {"methods": ["semantic_gnn"]}, "fig5 needs the method 'netflix', got --methods semantic_gnn"),
        ("table1", data.source, {"seeds": 0}, "seeds, splits, trials and samples are at least 1"),
        ("table1", no_curated, {}, "needs the test truths co_sim and hc, but 'made-up' has no query of 'hc'"),
        ("table1", no_links, {}, "needs links of graph users"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path: Path, what: str, source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HaspError, match=message):
        reproduce(what, source, tmp_path / "out", **{**SIZE, **options})
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_results_is_refused(everything: Any, tmp_path: Path) -> None:
    out, _ = everything
    before = files(out)
    with pytest.raises(HaspError, match=r"holds results of quick=True, this run has False; choose another --out"):
        reproduce("table1", data.source, out, **{**SIZE, "quick": False})
    with pytest.raises(HaspError, match=r"holds results of data='[0-9a-f]{20}', this run has '[0-9a-f]{20}'"):
        reproduce("table1", lambda split: data.source(split + 1), out, **SIZE)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(HaspError, match=r"holds 'notes.txt'; choose another"):
        reproduce("table1", data.source, tmp_path, **SIZE)
    assert files(out) == before and [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table1", "--data", "nowhere/books", "--out", "out"], "nowhere/books"),
        (
            ["table1", "--data", "nowhere", "--out", "out"],
            "--data is a folder named as one of ['books', 'movies'], got 'nowhere'",
        ),
        (["tabel1", "--data", "nowhere/books", "--out", "out"], "an experiment is one of table1"),
        (["table1", "--data", "nowhere/books", "--out", "out", "--methods", "gcn,gta"], "got 'gta'; correct --methods"),
    ],
)
def test_the_command_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["reproduce", *arguments])
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr and not (tmp_path / "out").exists()


def test_a_quick_run_is_quick_all_over(everything: Any) -> None:
    found = files(everything[0])
    rows = reproduce("table1", data.source, everything[0], **SIZE)
    assert {row["method"] for row in rows} == {*METHODS} - {*SLOW} and files(everything[0]) == found
    small = METHODS["semantic_gnn"].settings(quick=True)
    paths = (everything[0] / "results/ablation").glob("semantic_gnn-*.safetensors")
    settings = [json.loads(load_tensors(path)["meta"].numpy().tobytes())["settings"] for path in paths]
    assert len(settings) > 10
    assert all(s["epochs"] <= small["epochs"] and s["dim"] <= small["dim"] for s in settings)
    assert min(s["dim"] for s in settings) == small["dim"] // 2


def test_the_command_says_what_it_will_do_and_prints_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hasp_models.experiments import reproduce as module

    (tmp_path / "books").mkdir()
    monkeypatch.setattr(module, "load_benchmark", lambda folder, seed, raw: data.source(seed))
    arguments = ["reproduce", "table1", "--data", str(tmp_path / "books"), "--out", str(tmp_path / "out"), "--quick"]
    result = CliRunner().invoke(app, [*arguments, "--methods", "cosine, tf_idf,sage", "--json"])
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {row["method"] for row in rows} == {"popularity", "cosine", "tf_idf", "sage"}
    lines = result.stderr.splitlines()
    assert lines[0] == "table1: 4 methods, 1 split, 1 seed, 2 trials; measuring the speed of 4 methods"
    assert "; 5 trials and 4 fits are left, about " in lines[1] and "0 left" in lines[-1] and len(lines) == 11
    again = CliRunner().invoke(app, [*arguments, "--methods", "cosine,tf_idf,sage"])
    assert again.exit_code == 0 and again.stderr.splitlines() == [
        "table1: 4 methods, 1 split, 1 seed, 2 trials; nothing is left to run"
    ]
    assert again.stdout.startswith("# Table 1: made-up")
