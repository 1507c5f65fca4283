"""How a run stands, as somebody else can see it: from the files in its folder, and from whether its processes live."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hasp.errors import HaspError
from hasp.store.disk import Disk
from hasp_models.events import LOG, Event, EventReader, Process
from hasp_models.files import read_json

__all__ = ["Snapshot", "State", "snapshot"]

State = Literal["running", "stalled", "finished", "paused", "interrupted", "failed", "killed"]

_BEGIN = ("started", "resumed")
_SILENCE = 120.0  # seconds without an event that are never a stall
_CHECKPOINT = Path("checkpoint") / "checkpoint.json"
_OTHERS = {
    "manifest.json": "parts; use hasp report",
    "embeddings.json": "embeddings; use hasp-models similar",
    "experiment.json": "results of hasp-models reproduce; see its tables",
}


@dataclass(frozen=True)
class Snapshot:
    """One look at a run.

    Attributes:
        folder: of the run.
        run: ``train`` or ``pretrain``.
        state: ``running``; ``stalled``: its processes live, or are on another machine, and it says nothing; ``finished``;
            ``paused`` after ``max_steps``; ``interrupted`` by Ctrl-C; ``failed`` with an error; ``killed``: a process is gone.
        why: one line about a state that nobody wishes for.
        epoch: epochs done, of ``epochs``.
        epochs: wanted.
        step: optimizer steps taken, as last said.
        done: steps of the epoch under way, of ``steps_per_epoch``.
        steps_per_epoch: as said by the run.
        loss: of the last epoch, or step.
        validation: of the last epoch.
        best: best validation so far.
        best_epoch: its epoch, from 1.
        seconds_per_epoch: median of the last five.
        seconds_left: at most; ``None``: not known.
        checkpoint_age: seconds since the last checkpoint was written.
        checkpoint_step: its step.
        silent: seconds since the last event.
        restarts: times that it went on.
        restart_left: whether its launcher starts it once more by itself.
        processes: rank, host, pid and whether it is alive (``None``: not known).
        library: version that runs.
        fingerprint: of the graph.
        torn: lines of the log that are none.
        refused: the error of a later start that was refused.
        history: rows with epoch, loss, validation, seconds.
    """

    folder: str
    run: str
    state: State
    why: str | None = None
    epoch: int = 0
    epochs: int | None = None
    step: int | None = None
    done: int | None = None
    steps_per_epoch: int | None = None
    loss: float | None = None
    validation: float | None = None
    best: float | None = None
    best_epoch: int = 0
    seconds_per_epoch: float | None = None
    seconds_left: float | None = None
    checkpoint_age: float | None = None
    checkpoint_step: int | None = None
    silent: float | None = None
    restarts: int = 0
    restart_left: bool = False
    processes: Sequence[dict[str, Any]] = ()
    library: str | None = None
    fingerprint: str | None = None
    torn: int = 0
    refused: str | None = None
    history: Sequence[dict[str, Any]] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def snapshot(
    folder: str | Path,
    *,
    stalled_after: float | None = None,
    now: float | None = None,
    reader: EventReader | None = None,
) -> Snapshot:
    """Look at a run, whether it goes on, has ended or was killed at any moment.

    Args:
        folder: of ``hasp-models train``, ``hasp-models pretrain``, or ``log=`` of :func:`hasp_models.train.fit`.
        stalled_after: seconds without an event after which it is called stalled; ``None``: two minutes, or three times the
            longest silence so far, if that is longer.
        now: seconds since 1970; ``None``: the clock's.
        reader: of the same folder, by who looks again and again.

    Raises:
        HaspError: no run is there.
    """
    folder, disk = Path(folder), Disk()
    events, torn = (reader or EventReader(folder)).read()
    now = time.time() if now is None else now
    begun = [i for i, e in enumerate(events) if e.event in _BEGIN and "rank" not in e.fields]
    if not begun:
        return _without_log(folder, disk, torn)
    mine = [e for e in events if "rank" not in e.fields]
    attempt = events[begun[-1] : len(mine)]
    others = [e for e in events[len(mine) :] if e.time >= attempt[0].time]
    head = attempt[0].fields
    processes = [
        {"rank": rank, "host": p["host"], "pid": p["pid"], "alive": Process(p["host"], p["pid"], p["born"]).alive()}
        for rank, p in enumerate(head.get("processes", []))
    ]
    silent = max(0.0, now - max(e.time for e in [attempt[-1], *others]))
    restart_left = int(head.get("restart", 0)) < int(head.get("max_restarts", 0))
    state, why = _state(attempt, others, processes, silent, stalled_after or _patience(mine), restart_left)
    started = max((i for i, e in enumerate(mine) if e.event == "started"), default=0)
    rows = {e.fields["epoch"]: e.fields for e in mine[started:] if e.event == "epoch"}
    closed = max(rows, default=0)
    last = rows.get(closed, {})
    steps = [e.fields for e in attempt if e.event == "step" and e.fields["epoch"] > closed]
    counted = [e.fields["step"] for e in attempt if "step" in e.fields]
    age, checkpoint_step = _checkpoint(folder, disk, mine, now)
    refused = next((e.fields.get("text") for e in reversed(attempt) if e.event == "refused"), None)
    found = Snapshot(
        folder=str(folder),
        run=str(head.get("run", "train")),
        state=state,
        why=why,
        epoch=max(closed, int(head.get("epoch", 0))),
        epochs=head.get("epochs"),
        step=max(counted, default=None),
        done=steps[-1]["done"] if steps else None,
        steps_per_epoch=head.get("steps_per_epoch"),
        loss=last.get("loss", steps[-1]["loss"] if steps else None),
        validation=last.get("validation"),
        best=last.get("best"),
        best_epoch=last.get("best_epoch", 0),
        checkpoint_age=age,
        checkpoint_step=checkpoint_step,
        silent=silent,
        restarts=sum(e.event == "resumed" for e in mine[started:]),
        restart_left=restart_left,
        processes=processes,
        library=head.get("library"),
        fingerprint=head.get("fingerprint"),
        torn=torn,
        refused=refused,
        history=[{k: rows[e].get(k) for k in ("epoch", "loss", "validation", "seconds")} for e in sorted(rows)],
    )
    pace, left = _times(found, attempt, now)
    return dataclasses.replace(found, seconds_per_epoch=pace, seconds_left=left)


def _state(
    attempt: Sequence[Event],
    others: Sequence[Event],
    processes: Sequence[dict[str, Any]],
    silent: float,
    limit: float,
    restart_left: bool,
) -> tuple[State, str | None]:
    """What an attempt has come to."""
    ends: dict[str, State] = {"finished": "finished", "paused": "paused", "interrupted": "interrupted", "error": "failed"}
    for event in reversed(attempt):
        if event.event in ends:
            return ends[event.event], _text(event) if event.event == "error" else None
    gone = [p for p in processes if p["alive"] is False]
    for event in others:
        if event.event == "error" and (gone or not any(p["alive"] for p in processes)):
            return "failed", f"rank {event.fields['rank']}: {_text(event)}"
    if gone:
        names = ", ".join(f"rank {p['rank']} (pid {p['pid']})" for p in gone[:3])
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        then = "its launcher starts it again" if restart_left else "start it again"
        return "killed", f"{names}{more} ended without a word; {then}, it goes on from its checkpoint"
    if silent > limit:
        far = sorted({p["host"] for p in processes if p["alive"] is None})
        where = f"; whether it lives is to be seen on {', '.join(far[:3])}" if far else "; its processes live"
        return "stalled", f"no event for {silent:.0f} s, usual are less than {limit:.0f}{where}"
    return "running", None


def _text(event: Event) -> str:
    kind = str(event.fields.get("kind", "error"))
    return str(event.fields.get("text")) if kind == "HaspError" else f"{kind}: {event.fields.get('text')}"


def _patience(mine: Sequence[Event]) -> float:
    """Seconds of silence beyond what this run has shown to be usual."""
    gaps = [
        b.time - a.time
        for a, b in itertools.pairwise(mine)
        if a.event != "refused" and b.event not in (*_BEGIN, "refused")  # between attempts nothing is to be heard
    ]
    return max(_SILENCE, 3.0 * max(gaps, default=0.0))


def _times(found: Snapshot, attempt: Sequence[Event], now: float) -> tuple[float | None, float | None]:
    """Seconds per epoch, and seconds left."""
    seconds = [float(row["seconds"]) for row in found.history[-5:] if row["seconds"] is not None]
    pace = statistics.median(seconds) if seconds else None
    if found.state not in ("running", "stalled") or found.epochs is None:
        return pace, 0.0 if found.state == "finished" else None
    begin = max(e.time for e in attempt if e.event in (*_BEGIN, "epoch"))
    spent = max(0.0, now - begin)
    if pace is None and found.done and found.steps_per_epoch:
        first = max(1e-3, max(e.time for e in attempt if e.event == "step") - begin)
        guess = first * found.steps_per_epoch / found.done
        return None, max(0.0, guess * (found.epochs - found.epoch) - spent)
    return pace, None if pace is None else pace * (found.epochs - found.epoch) - min(spent, pace)


def _checkpoint(folder: Path, disk: Disk, mine: Sequence[Event], now: float) -> tuple[float | None, int | None]:
    """Age and step of the last checkpoint: the file itself knows best, where it lies in the run's folder."""
    said = [e for e in mine if e.event == "checkpoint"]
    try:
        when = (folder / _CHECKPOINT).stat().st_mtime
        step = int(read_json(folder / _CHECKPOINT, disk)["progress"]["step"])
    except (OSError, HaspError, KeyError, TypeError, ValueError):  # none, or damaged: that is for the run to say
        return (max(0.0, now - said[-1].time), said[-1].fields.get("step")) if said else (None, None)
    return max(0.0, now - when), step


def _without_log(folder: Path, disk: Disk, torn: int) -> Snapshot:
    """A run of an older version, which wrote no events; or none at all."""
    names = disk.list(folder)
    if not folder.is_dir():
        raise HaspError(f"a run is watched in its folder, but {folder} is none; give --out of hasp-models train or pretrain")
    ended = "run.json" in names or "kg.json" in names
    if ended or "metrics.json" in names:
        said = read_json(folder / "metrics.json", disk) if "metrics.json" in names else {}
        keys = ("epoch", "step", "loss", "best", "best_epoch", "library", "fingerprint")
        run = "pretrain" if "kg.json" in names else "train"
        state: State = "finished" if ended else "killed"
        why = None if ended else f"{LOG} says nothing of its processes; if none runs, start it again"
        return Snapshot(str(folder), run, state, why, torn=torn, **{k: said[k] for k in keys if k in said})
    for name, what in _OTHERS.items():
        if name in names:
            raise HaspError(f"a run is watched in its folder, but {folder} holds {what}")
    if torn or "checkpoint" in names:
        raise HaspError(f"{folder} holds a run that ended before its first event was whole; start it again")
    raise HaspError(f"a run is watched in its folder, but {folder} has no {LOG}; give --out of hasp-models train or pretrain")
