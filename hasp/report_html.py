"""The report as one page: no script, no request, light and dark, readable on a phone.

A content security policy in the page itself forbids it to fetch anything, so that it may be mailed and archived.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from hasp.charts import MAX_BARS, Line, Series, bars, compact, histogram, share_bar
from hasp.text import format_bytes

if TYPE_CHECKING:
    from hasp.report import Report

__all__ = ["render"]

_STYLE = """
:root{color-scheme:light dark;--bg:#f4f6f9;--card:#fff;--text:#17202b;--soft:#566274;--line:#dde3eb;--track:#e6ebf2;
--c0:#c3cbd6;--c1:#a5cdf2;--c2:#4c97d8;--c3:#175a9c;--c4:#e0963c;--mark:#b4442a}
@media (prefers-color-scheme:dark){:root{--bg:#10151c;--card:#18202a;--text:#e7edf4;--soft:#9fadbf;--line:#2c3744;
--track:#28323f;--c0:#566374;--c1:#bcdcf8;--c2:#5fa8e6;--c3:#2f74bb;--c4:#e5a657;--mark:#ff9478}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 16px 48px}
h1{font-size:1.6rem;margin:0 0 2px;letter-spacing:-.01em}h2{font-size:1.05rem;margin:0 0 10px}
p{margin:0 0 10px}.soft{color:var(--soft)}.lead{margin-bottom:22px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:12px;margin-bottom:12px}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;min-width:0}
.tile b{display:block;font-size:1.55rem;font-weight:650;line-height:1.25;letter-spacing:-.01em}
.tile span{display:block;font-size:.84rem;color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:12px;margin-bottom:12px}
.wide{margin-bottom:12px}
svg{display:block;width:100%;height:auto}
svg.shares{height:30px;border-radius:6px}
svg text{font-size:13px;fill:var(--soft)}svg text.strong{fill:var(--mark);font-weight:600}
.grid{stroke:var(--line)}.mark{stroke:var(--mark);stroke-width:2;stroke-dasharray:6 4}
.c0{fill:var(--c0);background:var(--c0)}.c1{fill:var(--c1);background:var(--c1)}.c2{fill:var(--c2);background:var(--c2)}
.c3{fill:var(--c3);background:var(--c3)}.c4{fill:var(--c4);background:var(--c4)}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:.84rem;color:var(--soft);margin:8px 0 0;padding:0;list-style:none}
.legend i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--soft);font-size:.8rem;text-align:right;vertical-align:bottom}
td{text-align:right;border-top:1px solid var(--line)}th,td{padding:6px 10px;white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}.l{text-align:left}td:last-child,th:last-child{padding-right:0}
.bar{display:inline-block;width:90px;height:9px;border-radius:5px;background:var(--track);overflow:hidden;margin-right:10px}
.num{display:inline-block;width:4.4em}
.bar i{display:block;height:100%;background:var(--c2)}
summary{cursor:pointer;font-weight:600}details[open] summary{margin-bottom:10px}
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render(report: Report, origin: str = "") -> str:
    """The whole page as a string.

    Args:
        report: any report; with more than :data:`hasp.charts.MAX_BARS` parts, bars become histograms.
        origin: who made the parts, and of what.
    """
    body = [
        _head(report, origin),
        _tiles(report),
        f'<section class="cards" aria-label="Charts per part">{_charts(report)}</section>',
        _degrees(report),
        _edge_table(report),
        _node_table(report),
        _memory(report),
        _numbers(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>HASP report: {report.num_parts:,} parts</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(report: Report, origin: str) -> str:
    types = ", ".join(f"{report.num_nodes[t]:,} {escape(t)}" for t in report.entities)
    nodes, edges = sum(report.num_nodes.values()), sum(report.num_edges.values())
    noun = "part" if report.num_parts == 1 else "parts"
    odd = [f"{escape(k)}: {nan:,} NaN, {infinite:,} infinite" for k, (nan, infinite) in report.not_finite.items()]
    said = [f"Not finite: {'; '.join(odd)}."] if odd else []
    said += [escape(origin)] if origin else []
    return (
        f"<h1>{report.num_parts:,} {noun}</h1>"
        f'<p class="soft lead">A graph of {nodes:,} nodes and {edges:,} edges; partitioned: {types}.</p>'
        + "".join(f'<p class="soft">{words}</p>' for words in said)
    )


def _tiles(report: Report) -> str:
    tiles = [("parts", f"{report.num_parts:,}", f"{compact(report.num_entities / report.num_parts)} entities each")]
    if any(report.num_edges[e] for e in report.eel):
        words = f"edge cut {_percent(report.edge_cut)}; a random split's {_percent(report.random_edge_cut)}"
        tiles.append(("EELs kept", _percent(1 - report.edge_cut), words))
    tiles.append(("of all edges kept", _percent(report.kept_all), f"{sum(report.cut.values()):,} lie between parts"))
    balance = report.balance
    rest = f"in entities; edges {balance['edges']:.3f}, bytes {balance['bytes']:.3f}"
    tiles.append(("largest / mean part", f"{balance['entities']:.3f}", rest))
    tiles.append(
        ("replication", f"{report.replication_factor:,.{1 if report.replication_factor > 100 else 3}f}", "copies of a node")
    )
    if report.loaded_bytes:
        predicted = report.predicted.get("part_bytes")
        note = f"predicted {format_bytes(predicted)}" if predicted else "nothing was predicted"
        tiles.append(("largest loaded part", format_bytes(max(report.loaded_bytes)), note))
    cells = (f'<div class="tile"><span>{escape(n)}</span><b>{escape(v)}</b><span>{escape(t)}</span></div>' for n, v, t in tiles)
    return f'<section class="tiles" aria-label="Headline figures">{"".join(cells)}</section>'


def _charts(report: Report) -> str:
    entities, edges = report.part_entities, report.part_edges
    sizes = report.loaded_bytes or report.part_bytes or [0] * report.num_parts
    what = "Bytes of the loaded part" if report.loaded_bytes else "Bytes of the part's file"
    line = None
    if report.loaded_bytes and "part_bytes" in report.predicted:
        line = Line("predicted", report.predicted["part_bytes"])
    if report.num_parts > MAX_BARS:
        return (
            _card("Entities per part", histogram("Entities per part", entities))
            + _card("Edges per part", histogram("Edges per part", edges, style="c2"))
            + _card(what, histogram(what, sizes, format_bytes, line, style="c4"))
        )
    groups = _groups(report)
    eel = [sum(report.edges[e][p] for e in report.eel if e in report.edges) for p in range(report.num_parts)]
    kinds = [Series("EELs", "c3", eel), Series("other edges", "c1", [n - m for n, m in zip(edges, eel, strict=True)])]
    shown = [s for s in kinds if any(s.values)] or kinds
    return (
        _card("Entities per part", bars("Entities per part", groups) + _legend(groups))
        + _card("Edges per part", bars("Edges per part", shown) + _legend(shown))
        + _card(what, bars(what, [Series("bytes", "c4", sizes)], format_bytes, line))
    )


def _groups(report: Report) -> list[Series]:
    """Entities per part by EEL degree, from the unlinked to the busiest."""
    from hasp.report import DEGREE_GROUPS

    without = [n - m for n, m in zip(report.part_entities, report.linked, strict=True)]
    series = [Series("no EEL", "c0", without)]
    for i, name in enumerate(DEGREE_GROUPS):
        series.append(Series(f"degree {name}", f"c{i + 1}", [row[i] for row in report.degree_groups]))
    return series


def _degrees(report: Report) -> str:
    totals = [Series(s.name, s.style, [sum(s.values)]) for s in _groups(report)]
    every = sum(s.values[0] for s in totals) or 1
    named = [Series(f"{s.name}: {s.values[0]:,} ({_percent(s.values[0] / every)})", s.style, s.values) for s in totals]
    return (
        '<section class="card wide"><h2>Entities by EEL degree</h2>'
        '<p class="soft">Distinct neighbours over EELs; self-loops are ignored.</p>'
        f"{share_bar('Entities by EEL degree', totals)}{_legend(named)}</section>"
    )


def _edge_table(report: Report) -> str:
    kept, chance, share = report.kept, report.random_edge_cut_by_type, report.sampled_share
    head = ["edge type", "role", "edges", "cut", "kept", "kept by chance", "in a sample"]
    rows = []
    for name, role in report.edge_roles.items():
        number = f'<span class="num">{_percent(kept[name])}</span>'
        bar = f'<span class="bar" aria-hidden="true"><i style="width:{100 * kept[name]:.1f}%"></i></span>{number}'
        rows.append(
            [
                escape(" → ".join(name.split("__"))),
                escape(role),
                f"{report.num_edges[name]:,}",
                f"{report.cut.get(name, 0):,}",
                bar,
                _percent(1 - chance[name]) if name in chance else "–",
                _percent(share[name]) if name in share else "–",
            ]
        )
    note = "Edges that every part repeats count as kept once; an edge between two parts is kept in the cut file."
    return _section("Edges kept", _table(head, rows, left=2), note)


def _node_table(report: Report) -> str:
    rows = []
    for name, role in report.node_roles.items():
        count = report.num_nodes[name]
        if role == "entity":
            low, high = min(report.entities[name]), max(report.entities[name])
            each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        else:
            each = f"{report.quota.get(name, count):,}"
        rows.append([escape(name), escape(role), f"{count:,}", each])
    return _section("Node types", _table(["node type", "role", "nodes", "in each part"], rows, left=2))


def _memory(report: Report) -> str:
    measured = report.measured or {}
    largest = max(report.loaded_bytes) if report.loaded_bytes else None
    rows = [
        ["largest loaded part", _size(report.predicted.get("part_bytes")), _size(largest)],
        [
            "memory of the build",
            _size(measured.get("planned_peak_bytes", report.predicted.get("peak_build_bytes"))),
            _size(measured.get("peak_build_bytes")),
        ],
        ["part files", "–", _size(sum(report.part_bytes))],
        ["shared block", "–", _size(report.shared_bytes)],
        ["sampled block", "–", _size(report.sampled_bytes)],
        ["cut", "–", _size(report.cut_bytes)],
    ]
    rows = [r for r in rows if r[1:] != ["–", "–"] and r[2] != "0 B"]
    html = _table(["", "predicted", "measured"], rows)
    seconds = measured.get("seconds") or {}
    if seconds:
        html += '<h2 style="margin-top:18px">Seconds</h2>' + _table(
            ["stage", "seconds"], [[escape(str(k)), f"{v:.2f}"] for k, v in seconds.items()]
        )
    return _section("Memory and disk", html)


def _numbers(report: Report) -> str:
    if report.num_parts > 4 * MAX_BARS:
        return f'<p class="soft">The figures of all {report.num_parts:,} parts: <code>hasp report PARTS --json</code>.</p>'
    groups = _groups(report)
    sizes = report.loaded_bytes or report.part_bytes or [0] * report.num_parts
    rows = [
        [str(p), f"{n:,}", *(f"{s.values[p]:,}" for s in groups), f"{m:,}", format_bytes(b)]
        for p, (n, m, b) in enumerate(zip(report.part_entities, report.part_edges, sizes, strict=True))
    ]
    html = _table(["part", "entities", *(s.name for s in groups), "edges", "loaded" if report.loaded_bytes else "file"], rows)
    return f'<details class="card wide"><summary>The figures of every part</summary><div class="scroll">{html}</div></details>'


def _card(title: str, body: str) -> str:
    return f'<div class="card"><h2>{escape(title)}</h2>{body}</div>'


def _section(title: str, body: str, note: str = "") -> str:
    words = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f'<section class="card wide"><h2>{escape(title)}</h2>{words}<div class="scroll">{body}</div></section>'


def _legend(series: Sequence[Series]) -> str:
    items = "".join(f'<li><i class="{s.style}"></i>{escape(s.name)}</li>' for s in series)
    return f'<ul class="legend">{items}</ul>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Cells of ``rows`` are HTML already."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=l' if i < left else ''}>{c}</{tag}>" for i, c in enumerate(cells))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{line([escape(h) for h in head], 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def _size(value: int | None) -> str:
    return "–" if value is None else format_bytes(value)
