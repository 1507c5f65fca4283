"""The billion-edge run at a ten-thousandth of its size: every stage does its work, and a watched process is seen as it is."""

import json

import numpy as np
import pytest

from bench import billion, run, watch
from bench.billion import Sizes
from bench.table import Table
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
    assert set(second.row()) > {"stage", "seconds", "resident [MB]"}
    with pytest.raises(RuntimeError, match="no_such"):
        watch.watch("start", "held:no_such")


def test_the_command_line_keeps_a_history_with_slopes(tmp_path, monkeypatch, capsys):
    def fake(sizes, scratch, num_parts, backend, out_of_core):
        seconds, size = sizes.edges / 1e3, 1000 * sizes.edges
        return [watch.Watched(s, seconds, size, 2 * size, 3, 4, {}) for s in ("start", "generate", "read", "parts", "train")]

    monkeypatch.setattr(billion, "measure", fake)
    assert run.main(["billion", "--edges", "1e4", "1e5", "--results", str(tmp_path)]) == 0
    entry = json.loads((tmp_path / "billion.jsonl").read_text())
    stages = ["generate", "read", "parts", "train", "build, all of it"]
    assert [(row["edges"], row["stage"]) for row in entry["rows"]] == [(n, s) for n in (10_000, 100_000) for s in stages]
    whole = entry["rows"][-1]
    assert (whole["seconds"], whole["resident [MB]"], whole["written [MB]"]) == (200.0, 200.0, 8e-6)
    assert "read: time ~ edges^1.00, resident ~ edges^1.00 from 10,000 to 100,000." in " ".join(entry["notes"])
    assert "| 100,000 | read |" in capsys.readouterr().out
    assert isinstance(billion._slopes(Table("a", "b", ())), list)
