"""The billion-edge run at a ten-thousandth of its size: every stage does its work, and a watched process is seen as it is."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import billion, billion_table, curve, run, scaling, watch
from bench.billion import Sizes
from hasp import open_source
from hasp.scratch import MEMORY
from hasp.sources import tables

pytest.importorskip("pyarrow")


@pytest.mark.parametrize("ids", ["count", "wide", "text"])
def test_from_parquet_to_a_training_step(tmp_path, capsys, ids, monkeypatch):
    monkeypatch.setattr("hasp.sources.ids._MANY", 100)
    monkeypatch.setattr(billion, "_ROWS", 1 << 13)
    monkeypatch.setattr(billion, "_COMMUNITY", 50)
    monkeypatch.setattr("hasp.scratch._LEAST", 1 << 10)
    source, root = tmp_path / "tables", tmp_path / "parts"
    billion.generate(str(source), edges=100_000, floats=8, ids=ids)
    graph = open_source(source)
    assert sum(graph.num_edges(e) for e in graph.edges) == 100_000 and graph.num_nodes["title"] == 1000
    graph.check()
    src, dst = (t.numpy() for t in graph.edges[billion.EEL])
    there = Sizes(100_000)
    back = np.argsort(billion._shuffled(there, np.arange(1000)))
    assert 0.75 < (back[src] // 50 == back[dst] // 50).mean() < 0.9
    found = billion.build(str(source), str(root), 4, "random", True)
    assert found["log"]["scratch_bytes"] > 0.5 * found["planned"]["scratch_bytes"] > 0
    assert billion.verify(str(root)) == {"problems": []}
    trained = billion.train(str(root), 2)
    assert len(trained["losses"]) == 2 and all(np.isfinite(trained["losses"]))
    assert "stage read\n" in capsys.readouterr().out


def test_the_same_graph_at_any_number_of_threads_and_from_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(billion, "_ROWS", 1 << 10)
    billion.generate(str(tmp_path / "a"), edges=20_000, floats=2, ids="count")
    monkeypatch.setattr("hasp.parallel.cores", lambda threads=0: 1)
    billion.generate(str(tmp_path / "b"), edges=20_000, floats=2, ids="count")
    graphs = [tables.read_tables(tmp_path / name, MEMORY) for name in "ab"]
    assert graphs[0].fingerprint() == graphs[1].fingerprint()


def test_a_process_is_watched_stage_by_stage(monkeypatch, tmp_path):
    monkeypatch.setattr(watch, "HERE", run.HERE)
    (tmp_path / "held.py").write_text(
        "import time, numpy as np\n"
        "def hold(megabytes):\n"
        "    print('stage first', flush=True); a = np.ones(megabytes << 17); time.sleep(0.1)\n"
        "    print('stage second', flush=True); del a; time.sleep(0.2)\n"
        "    return {'sum': 1.0}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    start, first, second = watch.watch("start", "held:hold", megabytes=200)
    assert (start.stage, first.stage, second.stage) == ("start", "first", "second")
    assert first.anonymous > 200e6 and second.result == {"sum": 1.0} and first.seconds >= 0.1
    assert first.resident >= first.anonymous > start.anonymous
    assert start.cpu > 0 and second.row()["CPU seconds"] >= 0
    assert set(second.row()) > {"stage", "seconds", "resident [MB]"}
    with pytest.raises(RuntimeError, match="no_such"):
        watch.watch("start", "held:no_such")


def test_the_command_line_keeps_a_history_beside_the_speed_of_the_disk(tmp_path, monkeypatch, capsys):
    def fake(sizes, scratch, num_parts, backend, out_of_core):
        seconds, size = sizes.edges / 1e3, 1000 * sizes.edges
        made = {
            "generate": {"bytes": 4 * sizes.edges},
            "parts": {"part_bytes": 8 * sizes.edges, "files_by_plan": sizes.edges > 5e4},
        }
        stages = ("start", "generate", "read", "parts", "train")
        return [watch.Watched(s, seconds, seconds / 2, size, 2 * size, 3, 4, made.get(s, {})) for s in stages]

    monkeypatch.setattr(billion, "measure", fake)
    monkeypatch.setattr(billion, "disk_bandwidth", lambda folder: (4e6, 1e6))
    assert run.main(["billion", "--edges", "1e4", "1e5", "--results", str(tmp_path)]) == 0
    entry = json.loads((tmp_path / "billion.jsonl").read_text())
    stages = ["generate", "read", "parts", "train", billion_table.WHOLE]
    assert [(row["edges"], row["stage"]) for row in entry["rows"]] == [(n, s) for n in (10_000, 100_000) for s in stages]
    whole = entry["rows"][-1]
    assert (whole["seconds"], whole["CPU seconds"], whole["resident [MB]"], whole["written [MB]"]) == (
        200.0,
        100.0,
        200.0,
        8e-6,
    )
    # 100,000 edges: 4e5 bytes of tables at 4e6 a second, 8e5 bytes of parts at 1e6
    assert whole["times the floor"] == pytest.approx(200 / 0.9) and entry["rows"][-4]["times the floor"] == pytest.approx(1000)
    assert entry["rows"][-2]["times the floor"] is None  # nothing to hold a training step against
    out = capsys.readouterr().out
    assert "| 100,000 | read |" in out and "takes files here at 100,000 edges" in out
    table = run.last(tmp_path, "billion")
    assert [row["stage"] for row in table.rows] == [billion_table.WHOLE] * 2 and not table.alone()


def entry_of(seconds, load=0.5, cores=2, **rows):
    """A line of the history: ``rows`` are edges (as e4=...) -> factor of the seconds."""
    stages = [billion_table.WHOLE, *scaling.STAGES]
    made = [
        {
            "edges": 10 ** int(name[1:]),
            "stage": stage,
            "seconds": seconds(10 ** int(name[1:])) * factor,
            "resident [MB]": 100 + 10 ** int(name[1:]) / 1e4,
            "own memory [MB]": 50.0,
            "result": {"planned": {"peak_build_bytes": 10**7}} if stage == "parts" else {},
        }
        for name, factor in rows.items()
        for stage in stages
    ]
    where = run.machine() | {"cores": cores, "load_average": load}
    return json.dumps({"size": "full", "machine": where, "title": "A run", "rows": made, "notes": ["Machine: x."]})


def test_scaling_is_drawn_from_the_newest_run_of_each_size(tmp_path, capsys, monkeypatch):
    lines = [
        entry_of(lambda n: 1 + n / 1e4, e8=9.0, e9=5.0, load=7.0),
        entry_of(lambda n: 99.0, cores=64, e5=1.0),  # another machine
        entry_of(lambda n: 1 + (n / 1e5) ** 1.05, e4=1.0, e5=1.0, e6=1.0, e7=1.0, e8=1.0),
    ]
    (tmp_path / "billion.jsonl").write_text("\n".join(lines) + "\n")
    entry = scaling.newest(tmp_path)
    assert [row["edges"] for row in entry["rows"] if row["stage"] == "cut"] == [10**e for e in (4, 5, 6, 7, 8, 9)]
    assert [row["edges"] for row in entry["rows"] if row["stage"] == "cut" and row["busy"]] == [10**9]
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "README_FILES", (tmp_path / "README.md", tmp_path / "bench" / "README.md"))
    for path in run.README_FILES:
        path.parent.mkdir(exist_ok=True)
        path.write_text("<!-- bench:scaling -->\n<!-- /bench -->\n")
    assert run.main(["scaling", "--results", str(tmp_path)]) == 0
    for text, link in ((path.read_text(), link) for path, link in zip(run.README_FILES, ("docs", "../docs"), strict=True)):
        assert f"]({link}/results/scaling.svg)" in text and "| partition |" in text and "Machine: " in text
        assert "1.05 ± 0.00" in text  # without the busy size
        assert "fitted without 1G" in text
    drawn = ElementTree.parse(tmp_path / "docs" / "results" / "scaling.svg").getroot()
    words = [e.text for e in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"build ^1.05", "partition ^1.05", "planned for arrays", "1G", "100M"} <= set(words)
    hollow = [e for e in drawn.iter("{http://www.w3.org/2000/svg}circle") if e.get("class") == "o"]
    assert len(hollow) == 2 + 2 + 2 * len(scaling.STAGES)
    assert scaling.newest(tmp_path / "nowhere") is None
    assert run.main(["scaling", "--results", str(tmp_path / "nowhere")]) == 0
    assert "no history to draw from" in capsys.readouterr().out


def test_an_exponent_is_that_of_the_growing_part():
    sizes = [10.0**e for e in range(3, 9)]
    for power in (0.5, 1.0, 1.2):
        found, error = scaling.fit([(n, 2.0 + 1e-5 * n**power) for n in sizes])
        assert found == pytest.approx(power, abs=0.01) and error < 0.05
    assert scaling.fit([(n, 3 * n) for n in sizes])[0] == pytest.approx(1.0, abs=0.01)
    assert scaling.fit([(1.0, 1.0), (2.0, 3.0)]) is None
    assert scaling.fit([(n, n**1.1) for n in sizes[:3]])[1] is None  # as many points as unknowns


@given(st.lists(st.floats(0, 100), min_size=1, max_size=7))
def test_labels_keep_their_order_and_do_not_overlap(wanted):
    placed = curve.spread(wanted, 0, 120, apart=14)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(np.array(placed)[order]) >= 14 - 1e-9).all()
    assert max(placed) <= 120 + 1e-9
