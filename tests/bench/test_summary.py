"""The README's first table: a line per bench, read off histories and nothing else."""

import pytest

from bench import run, summary
from bench.table import Table


def test_every_line_is_in_the_history_that_the_project_keeps():
    kept = run.last(run.HERE / "results", "summary")
    assert kept is not None and len(kept.rows) == len(summary.LINES)
    assert all(row["times faster"] > 0 for row in kept.rows)


def made_up(factor=4.0):
    rows = [{"EELs": 5_000_000, "by": "to_undirected, 2 threads", "hasp on as many threads is faster by": factor}]
    rows += [{"EELs": 5_000_000, "by": "hasp, 1 thread", "peak bytes per EEL": 20.0}]
    rows += [{"EELs": 5_000_000, "by": "to_undirected, 1 thread", "peak bytes per EEL": 80.0}]
    return Table("csr", "made up", ("by",), rows)


def test_numbers_are_those_of_the_bench_and_what_has_not_run_has_no_line():
    table = summary.table(lambda name: made_up() if name == "csr" else None)
    assert table is not None
    assert [(row["times faster"], row["memory, of its"]) for row in table.rows] == [(4.0, 0.25)]
    assert summary.table(lambda name: None) is None


def test_a_bench_that_changed_is_named_not_read_wrongly():
    twice = made_up()
    twice.rows = [*twice.rows, *twice.rows]
    with pytest.raises(ValueError, match=r"one row has .* found 2"):
        summary.table(lambda name: twice if name == "csr" else None)
    with pytest.raises(ValueError, match=r"found 0"):
        summary.table(lambda name: Table("csr", "", ()) if name == "csr" else None)
