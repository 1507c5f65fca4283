"""Training with gradients sent in other ways: ranks agree, stops change nothing, what waits survives another world size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_ranks
from sending_ranks import kind_of, train
from torch import nn
from train_graphs import small_parts

from hasp.errors import HaspError
from hasp_models.cli import main
from hasp_models.distributed.gradients import Gradients
from hasp_models.distributed.ranks import Ranks
from hasp_models.distributed.sending import Sending, sender_of_run

WAYS = ["dense", "fp16", "dgc:1", "dgc:0.05", "powersgd:1", "local-sgd:2"]


pytestmark = pytest.mark.usefixtures("quick_disk")


def test_ranks_agree_whichever_way_gradients_go(tmp_path: Path) -> None:
    first, second = on_ranks(2, tmp_path, "sending_ranks:ways", WAYS, str(tmp_path))
    dense = np.array(first["dense"]["weights"])
    for text in WAYS:
        assert first[text] == second[text], text
        assert np.isfinite(first[text]["loss"]).all()
        assert first[text]["step"] == first["dense"]["step"] == 9
        assert (first[text]["weights"] != first["dense"]["weights"]) == (text != "dense")
    # All of a gradient, clipped apart: not dense to the bit, but near; half precision likewise.
    np.testing.assert_allclose(first["fp16"]["weights"], dense, atol=5e-3)
    sent = {t: json.loads((tmp_path / t.replace(":", "-") / "metrics.json").read_text())["sent_bytes"] for t in WAYS}
    assert all(sent[text] < sent["dense"] for text in ("fp16", "dgc:0.05", "powersgd:1"))  # epochs of 3 steps


def test_all_of_a_gradient_trains_as_dense_does(tmp_path: Path) -> None:
    """Without clipping there is no difference but the order of a division, over parts of unequal weight and empty ones."""
    for rank in on_ranks(3, tmp_path, "sending_ranks:dense_and_all"):
        np.testing.assert_allclose(rank["dgc:1"]["loss"], rank["dense"]["loss"], rtol=1e-5)
        np.testing.assert_allclose(rank["dgc:1"]["weights"], rank["dense"]["weights"], atol=2e-4)


def test_a_run_in_pieces_is_the_run(tmp_path: Path) -> None:
    texts = ["dgc:0.05", "powersgd:1", "local-sgd:3"]
    ranks = on_ranks(2, tmp_path, "sending_ranks:interrupted", texts, str(tmp_path))
    for text in texts:
        assert ranks[0][text]["whole"] == ranks[0][text]["pieces"] == ranks[1][text]["pieces"]


def test_a_run_goes_on_with_other_ranks_but_not_in_another_way(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    on_ranks(2, tmp_path / "2", "sending_ranks:go_on", "dgc:0.05", str(folder), 4)
    three = on_ranks(3, tmp_path / "3", "sending_ranks:go_on", "dgc:0.05", str(folder), 6)
    assert [rank["step"] for rank in three] == [6] * 3 and three[0] == three[1] == three[2]
    for text in ("dense", "dgc:0.1"):
        with pytest.raises(HaspError, match=r"was made with gradients=.*ratio=0\.05"):
            train(text, str(folder))
    alone = train("dgc:0.05", str(folder))
    assert alone["step"] == 9 and np.isfinite(alone["weights"]).all()


def test_what_waits_is_spread_over_those_who_go_on(tmp_path: Path) -> None:
    two = on_ranks(2, tmp_path / "2", "sending_ranks:hold_back", "dgc:0.1", None)
    held, came, gone = (np.array(two[0][k]) for k in ("held", "came", "gone"))
    assert np.abs(held).max() > 0.1
    np.testing.assert_allclose(gone + held, came, rtol=1e-12, atol=1e-12)
    for size in (2, 3):
        again = on_ranks(size, tmp_path / f"again{size}", "sending_ranks:hold_back", "dgc:0.1", two[0]["state"])
        np.testing.assert_allclose(again[0]["held"], held, rtol=1e-12, atol=1e-12)
        assert (again[0]["state"] == two[0]["state"]) == (size == 2)
    model = nn.Linear(6, 4).double()
    before = model.weight.detach().clone()
    sums = alone(model, two[0]["state"])
    for move in (held, np.zeros(24)):  # one process sends nothing: what waited is in its first step, and in no other
        before = model.weight.detach().clone()
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        sums.collect()
        sums.exchange(3.0)
        sums.move(3.0, None)
        sums.average()
        np.testing.assert_allclose((before - model.weight.detach()).reshape(-1), move, rtol=1e-12, atol=1e-12)


def alone(model: nn.Module, state: dict[str, Any]) -> Gradients:
    sender = sender_of_run(Sending.parse("dgc:0.1"), model, [], 1, None)
    sums = Gradients(torch.optim.SGD(model.parameters(), lr=1.0), list(model.parameters()), [], Ranks(), sender)
    sums.restore({k: torch.tensor(v, dtype=kind_of(k)) for k, v in state.items()}, 5)
    return sums


def test_one_process_trains_alike_whatever_is_asked_for() -> None:
    dense = train("dense")
    for text in WAYS:
        assert train(text) == dense
    with pytest.raises(HaspError, match="gradients are sent as one of"):
        train("pigeon")


def test_the_command_refuses_a_way_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_parts(root=tmp_path / "parts")
    words = ["train", str(tmp_path / "parts"), "--objective", "infonce", "--epochs", "1", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--gradients", "pigeon"])
    assert end.value.code == 2 and "error: gradients are sent as one of dense, " in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.json").exists()
    with pytest.raises(SystemExit) as end:
        main([*words, "--gradients", "dgc:0.01:100", "--json"])
    assert not end.value.code and (tmp_path / "run" / "run.json").exists()
