"""The floors of the kernels, and two loaders at equal time, at their small sizes. No time is judged here."""

import pytest

from bench import equal_time, floors

pytestmark = pytest.mark.usefixtures("peers_may_warn")


def test_every_kernel_stands_beside_its_floor():
    (table,) = floors.run("small")
    assert len(table.rows) == 9
    assert table.alone() == []
    for row in table.rows:
        assert row["MB that must move"] > 0
        assert all(value > 0 for key, value in row.items() if key.endswith("times the floor"))


def test_both_loaders_are_judged_at_every_mark():
    (table,) = equal_time.run("small")
    names = [row["by"] for row in table.rows]
    left_out = any("torch-sparse" in note for note in table.notes)
    assert names == ["HASPLoader"] + ["LinkNeighborLoader"] * (not left_out)
    for row in table.rows:
        assert all(0 <= score <= 1 for run in row["runs"] for score in run)
        assert row["supervised pairs trained on"] > 0
