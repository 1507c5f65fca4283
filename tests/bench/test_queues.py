"""Queues and the map-reduce at their small sizes: every way gives the same, and the rows mean something."""

import pytest
from bench_rows import numbers

from bench import map_reduce, pinsage, queues

pytestmark = pytest.mark.usefixtures("peers_may_warn")


def test_queues_carry_the_same_batches_by_every_way():
    (table,) = queues.run("small")
    assert [row["by"] for row in table.rows] == list(queues.WAYS) * 3
    assert len(numbers(table, "trainer [ms CPU]")) == 15
    assert all(row["tensors"] > 20 and row["MB per batch"] > 0.01 for row in table.rows)


def test_queues_notice_a_wrong_batch():
    from bench.graphs import ENTITIES, Planted, hetero
    from hasp import HASPData, HASPLoader, Schema

    parts = HASPData(hetero(Planted(300, 900)), Schema(entity=ENTITIES), num_parts=2, log=False)
    one, two = HASPLoader(parts)
    queues.same(one, one)
    with pytest.raises(AssertionError, match="differs"):
        queues.same(one, two)


def test_map_reduce_gives_the_vectors_of_the_whole_graph():
    (table,) = map_reduce.run("small")
    assert [row["by"] for row in table.rows] == ["the whole graph", "parts, 1 process", "parts, 2 processes"] * 2
    numbers(table, "seconds")
    assert all(row["largest difference"] < 1e-6 for row in table.rows if row["by"] != "the whole graph")


def test_pinsage_changes_one_thing_per_row():
    (table,) = pinsage.run("small")
    assert [row["model"] for row in table.rows] == list(pinsage.ROWS)
    numbers(table, "HC-Sim")
