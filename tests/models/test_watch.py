"""``hasp-models watch``: what it says of a run that goes on, has ended, was killed, or is half written."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from train_graphs import EEL, small_loader, small_model, small_parts
from typer.testing import CliRunner

import hasp
from hasp import HASPData
from hasp.errors import HaspError
from hasp.sources import open_source
from hasp_models.cli import app
from hasp_models.events import EventLog, Process
from hasp_models.objectives import InfoNCE
from hasp_models.snapshot import snapshot
from hasp_models.train import fit
from hasp_models.watch import line, rows, span, watch

START = 1_700_000_000.0


class Run:
    """The log of a run of two ranks, written by hand; ``clock`` is its time."""

    def __init__(self, folder: Path, *processes: Process, clock: float = START, **head: Any) -> None:
        self.folder, self.clock = folder, clock
        self.say = EventLog(folder, clock=lambda: self.clock)
        self.processes = [dataclasses.asdict(p) for p in processes or (Process.mine(),)]
        self.head = {"epochs": 4, "steps_per_epoch": 10, "library": "1.2.3", "fingerprint": "f" * 64, **head}
        self.begin("started", 0)

    def begin(self, event: str, step: int, epoch: int = 0, **more: Any) -> None:
        self.say(event, step=step, epoch=epoch, processes=self.processes, **{**self.head, **more})

    def epoch(self, epoch: int, loss: float, seconds: float = 30.0, **more: Any) -> None:
        self.clock += seconds
        self.say("epoch", epoch=epoch, step=10 * epoch, loss=loss, seconds=seconds, **more)

    def look(self, after: float = 1.0, **options: Any) -> Any:
        return snapshot(self.folder, now=self.clock + after, **options)


@pytest.fixture
def dead() -> Process:
    """A process that was."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    process = Process(Process.mine().host, child.pid, 7)
    child.communicate()
    return process


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert (run.look().state, run.look().epoch, run.look().seconds_left) == ("running", 0, None)
    run.clock += 10.0
    run.say("step", epoch=1, step=5, done=5, loss=9.0)
    found = run.look(2.0)
    assert (found.step, found.done, found.loss, found.seconds_left) == (5, 5, 9.0, 4 * 20.0 - 12.0)
    run.epoch(1, 2.0, validation=0.25, best=0.25, best_epoch=1)
    run.epoch(2, 1.5, seconds=40.0, validation=0.2, best=0.25, best_epoch=1)
    found = run.look(5.0)
    assert (found.epoch, found.epochs, found.step, found.loss) == (2, 4, 20, 1.5) and found.done is None
    assert (found.validation, found.best, found.best_epoch) == (0.2, 0.25, 1)
    assert (found.seconds_per_epoch, found.seconds_left, found.silent) == (35.0, 2 * 35.0 - 5.0, 5.0)
    assert [(r["epoch"], r["loss"]) for r in found.history] == [(1, 2.0), (2, 1.5)]
    assert found.processes[0]["alive"] is True and (found.library, found.fingerprint) == ("1.2.3", "f" * 64)


