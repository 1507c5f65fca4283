"""Means, gains and ratios with their intervals, in closed form and against the central limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from experiment_data import result

from hasp.errors import HaspError
from hasp_models.experiments.intervals import averaged, gain, means_of, relative
from hasp_models.experiments.tables import rows_of, with_holm


def test_constant_values_have_an_interval_of_no_width() -> None:
    means = means_of({"a": [result([0.5] * 7)], "b": [result([0.2] * 7)]}, ["map@10"], samples=100)["map@10"]
    assert means.queries == 7 and means.splits == 1
    found = means.of("a")
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    difference = gain(means, "a", "b")
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.3, 0.3, 0.3))
    assert difference.p == pytest.approx(2 / 101)
    ratio = relative(means, "a", "b")
    assert ratio is not None and (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))
    zero = means_of({"a": [result([0.5])], "b": [result([0.0])]}, ["map@10"], samples=5)["map@10"]
    assert relative(zero, "a", "b") is None


def test_splits_weigh_alike_and_seeds_are_averaged_per_query() -> None:
    runs = [result([0.0, 1.0, 0.5]), result([1.0, 1.0, 0.5])]
    assert averaged(runs).values["map@10"].tolist() == [0.5, 1.0, 0.5]
    means = means_of({"a": [result([1.0] * 9), result([0.0])]}, ["map@10"], samples=10)["map@10"]
    assert means.of("a").value == 0.5 and means.queries == 10


def test_differences_are_paired() -> None:
    """Values that vary much, and a method that is better by the same on each query: the difference does not vary at all."""
    values = np.random.default_rng(0).random(50) / 2
    means = means_of({"a": [result(values + 0.1)], "b": [result(values)]}, ["map@10"], samples=400)["map@10"]
    found, alone = gain(means, "a", "b"), means.of("a")
    assert found.high - found.low < 1e-9 and alone.high - alone.low > 0.05
    same = gain(means, "a", "a")
    assert same.p == 1.0


def test_the_interval_of_a_mean_is_that_of_the_central_limit() -> None:
    values = np.random.default_rng(1).random(400)
    means = means_of({"a": [result(values), result(values)]}, ["map@10"], samples=4000)["map@10"]
    found = means.of("a")
    half = 1.96 * values.std() / np.sqrt(400) / np.sqrt(2)  # two splits, drawn apart from each other
    assert found.high - found.low == pytest.approx(2 * half, rel=0.08)


def test_groups_without_queries_have_no_row_and_other_queries_are_refused() -> None:
    rows = rows_of({"a": {"hc": [result([0.1, 0.2, 0.3])]}}, metrics=["map@10"], groups=(None, "cold", "group2"), samples=10)
    assert [(r["group"], r["queries"], round(r["mean"], 6)) for r in rows] == [("all", 3, 0.2), ("cold", 2, 0.15)]
    with pytest.raises(HaspError, match="compared on the same queries"):
        means_of({"a": [result([0.1])], "b": [result([0.1, 0.2])]}, ["map@10"], samples=5)
    with pytest.raises(HaspError, match="judged by the same queries"):
        averaged([result([0.1]), result([0.1, 0.2])])


def test_holm_over_the_comparisons_that_a_table_shows() -> None:
    rows: list[dict[str, Any]] = [{"gain_p": 0.01, "of": 1}, {"of": 1}, {"gain_p": 0.04, "of": 1}, {"gain_p": 0.03, "of": 2}]
    with_holm(rows, lambda row: row["of"] == 1)
    assert [row.get("p_holm") for row in rows] == [0.02, None, 0.04, None]
