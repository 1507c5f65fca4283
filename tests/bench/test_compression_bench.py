"""The benches of what ranks send run at their small sizes, in real processes; what is counted is what the kernel saw."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from bench import compression, curve, distributed, trees, wire

WIRE = """
import json, torch, torch.distributed as dist
from bench.forked import on_ranks
from bench.wire import tcp_bytes_sent

def task():
    one, rows = torch.ones(50_000), [torch.empty(20_000) for _ in range(2)]
    dist.all_reduce(one)
    dist.barrier()
    before = tcp_bytes_sent()
    dist.all_reduce(one)
    middle = tcp_bytes_sent()
    dist.all_gather(rows, torch.ones(20_000))
    return {"sent": [middle - before, tcp_bytes_sent() - middle]}

torch.set_num_threads(1)
print(json.dumps([rank["sent"] for rank in on_ranks(2, task)]))
"""


@pytest.mark.skipif(wire.tcp_bytes_sent() is None, reason="this system does not say what a connection has sent")
def test_the_kernel_counts_what_collectives_send():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", WIRE], capture_output=True, text=True, check=True)
    for reduced, gathered in json.loads(done.stdout):
        assert 200_000 <= reduced < 202_000  # W = 2: an all-reduce sends 2 (W - 1) / W of it, an all-gather W - 1 times
        assert 80_000 <= gathered < 81_000


def test_every_way_of_sending_has_its_row_and_its_bytes():
    (table,) = compression.run("small")
    rows = {row["gradients"]: row for row in table.rows}
    assert list(rows) == list(compression.WAYS) and not table.alone()
    dense = rows["dense"]["bytes per step"]
    weights = int(re.findall(r"([\d,]+) weights", table.title)[0].replace(",", ""))
    assert 1 <= dense / (4 * weights) < 1.2  # and what frames them
    assert 0.5 <= rows["fp16"]["of dense"] < 0.65 and rows["DGC, 1 %"]["of dense"] < 0.2
    assert rows["DGC, 0.1 %"]["bytes per step"] <= rows["DGC, 1 %"]["bytes per step"]
    assert all(np.isfinite([row["loss"], row["MAP@10"], row["ms per step"]]).all() for row in table.rows)
    assert table.picture.endswith(".svg") and all(
        f">{way}</text>" in table.drawing for way, how in compression.WAYS.items() if how[1] == "AdamW"
    )


def test_a_tree_sends_less_than_all_ranks_as_often_and_more_than_all_as_rarely():
    (table,) = trees.run("small")
    rows = {row["gradients"]: row for row in table.rows}
    assert list(rows) == list(trees.WAYS) == list(trees.OVER_ALL) and not table.alone()
    dense, often, tree, rare = (row["bytes per step"] for row in table.rows)
    assert dense > often > tree > rare
    assert all(np.isfinite([row["loss"], row["MAP@10"]]).all() for row in table.rows)


def test_as_many_processes_learn_the_same():
    (table,) = distributed.run("small")
    rows = {row["by"]: row for row in table.rows}
    assert list(rows) == list(distributed.CONTENDERS) and not table.alone()
    same = [rows[f"METIS parts, {n}"] for n in ("1 process", "2 processes", "4 processes")]
    assert len({row["MAP@10"] for row in same}) == 1
    assert max(row["largest difference of a weight"] for row in same) < 1e-4
    assert rows["random parts, 1 process"]["edges kept"] < same[0]["edges kept"] < 1
    assert rows["the whole graph, 1 process"]["edges kept"] == 1


def test_a_drawing_holds_its_points_and_escapes_names():
    for log in ("xy", "x", ""):
        some = [curve.Curve("a<b", [(1e3, 0.1), (2e5, 0.3)]), curve.Curve("one", [(10.0, 0.5)], colour=1)]
        for curves in (some, some[1:]):  # a point alone has a scale, too
            panel = curve.Panel("y", "x", curves, lambda x: f"{x:.0f} B", lambda y: f"{y:.4f}", log, low=None)
            text = curve.draw("t", [panel])
            assert "nan" not in text and text.count("<circle") == sum(len(c.points) for c in curves)
            assert "one: 10 B, 0.5000" in text and ("a&lt;b: 200000 B, 0.3000" in text) is (len(curves) == 2)
            at = [tuple(map(float, m)) for m in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', text)]
            assert all(66 <= x <= 410 and 34 <= y <= 286 for x, y in at)