def test_silence_is_a_stall_only_when_it_is_unusual(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.look(119.0).state == "running"
    found = run.look(121.0)
    assert found.state == "stalled" and found.why == "no event for 121 s, usual are less than 120; its processes live"
    assert run.look(20.0, stalled_after=10.0).state == "stalled"
    run.epoch(1, 1.0, seconds=100.0)  # so long an epoch is usual here
    assert run.look(299.0).state == "running" and run.look(301.0).state == "stalled"
    run.clock += 5000.0  # but not the time between two attempts
    run.begin("resumed", 10, 1)
    assert run.look(301.0).state == "stalled"


def test_a_run_on_another_machine_cannot_be_asked(tmp_path: Path) -> None:
    run = Run(tmp_path, dataclasses.replace(Process.mine(), host="far"))
    assert run.look().state == "running" and run.look().processes[0]["alive"] is None
    assert "whether it lives is to be seen on far" in str(run.look(500.0).why)


def test_a_killed_run_that_goes_on_and_ends(tmp_path: Path, dead: Process) -> None:
    run = Run(tmp_path, Process.mine(), dead, max_restarts=1, restart=0)
    run.epoch(1, 2.0)
    found = run.look()
    assert found.state == "killed" and found.restart_left and found.seconds_left is None
    assert (
        found.why
        == f"rank 1 (pid {dead.pid}) ended without a word; its launcher starts it again, it goes on from its checkpoint"
    )
    EventLog(tmp_path, rank=1, clock=lambda: run.clock)("error", "error", kind="KeyError", text="'x'")
    assert (run.look().state, run.look().why) == ("failed", "rank 1: KeyError: 'x'")
    run.say("error", "error", kind="HaspError", text="mine")
    assert (run.look().state, run.look().why) == ("failed", "mine")
    run.clock += 50.0
    run.processes = [dataclasses.asdict(Process.mine())]
    run.begin("resumed", 10, 1, restart=1, max_restarts=1)
    found = run.look()
    assert (found.state, found.epoch, found.step, found.restarts, found.restart_left) == ("running", 1, 10, 1, False)
    assert dict(rows(found))["ranks"].endswith("1 alive; started again once")
    run.epoch(2, 1.0)
    run.say("paused", step=20)
    assert run.look().state == "paused"
    run.begin("resumed", 20, 2)
    run.say("interrupted", "warning")
    assert run.look().state == "interrupted"
    run.begin("resumed", 20, 2)
    run.epoch(2, 0.9)  # again
    run.say("finished", epoch=2, step=20)
    found = run.look(10_000.0)
    assert (found.state, found.seconds_left, found.loss, found.restarts) == ("finished", 0.0, 0.9, 3)
    assert [r["loss"] for r in found.history] == [2.0, 0.9]
    run.say("refused", "error", kind="HaspError", text="another model")
    assert (run.look().state, run.look().refused) == ("finished", "another model")
    run.begin("started", 0)  # anew, as its checkpoint was removed
    assert (run.look().state, run.look().epoch, run.look().history, run.look().restarts) == ("running", 0, [], 0)


def test_a_real_run_at_every_length_of_its_log(tmp_path: Path) -> None:
    """As it would look if it had been killed after any byte that it wrote."""
    parts, log = small_parts(), tmp_path / "run"
    how: dict[str, Any] = {"checkpoint": log / "checkpoint", "log": log, "progress": False}
    values = iter([0.5, 0.25])
    fit(small_model(parts), small_loader(parts), InfoNCE(EEL), epochs=2, validate=lambda m: next(values), **how)
    whole = (log / "log.jsonl").read_bytes()
    found = snapshot(log)
    assert (found.state, found.epoch, found.epochs, found.best, found.checkpoint_step) == ("finished", 2, 2, 0.5, found.step)
    assert found.checkpoint_age is not None and found.library == hasp.__version__
    states, epochs = set(), []
    for size in range(1, len(whole) - 1, 13):  # without its last line; that one may lack its end and is still read
        (log / "log.jsonl").write_bytes(whole[:size])
        found = snapshot(log)
        states.add(found.state)
        epochs.append(found.epoch)
        assert rows(found) and line(found) and json.dumps(found.to_json()) and found.torn <= 1
    assert (
        states == {"killed", "running"} and sorted(epochs[epochs.index(0) :]) == epochs[epochs.index(0) :] and max(epochs) == 2
    )
    (log / "checkpoint" / "checkpoint.json").write_bytes(b"{")
    assert snapshot(log).checkpoint_age is not None  # from the log; that the file is damaged is for the run to say
    (log / "log.jsonl").unlink()
    assert (snapshot(log).state, snapshot(log).epoch) == ("killed", 2)  # what an older version left
    (log / "run.json").write_text("{}")
    assert snapshot(log).state == "finished"


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        result = CliRunner().invoke(app, ["watch", str(folder)])
        assert result.exit_code == 2 and not result.stdout and result.stderr.count("\n") == 1
        return result.stderr

    assert "is none; give --out of hasp-models train or pretrain" in refused(tmp_path / "nothing")
    assert "has no log.jsonl; give --out" in refused(tmp_path)
    for name, text in (("manifest.json", "holds parts; use hasp report"), ("embeddings.json", "holds embeddings")):
        (tmp_path / name).mkdir()
        assert text in refused(tmp_path)
        (tmp_path / name).rmdir()
    (tmp_path / "log.jsonl").write_text('{"time": "2026-')
    assert "ended before its first event was whole" in refused(tmp_path)


def test_commands_write_logs_that_can_be_watched(tmp_path: Path) -> None:
    def call(*arguments: Any) -> str:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    HASPData(open_source("synthetic:200"), num_parts=2, root=tmp_path / "parts", reverse=True, log=False)
    call("pretrain", tmp_path / "parts", "--out", tmp_path / "kg", "--epochs", 2, "--dim", 4)
    call("train", tmp_path / "parts", "--out", tmp_path / "run", "--epochs", 2, "--dim", 4, "--layers", 1)
    for folder, name in (("kg", "pretrain"), ("run", "train")):
        found = json.loads(call("watch", tmp_path / folder, "--json"))
        assert (found["run"], found["state"], found["epoch"], found["epochs"]) == (name, "finished", 2, 2)
        assert [row["epoch"] for row in found["history"]] == [1, 2] and found["loss"] == found["history"][1]["loss"]
        assert found["library"] == hasp.__version__
        assert found["fingerprint"] == HASPData.open(tmp_path / "parts").manifest.fingerprint
        text = call("watch", tmp_path / folder, "--once")
        assert text.startswith("state       finished\n") and "progress    epoch 2 of 2\n" in text
        assert call("watch", tmp_path / folder) == f"finished, epoch 2 of 2, loss {found['loss']:.4f}\n"
    assert json.loads((tmp_path / "kg" / "metrics.json").read_text())["epoch"] == 2
    assert len((tmp_path / "kg" / "log.csv").read_text().splitlines()) == 3


def test_live(tmp_path: Path, dead: Process) -> None:
    """A watcher whose naps are the steps of the run: it sees each change once, and leaves at the end."""
    run = Run(tmp_path, clock=time.time())

    def play(*steps: Callable[[], None], terminal: bool = False) -> tuple[Any, str, int]:
        left, out, naps = iter(steps), io.StringIO(), 0
        now = 0.0

        def sleep(seconds: float) -> None:
            nonlocal naps, now
            naps, now = naps + 1, now + 10 * seconds
            next(left, lambda: None)()

        console = Console(file=out, force_terminal=terminal, width=100)
        return watch(tmp_path, every=1.0, console=console, sleep=sleep, clock=lambda: now), out.getvalue(), naps

    found, text, naps = play(
        lambda: run.epoch(1, 2.0, seconds=0.0),
        lambda: None,
        lambda: run.epoch(2, 1.0, seconds=0.0),
        lambda: run.say("finished", step=20),
    )
    assert found.state == "finished" and naps == 4
    assert text.splitlines() == [
        "running, epoch 0 of 4",
        "running, epoch 1 of 4, loss 2.0000",
        "running, epoch 2 of 4, loss 1.0000",
        "finished, epoch 2 of 4, loss 1.0000",
    ]
    # One that its launcher starts again is waited for; one that is not, or not in a minute, is left.
    run.processes = [dataclasses.asdict(dead)]
    run.begin("resumed", 20, 2, max_restarts=3, restart=1)
    mine = [dataclasses.asdict(Process.mine())]

    def again() -> None:
        run.processes = mine
        run.begin("resumed", 20, 2, max_restarts=3, restart=2)

    found, text, naps = play(lambda: None, again, lambda: run.say("error", "error", kind="HaspError", text="no"), terminal=True)
    assert (found.state, found.why, naps) == ("failed", "no", 3 + 6)
    assert "killed" in text and "running" in text and "failed" in text and str(tmp_path) in text.replace("\n", "")
    run.begin("resumed", 20, 2)
    run.say("error", "error", kind="ValueError", text="bad")
    found, text, naps = play()
    assert (found.state, naps) == ("failed", 0) and text == "failed, epoch 2 of 4, loss 1.0000: ValueError: bad\n"
    for more in ([], ["--once"], ["--json"]):
        result = CliRunner().invoke(app, ["watch", str(tmp_path), *more])
        assert result.exit_code == 1 and "ValueError: bad" in result.stdout


def test_torn_and_refused_are_told_and_spans_are_in_words(tmp_path: Path) -> None:
    run = Run(tmp_path, Process.mine(), dataclasses.replace(Process.mine(), host="far"))
    run.epoch(1, 2.0, validation=0.5, best=0.5, best_epoch=1)
    run.say("checkpoint", epoch=1, step=10)
    run.say("refused", "error", kind="HaspError", text="lr differs")
    run.say.path.write_bytes(run.say.path.read_bytes() + b'{"ti')
    told = dict(rows(run.look(90.0)))
    assert told["checkpoint"] == "1 min 30 s old, step 10" and told["refused"] == "lr differs"
    assert told["log"] == "1 torn lines left out" and told["validation"] == "0.5000, best 0.5000 in epoch 1"
    assert "not all on this machine" in told["ranks"] and told["made by"] == "hasp 1.2.3, of graph ffffffffffffffff"
    assert [span(s) for s in (3.21, 59.6, 61, 3600, 3 * 86_400 + 7_300)] == [
        "3.2 s",
        "60 s",
        "1 min 1 s",
        "1 h 0 min",
        "3 d 2 h",
    ]
    with pytest.raises(HaspError, match="is none"):
        watch(tmp_path / "nothing")
