"""How time and memory grow with the graph: drawn from the history of ``python -m bench billion``, measured nowhere else.

``python -m bench scaling`` takes, for every size, the newest run on this kind of machine, fits ``a + b * edges ** c`` to each
stage and writes the curves (``docs/results/scaling.svg``) and the table of the exponents.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from bench.billion_table import WHOLE
from bench.curve import Curve, Panel, draw
from bench.table import Table

__all__ = ["fit", "newest", "picture", "table"]

# stage of the build -> its colour
STAGES = {"read": 0, "check": 1, "split": 2, "cut": 3, "bucket": 4, "parts": 5, "verify": 6}
NAMES = {"cut": "partition"}
PICTURE = "docs/results/scaling.svg"  # below the root of the repository
_LEAST = 0.05  # seconds: below, a stage's time is noise and no exponent is fitted


def newest(folder: Path) -> dict[str, Any] | None:
    """Of every size the newest run: those of the newest run's title, processor and number of cores, joined into one entry.

    Returns:
        An entry of the history; its rows say the ``load`` and the ``commit`` of their run, and whether the machine was
        ``busy``: the load average at its start was above the number of cores. ``None``: there is none.
    """
    path = folder / "billion.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not entries:
        return None
    last = entries[-1]
    sizes: dict[int, list[dict[str, Any]]] = {}
    for entry in entries:
        if _kind(entry) == _kind(last):
            for edges in {row["edges"] for row in entry["rows"]}:
                where = entry["machine"]
                load = where["load_average"]
                of = {"load": load, "busy": load is not None and load > where["cores"], "commit": where["commit"]}
                sizes[edges] = [{**row, **of} for row in entry["rows"] if row["edges"] == edges]
    return {**last, "rows": [row for edges in sorted(sizes) for row in sizes[edges]]}


def _kind(entry: dict[str, Any]) -> tuple[Any, ...]:
    where = entry["machine"]
    return entry["title"], where["cpu"], where["cores"], where["memory_bytes"]


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float | None] | None:
    """The exponent ``c`` of ``y = a + b * x ** c`` with ``a, b >= 0``, by least squares of the logarithms.

    The constant stands for what a process costs before it sees an edge; without it small sizes would flatten the exponent.

    Returns:
        ``(c, standard error)``; the error is ``None`` with three points, which the curve meets. ``None``: fewer points.
    """
    if len(points) < 3:
        return None
    x, y = (np.array(values) for values in zip(*points, strict=True))
    x = x / x[-1]

    def residual(given: Any) -> Any:
        a, b, c = given
        return np.log(np.exp(a) + np.exp(b) * x**c) - np.log(y)

    starts = [(math.log(y[0] * share), math.log(y[-1]), c) for share in (0.9, 0.1) for c in (0.5, 1.0, 1.3)]
    found = min((least_squares(residual, s, bounds=([-40, -40, 0], [40, 40, 3])) for s in starts), key=lambda r: r.cost)
    if len(points) == 3:
        return float(found.x[2]), None
    noise = 2 * found.cost / (len(points) - 3)
    error = math.sqrt(max(float((np.linalg.pinv(found.jac.T @ found.jac) * noise)[2, 2]), 0.0))
    return float(found.x[2]), error


def _series(entry: dict[str, Any], stage: str, column: str, least: float = 0.0) -> list[tuple[float, float]]:
    rows = [row for row in entry["rows"] if row["stage"] == stage]
    return [(row["edges"], row[column]) for row in rows if row[column] > least]


def _quiet(entry: dict[str, Any], points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    busy = _busy(entry)
    return [p for p in points if p[0] not in busy]


def _busy(entry: dict[str, Any]) -> set[float]:
    return {row["edges"] for row in entry["rows"] if row["busy"]}


def table(entry: dict[str, Any]) -> Table:
    """Seconds per stage and size, and the exponents."""
    sizes = sorted({row["edges"] for row in entry["rows"]})
    seconds = {edges: f"{_short(edges)} edges [s]" for edges in sizes}
    columns = ["stage", *seconds.values(), "time ~ edges^", "last decade", "resident at most [MB]", "resident ~ edges^"]
    title = f"{entry['title']}; newest run of each size"
    out = Table("scaling", title, columns, beside=("time ~ edges^", "last decade"), picture=PICTURE, drawing=picture(entry))
    for stage in [WHOLE, *STAGES]:
        times, held = (_series(entry, stage, column) for column in ("seconds", "resident [MB]"))
        long = _series(entry, stage, "seconds", _LEAST)
        out.add(
            stage=NAMES.get(stage, stage),
            **{seconds[int(x)]: y for x, y in times},
            **{
                "time ~ edges^": _words(fit(_quiet(entry, long))),
                "last decade": _slope(long),
                "resident at most [MB]": max(y for _, y in held),
                "resident ~ edges^": _words(fit(held)),
            },
        )
    out.notes += [
        f"Exponent c of a + b * edges^c, fitted to the sizes in which a stage took {_LEAST} s or more, ± its standard error; "
        "a is what a process costs before the first edge. Last decade: the slope between the two largest sizes alone.",
    ]
    busy, loads = _busy(entry), {row["edges"]: row["load"] for row in entry["rows"] if row["load"] is not None}
    if busy:
        out.notes.append(
            f"Time was fitted without {', '.join(map(_short, sorted(busy)))}, hollow in the picture: others used the machine "
            "then (load above its cores), so its times are upper bounds. Last decade counts it."
        )
    out.notes.append("Load average at the start: " + ", ".join(f"{_short(n)}: {load:.1f}" for n, load in loads.items()) + ".")
    return out


def picture(entry: dict[str, Any]) -> str:
    """Time and resident memory against edges: of the whole build beside the plan's word, and stage by stage."""
    busy = _busy(entry)

    def curve(name: str, stage: str, column: str, colour: int, least: float = 0.0) -> Curve:
        points = _series(entry, stage, column, least)
        found = fit(_quiet(entry, points) if column == "seconds" else points)
        return Curve(name + ("" if found is None else f" ^{found[0]:.2f}"), points, colour=colour, hollow=busy)

    def stages(column: str, least: float = 0.0) -> list[Curve]:
        return [curve(NAMES.get(stage, stage), stage, column, colour, least) for stage, colour in STAGES.items()]

    plans = [(row["edges"], (row.get("result") or {}).get("planned")) for row in entry["rows"]]
    planned = [(edges, of["peak_build_bytes"] / 1e6) for edges, of in plans if of]
    whole = _series(entry, WHOLE, "seconds")
    edges, seconds = (_quiet(entry, whole) or whole)[-1]
    linear = [(x, seconds * x / edges) for x in (edges / 1e2, whole[-1][0])]
    build = [
        curve("build", WHOLE, "seconds", 0),
        curve("verify", "verify", "seconds", STAGES["verify"]),
        Curve("proportional to edges", linear, dashed=True, colour=7),
    ]
    held = [
        curve("resident", WHOLE, "resident [MB]", 0),
        curve("own memory", WHOLE, "own memory [MB]", 2),
        Curve("planned for arrays", planned, dashed=True, colour=7),
    ]
    panels = [
        _panel("Time of the whole build", build, _seconds),
        _panel("Its resident memory", held, _memory),
        _panel(f"Time by stage, from {_LEAST} s on", stages("seconds", _LEAST), _seconds),
        _panel("Resident memory by stage", stages("resident [MB]"), _memory),
    ]
    return draw(f"{entry['title'].replace('`', '')}; ^c: fitted exponent; hollow: the machine was busy", panels)


def _panel(title: str, curves: Sequence[Curve], text: Callable[[float], str]) -> Panel:
    return Panel(title, "edges", [c for c in curves if c.points], _short, text)


def _seconds(value: float) -> str:
    return f"{value:,.4g} s"


def _memory(value: float) -> str:
    return f"{value:.3g} MB" if value < 1000 else f"{value / 1000:.3g} GB"


def _words(found: tuple[float, float | None] | None) -> str | None:
    if found is None:
        return None
    return f"{found[0]:.2f}" + ("" if found[1] is None else f" ± {found[1]:.2f}")


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    if len(points) < 2:
        return None
    (x0, y0), (x1, y1) = points[-2:]
    return math.log(y1 / y0) / math.log(x1 / x0)


def _short(edges: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if edges >= size:
            return f"{edges / size:g}{unit}"
    return f"{edges:g}"
