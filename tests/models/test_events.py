"""The log of a run: a line per event that survives a kill, whoever writes and whatever is torn."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from train_graphs import EEL, small_loader, small_model, small_parts

import hasp
from hasp.errors import HaspError
from hasp.store.disk import Disk
from hasp_models import run_log
from hasp_models.distributed.ranks import Ranks
from hasp_models.events import Event, EventLog, EventReader, Process, read_events
from hasp_models.objectives import InfoNCE
from hasp_models.run_log import RunLog
from hasp_models.train import fit


def names(folder: Path) -> list[str]:
    return [e.event for e in read_events(folder)[0]]


def test_a_line_has_time_level_event_and_fields(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "new" / "run", clock=lambda: 1_700_000_000.25)
    log("epoch", epoch=3, loss=math.nan, path=Path("x"), rows=[1.0, math.inf])
    log("error", "error", text="zwölf\nLines")
    lines = (tmp_path / "new" / "run" / "log.jsonl").read_bytes().splitlines()
    assert len(lines) == 2
    head = {"time": "2023-11-14T22:13:20.250+00:00", "level": "info", "event": "epoch"}
    assert json.loads(lines[0]) == {**head, "epoch": 3, "loss": None, "path": "x", "rows": [1.0, None]}
    found, torn = read_events(tmp_path / "new" / "run")
    assert torn == 0 and found[1] == Event(1_700_000_000.25, "error", "error", {"text": "zwölf\nLines"})
    with pytest.raises(HaspError, match="fields are not time, level, event, got 'time'; rename it"):
        log("epoch", time=3)


@pytest.mark.parametrize("keep", range(0, 120, 7))
def test_a_torn_last_line_is_left_out_and_written_after(keep: int, tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log("started", step=0)
    whole = log.path.read_bytes()
    log("epoch", text="x" * 80)
    log.path.write_bytes(log.path.read_bytes()[: len(whole) + keep])
    torn = keep > 0
    assert read_events(tmp_path)[1] == int(torn) and names(tmp_path) == ["started"]
    EventLog(tmp_path)("resumed", step=1)
    assert names(tmp_path) == ["started", "resumed"] and read_events(tmp_path)[1] == int(torn)
    EventLog(tmp_path)("finished")
    assert log.path.read_bytes().endswith(b"\n") and names(tmp_path) == ["started", "resumed", "finished"]


def test_lines_that_are_no_events_are_counted_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(
        b'{"epoch": 1, "loss": 0.5}\n[]\n3\n\xff\xfe\n\n{"time": "x", "level": "a", "event": "b"}\n'
    )
    EventLog(tmp_path)("started")
    found, torn = read_events(tmp_path)
    assert [e.event for e in found] == ["started"] and torn == 5
    assert read_events(tmp_path / "nothing") == ([], 0)


def test_a_reader_that_looks_again_sees_what_one_that_looks_once_sees(tmp_path: Path) -> None:
    """At every byte of two files that grow, one of which is then replaced by a shorter one."""
    for rank in (0, 3):
        for word in ("started", "epoch", "zw\u00f6lf", "finished"):
            EventLog(tmp_path, rank)(word, text="x" * 20)
    logs = [tmp_path / "log.jsonl", tmp_path / "log.rank-3.jsonl"]
    whole = [log.read_bytes() for log in logs]
    whole[0] = whole[0].replace(b"epoch", b'ep"och')  # a line that is none
    for log in logs:
        log.unlink()
    reader = EventReader(tmp_path)
    for log, data in zip(logs, whole, strict=True):
        for size in range(0, len(data) + 1, 3):
            log.write_bytes(data[:size])
            assert reader.read() == EventReader(tmp_path).read()
        log.write_bytes(data)
        assert reader.read() == EventReader(tmp_path).read()
    assert [e.event for e in reader.read()[0]] == [
        *["started", "zw\u00f6lf", "finished"],
        "started",
        "epoch",
        "zw\u00f6lf",
        "finished",
    ]
    assert reader.read()[1] == 1
    logs[0].write_bytes(whole[1][:-5])
    assert reader.read() == EventReader(tmp_path).read()


def test_kill_9_leaves_all_that_was_said(tmp_path: Path) -> None:
    """A process that writes events as fast as it can; every one that it had announced before it was killed is there."""
    code = (
        "import sys; from hasp_models.events import EventLog\n"
        "log = EventLog(sys.argv[1])\n"
        "for i in range(10**6):\n    log('step', step=i, text='x' * 300); print(i, flush=True)\n"
    )
    count = 0
    for kill in (3, 17, 40):
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(kill):
            said = int(process.stdout.readline())
        process.kill()
        rest = process.communicate()[0].splitlines()
        said = int(rest[-1]) if rest and rest[-1].isdigit() else said
        found, torn = read_events(tmp_path)
        steps = [e.fields["step"] for e in found][count:]
        assert steps == list(range(len(steps))) and len(steps) in (said + 1, said + 2) and torn <= 3
        count = len(found)


def test_a_log_that_cannot_be_written_does_not_hide_an_error(tmp_path: Path) -> None:
    class Full(Disk):
        def write(self, handle: int, data: memoryview) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(HaspError, match="cannot write"):
        EventLog(tmp_path, disk=Full())("started")
    EventLog(tmp_path, disk=Full()).fail(KeyError("mine"))
    EventLog(tmp_path, disk=Full()).fail(KeyboardInterrupt())
    assert names(tmp_path) == []
    EventLog(tmp_path).fail(KeyboardInterrupt(), step=3)
    assert names(tmp_path) == ["interrupted"]


def test_other_ranks_write_their_errors_and_nothing_else(tmp_path: Path) -> None:
    for rank in (0, 1, 12):
        log = RunLog(tmp_path, rank=rank)
        log.begin(Ranks(), 0)
        with pytest.raises(HaspError), log.telling(partial(dict, step=4 + rank)):
            raise HaspError("a\nb")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "log.rank-1.jsonl", "log.rank-12.jsonl"]
    found, _ = read_events(tmp_path)
    assert [(e.event, e.fields.get("rank"), e.fields.get("step")) for e in found] == [
        ("started", None, 0),
        ("error", None, 4),
        ("error", 1, 5),
        ("error", 12, 16),
    ]
    assert found[1].fields["text"] == "a b" and found[1].fields["kind"] == "HaspError" and found[1].level == "error"


def test_events_of_a_run_that_pauses_goes_on_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "EVERY", 0.0)
    parts = small_parts()
    log, how = tmp_path / "log", {"checkpoint": tmp_path / "c", "log": tmp_path / "log", "progress": False}

    def train(objective: Any = None, **options: Any) -> Any:
        objective = objective or InfoNCE(EEL)
        return fit(small_model(parts), small_loader(parts), objective, **{**how, "lr": 0.01, **options})

    train(epochs=2, max_steps=3)  # an epoch has two steps
    first = [*["started", "step", "step", "epoch", "checkpoint"], *["step", "checkpoint", "paused"]]
    assert names(log) == first
    train(epochs=2)
    second = ["resumed", "step", "epoch", "checkpoint", "finished"]
    assert names(log) == first + second
    with pytest.raises(HaspError, match=r"lr=0\.01"):
        train(epochs=3, lr=0.5)
    assert names(log) == [*first, *second, "refused"]

    class Broken(InfoNCE):
        def __call__(self, *arguments: Any) -> Any:
            raise ValueError("no\nsuch thing")

    with pytest.raises(ValueError, match="such thing"):
        train(Broken(EEL), epochs=3)
    found, torn = read_events(log)
    assert torn == 0 and [e.event for e in found[len(first + second) + 1 :]] == ["resumed", "error"]
    assert found[-1].fields == {"kind": "ValueError", "text": "no such thing", "epoch": 2, "step": 4}
    head = found[0].fields
    assert head["library"] == hasp.__version__ and head["torch"] == torch.__version__
    assert head["fingerprint"] == parts.manifest.fingerprint and head["epochs"] == 2 and head["steps_per_epoch"] == 2
    assert head["processes"] == [dataclasses.asdict(Process.mine())] and head["settings"]["lr"] == 0.01
    resumed = found[len(first)].fields
    assert (resumed["step"], resumed["epoch"]) == (3, 1)
    steps = [e.fields for e in found if e.event == "step"]
    assert [(s["epoch"], s["step"], s["done"]) for s in steps] == [(1, 1, 1), (1, 2, 2), (2, 3, 1), (2, 4, 2)]
    done = [e.fields for e in found if e.event == "epoch"]
    assert [(d["epoch"], d["step"]) for d in done] == [(1, 2), (2, 4)] and all(d["loss"] > 0 for d in done)


def test_steps_and_their_checkpoints_come_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "EVERY", 1e9)
    parts = small_parts()
    how: dict[str, Any] = {"checkpoint": tmp_path / "c", "log": tmp_path, "checkpoint_steps": 1, "progress": False}
    fit(small_model(parts), small_loader(parts), InfoNCE(EEL), epochs=3, **how)
    assert names(tmp_path) == ["started", "step", "checkpoint", *["epoch", "checkpoint"] * 3, "finished"]


def test_one_run_at_a_time_trains_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, disk = small_parts(), Disk()

    def train() -> None:
        fit(small_model(parts), small_loader(parts), InfoNCE(EEL), epochs=1, log=tmp_path, progress=False)

    handle = disk.lock(EventLog(tmp_path).create())
    monkeypatch.setattr(run_log, "WAIT", 1.0)
    naps: list[float] = []
    monkeypatch.setattr("time.sleep", naps.append)
    with pytest.raises(HaspError, match=r"one run at a time trains in a folder, and another one .* choose another folder"):
        train()
    assert sum(naps) == 1.0 and names(tmp_path) == []  # the log is that of the other
    monkeypatch.setattr("time.sleep", lambda seconds: disk.unlock(handle))
    train()  # the other ends while this one waits
    train()  # and this one has left the folder
    assert names(tmp_path) == ["started", "step", "epoch", "finished"] * 2

    class Without(Disk):
        """A file system without locks."""

        def try_lock(self, path: Path) -> int:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    RunLog(tmp_path, disk=Without()).begin(Ranks(), 0)
    assert names(tmp_path)[-1] == "started"


def test_a_run_that_is_refused_writes_no_log(tmp_path: Path) -> None:
    parts = small_parts()
    with pytest.raises(HaspError):
        fit(small_model(parts), small_loader(parts), InfoNCE(EEL), epochs=0, log=tmp_path / "log", progress=False)
    assert not (tmp_path / "log").exists()


def test_whether_a_process_lives() -> None:
    mine = Process.mine()
    assert mine.alive() is True and dataclasses.replace(mine, host="elsewhere").alive() is None
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        other = Process(mine.host, child.pid, 0)
        assert other.alive() is True
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert other.alive() is False  # its parent has not asked for its exit code yet
    finally:
        child.communicate()
    assert other.alive() is False
    assert dataclasses.replace(mine, born=mine.born + 1).alive() is (mine.born == 0)  # the number was given to another
