"""Judged pools: AUC and MAP in closed form, both classes, ties, what a table may not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hasp.errors import HaspError
from hasp.graph import HaspWarning
from hasp_models.data.judged import Judged, evaluate_judged
from hasp_models.data.neighbors import FixedScorer

# One dimension and dot products: the score of (a, b) is x[a] * x[b].
X = torch.tensor([[1.0], [4.0], [3.0], [2.0], [1.0], [5.0]])


def pool(*grades: tuple[int, float], seed: int = 0) -> Judged:
    return Judged.from_pairs("pool", [seed] * len(grades), [i for i, _ in grades], [g for _, g in grades])


def values(judged: Judged, threshold: float = 0.5) -> dict[str, list[float]]:
    found = evaluate_judged(X, judged, threshold=threshold, score="dot")
    return {name: v.tolist() for name, v in found.values.items()}


def test_closed_forms() -> None:
    # Ranked 1, 2, 3, 4 (scores 4, 3, 2, 1).
    assert values(pool((1, 1), (2, 1), (3, 0), (4, 0))) == {"auc": [1.0], "map": [1.0], "share": [0.5]}
    assert values(pool((1, 0), (2, 0), (3, 1), (4, 1))) == {
        "auc": [0.0],
        "map": [pytest.approx((1 / 3 + 2 / 4) / 2)],
        "share": [0.5],
    }
    found = values(pool((1, 1), (2, 0), (3, 1), (4, 0)))
    assert found["auc"] == [0.75] and found["map"] == [pytest.approx((1 + 2 / 3) / 2)]
    found = values(pool((1, 0), (2, 1), (3, 0)))
    assert found["auc"] == [0.5] and found["map"] == [0.5] and found["share"] == [pytest.approx(1 / 3)]


def test_equal_scores_count_half_and_rank_by_id() -> None:
    same = torch.ones(4, 1)
    for judged, precision in ((pool((1, 1), (2, 0)), 1.0), (pool((1, 0), (2, 1)), 0.5)):
        found = evaluate_judged(same, judged, threshold=0.5, score="dot").values
        assert found["auc"].tolist() == [0.5] and found["map"].tolist() == [precision]


def test_judgments_of_a_pair_are_averaged_and_seeds_with_one_class_have_no_value() -> None:
    judged = Judged.from_pairs("j", [5, 0, 0, 0, 5, 0, 3], [1, 2, 2, 1, 2, 0, 1], [5, 1, 4, 1, 1, 5, 5])
    assert judged.seeds.tolist() == [0, 3, 5] and judged.items.tolist() == [1, 2, 1, 1, 2]
    assert judged.grades.tolist() == [1.0, 2.5, 5.0, 5.0, 1.0]
    assert judged.left_out == {"same entity": 1}
    result = evaluate_judged(X, judged, threshold=2.0, score="dot")
    assert result.queries.tolist() == [0, 5]  # all of seed 3's pool is similar
    assert result.values["auc"].tolist() == [0.0, 1.0]
    assert result.interval("auc").queries == 2
    with pytest.raises(HaspError, match=r"threshold 9.0, but none of 3 has both; grades are 1 to 5"):
        evaluate_judged(X, judged, threshold=9.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=12), st.integers(0, 1))
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]], shift: int) -> None:
    """Against the definition, with ties: scores are few, so that many are equal."""
    rows = [*rows, (1, True), (2, False)]
    table = np.zeros((1 + len(rows), 1 + len(rows)), dtype=np.float32)
    table[0, 1:] = [s + shift for s, _ in rows]
    judged = pool(*((i + 1, float(good)) for i, (_, good) in enumerate(rows)))
    found = evaluate_judged(FixedScorer(torch.from_numpy(table)), judged, threshold=0.5).values
    good, rest = [s for s, g in rows if g], [s for s, g in rows if not g]
    order = sorted(range(len(rows)), key=lambda i: (-rows[i][0], i))
    hits = [rows[i][1] for i in order]
    precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits)) if hits[i]]
    assert found["auc"][0] == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a in good for b in rest]))
    assert found["map"][0] == pytest.approx(np.mean(precisions))


def test_a_table_is_read_by_the_users_ids(tmp_path: Path) -> None:
    path = tmp_path / "judged.csv"
    path.write_text("a,b,score\nm1,m3,5\nm1,m2,1\nm1,zz,3\n")
    ids = np.array(["m3", "m1", "m2"])
    with pytest.raises(HaspError, match=r"but 1 are not \('zz'\)"):
        Judged.read(path, ids)
    with pytest.warns(HaspWarning, match=r"1 of 3 pairs are left out, for 1 ids are no entity \('zz'\)"):
        judged = Judged.read(path, ids, skip_unknown=True)
    assert (judged.name, judged.seeds.tolist(), judged.items.tolist()) == ("judged", [1], [0, 2])
    assert judged.grades.tolist() == [5.0, 1.0] and judged.left_out == {"unknown id": 1, "same entity": 0}
    for text in ("a,b\n1,2\n", "a,b,score\n1,2,good\n"):
        path.write_text(text)
        with pytest.raises(HaspError, match=r"as numbers, 'score', found \['a', 'b'\]"):
            Judged.read(path, [1, 2])
    path.write_text("a,b,score\n1,1,4\n")
    with pytest.raises(HaspError, match="pairs of two entities, found none"):
        Judged.read(path, [1, 2])
    with pytest.raises(HaspError, match="finite number, got nan in row 2"):
        Judged.from_pairs("j", [0, 0], [1, 2], [1.0, float("nan")])
    with pytest.raises(HaspError, match="among the 2 scored ones, got id 3"):
        evaluate_judged(X[:2], pool((1, 0), (3, 1)), threshold=0.5)
