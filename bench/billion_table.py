"""What the runs of ``python -m bench billion`` say: a row per size and stage, beside the files' plain reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.table import Table
from bench.watch import Watched

__all__ = ["WHOLE", "add", "empty", "finish", "for_readme", "planned"]

WHOLE = "build, all of it"
_MEMORY = ("own memory [MB]", "resident [MB]", "read [MB]", "written [MB]")
_COLUMNS = ("edges", "stage", "seconds", "CPU seconds", "times the floor", *_MEMORY)
_NOTE = (
    "Floor: the bytes of the tables read once and those of the parts written once, as far as the stage has to, at the speed of "
    "plain reads of cached files and of plain writes that wait for the disk."
)
_LATER = "The floors of 1,000,000,000 edges use speeds that were measured later, on the same machine."


def for_readme(row: dict[str, Any]) -> bool:
    """The README shows the largest graph, and of the smaller ones the whole build."""
    return bool(row["edges"] >= 10**9 or row["stage"] == WHOLE)


def empty(how: str) -> Table:
    """Without rows yet."""
    title = f"From Parquet to parts to training, {how}"
    return Table("billion", title, _COLUMNS, notes=[_NOTE], beside=("times the floor",))


def add(table: Table, edges: int, found: Sequence[Watched], speed: tuple[float, float]) -> None:
    """A row per stage of one size, and one of the whole build.

    Args:
        table: gets the rows.
        edges: of the graph.
        found: the stages; ``start`` is imports, and left out.
        speed: bytes per second that the disk reads and writes.
    """
    result = planned(found)
    for stage in [*(w for w in found if w.stage != "start"), _whole(found)]:
        floor = _floor(stage.stage, result, speed)
        times = stage.seconds / floor if floor else None
        table.add(edges=edges, **stage.row(), **{"times the floor": times}, floor=floor, result=stage.result)


def planned(found: Sequence[Watched]) -> dict[str, Any]:
    """All that the stages handed back."""
    return {name: value for w in found for name, value in w.result.items()}


def finish(table: Table) -> None:
    """Give runs that did not measure the disk the floors of the others."""
    table.columns, table.beside = _COLUMNS, ("times the floor",)
    results: dict[int, dict[str, Any]] = {}
    for row in table.rows:
        results.setdefault(row["edges"], {}).update(row["result"] or {})
    moved = {row["stage"]: (row["floor"], row["edges"]) for row in table.rows if row.get("floor")}
    if not {"read", "parts"} <= set(moved):
        return
    speed = [results[edges][of] / floor for of, (floor, edges) in (("bytes", moved["read"]), ("part_bytes", moved["parts"]))]
    for row in table.rows:
        floor = _floor(row["stage"], results[row["edges"]], (speed[0], speed[1]))
        if row.get("floor") is None and floor:
            row["times the floor"] = row["seconds"] / floor
            if _LATER not in table.notes:
                table.notes.insert(0, _LATER)
    if _NOTE not in table.notes:
        table.notes.insert(0, _NOTE)


def _floor(stage: str, result: dict[str, Any], speed: tuple[float, float]) -> float | None:
    """Seconds in which the disk moves the files that a stage reads and writes, each byte once."""
    tables, parts = result.get("bytes", 0), result.get("part_bytes", 0)
    moved = {"generate": (0, tables), "read": (tables, 0), "parts": (0, parts), "verify": (parts, 0), WHOLE: (tables, parts)}
    read, written = moved.get(stage, (0, 0))
    return read / speed[0] + written / speed[1] or None


def _whole(found: Sequence[Watched]) -> Watched:
    """All that ``hasp build`` does, from reading to the manifest, as one stage."""
    own = [w for w in found if w.stage not in ("start", "generate", "verify", "train")]
    return Watched(
        WHOLE,
        sum(w.seconds for w in own),
        sum(w.cpu for w in own),
        max(w.anonymous for w in own),
        max(w.resident for w in own),
        sum(w.read for w in own),
        sum(w.written for w in own),
    )
