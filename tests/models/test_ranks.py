"""No rank waits for one that has failed: real gloo processes, and the same error on every rank long before the time-out."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from rank_failures import LIMIT, run_failing
from train_graphs import small_parts

from hasp.errors import HaspError
from hasp_models.distributed.ranks import Ranks
from hasp_models.distributed.signals import KeptSignals

CASES = {
    "objective": ("HaspError", "step 3 failed on 1 of {n} ranks, so all stop: rank 1: KeyError: 'no such thing'"),
    "memory": (
        "HaspError",
        "step 3 failed on 1 of {n} ranks, so all stop: rank 1: OutOfMemoryError: tried to allocate 3.00 GiB",
    ),
    "everyone": ("KeyError", "'no such thing'"),
    "validate": ("HaspError", "validate failed on 1 of {n} ranks, so all stop: rank 0: ZeroDivisionError: division by zero"),
    "nan": ("HaspError", "validate returns a finite number, got nan; check that its truth has queries"),
}


@pytest.mark.parametrize(("case", "world_size"), [("objective", 3), *((c, 2) for c in CASES)])
def test_an_error_on_one_rank_is_raised_on_all(case: str, world_size: int, tmp_path: Path) -> None:
    kind, text = CASES[case]
    for found in run_failing(case, world_size, tmp_path):
        assert found is not None and (found["error"], found["text"]) == (kind, text.format(n=world_size))
        assert found["seconds"] < LIMIT / 2


def test_a_corrupt_part_of_one_rank_stops_all(tmp_path: Path) -> None:
    small_parts(root=tmp_path / "parts")
    first, second, third = run_failing("corrupt", 3, tmp_path)
    assert first is not None and second is not None and third is not None
    assert first["error"] == second["error"] == third["error"] == "CorruptPart"
    assert first["text"] == second["text"] == third["text"]
    assert "so all stop: rank 1: " in first["text"] and "copy1/part-" in first["text"]


@pytest.mark.parametrize("case", ["worker", "worker in a collective"])
def test_a_worker_process_that_dies_stops_all(case: str, tmp_path: Path) -> None:
    first, second = run_failing(case, 2, tmp_path)
    assert first is not None and second is not None
    assert first["text"] == second["text"] and "rank 1: RuntimeError: DataLoader worker" in first["text"]
    assert max(first["seconds"], second["seconds"]) < LIMIT / 2


def test_errors_of_signals_are_kept_while_asked_for() -> None:
    kept: list[Exception] = []
    before = signal.getsignal(signal.SIGCHLD)

    def failing(*_: object) -> None:
        raise KeyError("first")

    try:
        signal.signal(signal.SIGCHLD, failing)
        signals = KeptSignals(kept.append)
        signals.watch()
        signals.watch()
        signal.raise_signal(signal.SIGCHLD)
        ours = signal.getsignal(signal.SIGCHLD)
        signal.signal(signal.SIGCHLD, lambda *a: ours(*a))  # type: ignore[operator, misc]
        signals.watch()  # before one that calls the one before
        signal.raise_signal(signal.SIGCHLD)
        assert [str(e) for e in kept] == ["'first'"] * 2
        signals.leave()
        with pytest.raises(KeyError, match="first"):
            signal.raise_signal(signal.SIGCHLD)
        assert len(kept) == 2
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_rank_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    first, second, third = run_failing("die", 3, tmp_path)
    assert second is None and first is not None and third is not None
    for rank, found in ((0, first), (2, third)):
        assert found["error"] == "LostRank" and f"rank {rank} lost another rank, which died or hangs" in found["text"]
        assert found["seconds"] < LIMIT / 2


def test_ranks_that_were_started_differently_are_refused(tmp_path: Path) -> None:
    for case, what in (("settings", "settings"), ("checkpoint", "checkpoint")):
        (tmp_path / case).mkdir()
        found = [f for f in run_failing(case, 2, tmp_path / case) if f is not None]
        assert len(found) == 2
        for one in found:
            assert one["error"] == "HaspError" and f"rank 1 differs from rank 0 in its {what}" in one["text"]


def test_a_validation_may_take_longer_than_the_time_out(tmp_path: Path) -> None:
    for found in run_failing("slow", 2, tmp_path, limit=2.0):
        assert found is not None and found["error"] == ""
        assert found["seconds"] > 3.0  # what the validation takes


def test_alone_errors_are_what_they_are() -> None:
    ranks = Ranks()
    assert (ranks.rank, ranks.size) == (0, 1)
    with pytest.raises(KeyError, match="mine"), ranks.together("a step"):
        raise KeyError("mine")
    with pytest.raises(KeyError, match="mine"), ranks.noting():
        raise KeyError("mine")
    with ranks.together("a step", 2) as total:
        total[1] += 2.5
    assert total == [0.0, 2.5]
    assert ranks.on_first("a task", lambda: None) == 0.0
    with pytest.raises(HaspError, match="own"):
        ranks.on_first("a task", lambda: (_ for _ in ()).throw(HaspError("own")))
    assert ranks.sent == 0
