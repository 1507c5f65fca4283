"""The books of ``shared/data``: counts of the split and the floors of the simplest baselines."""

import os
from pathlib import Path

import pytest

from hasp_models.data.baselines import BASELINES
from hasp_models.data.catalogues import load_benchmark
from hasp_models.data.evaluate import evaluate

BOOKS = Path(os.environ.get("HASP_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "books"
pytestmark = pytest.mark.skipif(not BOOKS.is_dir(), reason=f"{BOOKS} is not there; set HASP_SHARED to the shared folder")


def test_books_without_author():
    benchmark = load_benchmark(BOOKS, seed=0)
    assert "author" not in benchmark.graph.num_nodes and benchmark.num_items == 10_000
    assert 14_000 < benchmark.links.indices.size // 2 < 17_500
    floors = {"popularity": (0.0, 0.03, 0.0, 0.01), "tf_idf": (0.07, 0.11, 0.26, 0.35)}
    for name, (low, high, hc_low, hc_high) in floors.items():
        scorer = BASELINES[name](benchmark)
        assert low <= evaluate(scorer, benchmark.test["co_sim"]).mean() <= high
        assert hc_low <= evaluate(scorer, benchmark.test["hc"]).mean() <= hc_high
