"""``hasp-models watch``: a run that goes on in another process, live on a terminal or as lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hasp_models.events import EventReader
from hasp_models.snapshot import Snapshot, snapshot

__all__ = ["line", "rows", "watch"]

_COLOURS = {"running": "green", "finished": "green", "paused": "yellow", "stalled": "yellow"}
_BARS = "▁▂▃▄▅▆▇█"
_GRACE = 60.0  # seconds in which a launcher has started a run again that failed


def watch(
    folder: str | Path,
    *,
    every: float = 1.0,
    stalled_after: float | None = None,
    console: Console | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Snapshot:
    """Show a run until it ends. A run that failed, and that its launcher will start again, is waited for a minute.

    Args:
        folder: of the run.
        every: seconds between two looks.
        stalled_after: see :func:`hasp_models.snapshot.snapshot`.
        console: where to; on a terminal one table that is drawn anew, elsewhere a line per change.
        sleep: waits.
        clock: seconds.

    Returns:
        The last look.

    Raises:
        HaspError: no run is there.
    """
    console = console or Console()
    reader = EventReader(folder)
    found = snapshot(folder, stalled_after=stalled_after, reader=reader)
    ended, said = None, ""
    with Live(_table(found), console=console, auto_refresh=False, transient=False) if console.is_terminal else _Lines() as live:
        while True:
            if isinstance(live, Live):
                live.update(_table(found), refresh=True)
            elif (text := line(found)) != said:
                console.print(text, soft_wrap=True, highlight=False, markup=False)
                said = text
            ended = None if found.state in ("running", "stalled") else clock() if ended is None else ended
            waits = found.state in ("failed", "killed") and found.restart_left
            if ended is not None and (not waits or clock() - ended >= _GRACE):
                return found
            sleep(every)
            found = snapshot(folder, stalled_after=stalled_after, reader=reader)


class _Lines:
    """Where there is no terminal: nothing to draw anew."""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def line(found: Snapshot) -> str:
    """A look in one line, of what changes seldom: state, epoch, losses, the best."""
    parts = [found.state, _progress(found, steps=False)]
    parts += [f"loss {found.loss:.4f}"] if found.loss is not None else []
    parts += [f"validation {found.validation:.4f}"] if found.validation is not None else []
    parts += [f"best {found.best:.4f} in epoch {found.best_epoch}"] if found.best is not None else []
    return ", ".join(parts) + (f": {found.why}" if found.why and found.state != "stalled" else "")


def rows(found: Snapshot) -> list[tuple[str, str]]:
    """A look as labels and texts; what is not known is left out."""
    out = [("state", found.state + (f": {found.why}" if found.why else "")), ("progress", _progress(found))]
    losses = [row["loss"] for row in found.history if row["loss"] is not None]
    if found.loss is not None:
        out.append(("loss", f"{found.loss:.4f}  {_bars(losses)}".rstrip()))
    if found.validation is not None:
        best = f", best {found.best:.4f} in epoch {found.best_epoch}" if found.best is not None else ""
        out.append(("validation", f"{found.validation:.4f}{best}"))
    if found.seconds_per_epoch is not None or found.seconds_left is not None:
        pace = [f"{span(found.seconds_per_epoch)} an epoch"] if found.seconds_per_epoch is not None else []
        left = [f"{span(found.seconds_left)} left"] if found.seconds_left else []
        out.append(("time", ", ".join(pace + left) or "none left"))
    if found.checkpoint_age is not None:
        out.append(("checkpoint", f"{span(found.checkpoint_age)} old, step {found.checkpoint_step}"))
    if found.silent is not None:
        out.append(("last event", f"{span(found.silent)} ago"))
    if found.processes:
        alive = sum(p["alive"] is True for p in found.processes)
        goes_on = found.state in ("running", "stalled", "killed")
        hosts = sorted({p["host"] for p in found.processes})
        some = ", ".join(hosts[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")
        lives = f", {alive} alive" if all(p["alive"] is not None for p in found.processes) else ", not all on this machine"
        times = "once" if found.restarts == 1 else f"{found.restarts} times"
        again = f"; started again {times}" if found.restarts else ""
        out.append(("ranks", f"{len(found.processes)} on {some}{lives if goes_on else ''}{again}"))
    if found.refused is not None:
        out.append(("refused", found.refused))
    if found.torn:
        out.append(("log", f"{found.torn} torn lines left out"))
    if found.library is not None:
        out.append(("made by", f"hasp {found.library}, of graph {str(found.fingerprint)[:16]}"))
    return out


def span(seconds: float) -> str:
    """A time in words, two figures long."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours = divmod(int(seconds) // 60, 60)[::-1], int(seconds) // 3600
    if hours < 1:
        return f"{minutes[0]} min {int(seconds) % 60} s"
    if hours < 48:
        return f"{hours} h {minutes[0]} min"
    return f"{hours // 24} d {hours % 24} h"


def _progress(found: Snapshot, steps: bool = True) -> str:
    of = "" if found.epochs is None else f" of {found.epochs}"
    inside = f", step {found.done} of {found.steps_per_epoch}" if steps and found.done and found.steps_per_epoch else ""
    return f"epoch {found.epoch}{of}{inside}" if found.epoch or not inside else f"epoch 0{of}{inside}"


def _bars(values: list[float], width: int = 24) -> str:
    """The last values as bars; empty for fewer than two."""
    some = values[-width:]
    if len(some) < 2:
        return ""
    low, high = min(some), max(some)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((v - low) * scale)] for v in some)


def _table(found: Snapshot) -> Table:
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify = found.folder, "left"
    for label, text in rows(found):
        style = _COLOURS.get(found.state, "red") if label == "state" else ""
        table.add_row(Text(label, style="dim"), Text(text, style=style))
    return table
