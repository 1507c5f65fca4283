"""GraphSAGE that tells labels: the score, and a small run of the bench."""

from __future__ import annotations

import pytest
import torch

from bench import distributed_sage


def test_micro_f1() -> None:
    logits = torch.tensor([[1.0, -1.0, 2.0], [-1.0, 3.0, -2.0], [-1.0, -1.0, -1.0]])
    several = torch.tensor([[1, 1, 1], [0, 1, 0], [1, 0, 0]], dtype=torch.uint8)  # 3 said, all true; 5 true
    assert distributed_sage.micro_f1(logits, several) == pytest.approx(2 * 3 / (3 + 5))
    assert distributed_sage.micro_f1(logits, torch.tensor([2, 1, 1])) == pytest.approx(2 / 3)
    assert distributed_sage.micro_f1(logits[:0], several[:0]) == 0.0
    assert distributed_sage.micro_f1(logits.neg(), several) == pytest.approx(2 * 2 / (6 + 5))


def test_ranks_learn_what_one_process_learns() -> None:
    """A small run: two and four ranks give the model of one, halos give back what is cut, and only ranks send."""
    (table,) = distributed_sage.run("small")
    assert not table.alone()
    rows = {row["by"]: row for row in table.rows}
    assert list(rows) == list(distributed_sage.WAYS)
    for by, row in rows.items():
        assert (row["MB sent per rank"] > 0) == (distributed_sage.WAYS[by][1] > 1)
        assert row["runs"][0]["steps"] == (2 if "passes" in by else 4)
    for kind in ("METIS parts", "METIS parts and halo"):
        alone = rows[f"{kind}, 1 process"]
        for size in (2, 4):
            row = rows[f"{kind}, {size} ranks"]
            assert row["weights apart"] < 1e-5
            assert row["micro-F1"] == alone["micro-F1"] and row["embedded by parts"] == alone["embedded by parts"]
            assert row["links kept"] == alone["links kept"]
    assert rows["METIS parts and halo, 1 process"]["links kept"] == rows["the whole graph, 1 process"]["links kept"] == "100%"
    assert rows["random parts, 2 ranks"]["links kept"] < rows["METIS parts, 1 process"]["links kept"]
