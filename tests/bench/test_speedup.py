"""The speed-up bench: how tasks are handed out, and a small run."""

from __future__ import annotations

import pytest

from bench import speedup


def test_tasks_go_to_whoever_is_free() -> None:
    assert speedup.handed_out([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert speedup.handed_out([1.0, 1.0, 1.0, 3.0], 2) == 4.0  # in order: the long one last
    assert speedup.handed_out([1.0, 2.0], 1) == 3.0 and speedup.handed_out([], 3) == 0.0
    assert speedup.handed_out([1.0, 2.0], 5) == 2.0


def test_a_small_run() -> None:
    (table,) = speedup.run("small")
    assert [(row["what"], row["by"]) for row in table.rows] == [(w, k) for w in ("training", "embedding") for k in (1, 2)]
    assert not table.alone() and table.rows[0]["speed-up"] == table.rows[2]["speed-up"] == 1.0
    assert 1.0 < table.rows[3]["speed-up"] <= 2.0  # computed: several parts in two hands
    assert table.rows[0]["MB sent per step"] == 0.0 < table.rows[1]["MB sent per step"]
    assert table.drawing.startswith("<svg") and table.drawing.count("<polyline") == 3
    assert table.rows[2]["CPU seconds of the busiest"] == pytest.approx(table.rows[2]["runs"][0])
