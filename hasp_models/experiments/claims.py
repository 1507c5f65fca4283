"""What the paper claims, and what SemanticGNN should beat, held against the rows of Table 1: yes or no, with numbers."""

from __future__ import annotations

from collections.abc import Sequence

from hasp_models.experiments.context import Row
from hasp_models.experiments.tables import markdown, percent, pick

__all__ = ["Claim", "claims", "claims_text"]

Claim = dict[str, str]
"""``claim``, ``measured`` and ``holds`` (``yes``, ``no``, or ``-`` where there is nothing to hold it against)."""

_OURS, _BASE, _PLAIN = "semantic_gnn", "netflix", "semantic_no_kg"
_PREFIX = {_OURS: "", "semantic_hybrid": "hybrid_"}
_WORDS = {_OURS: "SemanticGNN", "semantic_hybrid": "SemanticGNN, hybrid search"}
_FLOOR = {
    (_BASE, "co_sim"): 0.2167,
    (_BASE, "hc"): 0.3542,
    (_PLAIN, "co_sim"): 1.2167 / 1.1859 - 1,
    (_PLAIN, "hc"): 1.3542 / 1.3079 - 1,
}


def claims(rows: Sequence[Row], ours: str = _OURS) -> list[Claim]:
    """Each claim about MAP@10 of ``semantic_gnn``, or of ``semantic_hybrid``.

    A gain holds if it is as large as the paper's and its interval excludes zero. "Above" holds if the interval of the
    difference excludes zero after Holm's correction where there is one; "level" if the interval reaches zero or lies above.
    """
    prefix, out = _PREFIX[ours], []
    others = [m for m in dict.fromkeys(row["method"] for row in rows) if m not in (*_PREFIX, "random", "popularity")]
    for (other, truth), floor in _FLOOR.items():
        if prefix and other == _PLAIN:
            continue  # what pretraining brings is asked of the vectors
        row = _of(rows, other, truth, "all", prefix)
        said = f"over {other} by at least {100 * floor:.2f} % on {truth}"
        enough = row is not None and row.get("gain_relative", -1.0) >= floor and row["gain_low"] > 0
        out.append(_claim(said, row, enough))
    for name in others:
        for truth, group in (("hc", "all"), ("hc", "cold")):
            row = _of(rows, name, truth, group, prefix)
            above = row is not None and row["gain_low"] > 0 and row.get("p_holm", 0.0) < 0.05
            out.append(_claim(f"above {name} on {truth}{'' if group == 'all' else ', ' + group}", row, above))
    row = _of(rows, "cosine", "co_sim", "group2", prefix)
    out.append(_claim("at least level with cosine on co_sim, group2", row, row is not None and row["gain_high"] >= 0))
    for truth in ("co_sim", "hc"):
        found = [_of(rows, _BASE, truth, g, prefix) for g in ("group0", "group1", "group2")]
        gains = [r["gain_relative"] for r in found if r is not None and "gain_relative" in r]
        said = f"the gain over {_BASE} on {truth} is largest for group0"
        largest = len(gains) == len(found) and gains[0] == max(gains)
        measured = ", ".join(f"{100 * g:+.1f} %" for g in gains) or "-"
        out.append({"claim": said, "measured": measured, "holds": ("yes" if largest else "no") if gains else "-"})
    return out


def claims_text(rows: Sequence[Row], ours: str = _OURS) -> str:
    """The claims as a Markdown table; empty where there is nothing to compare."""
    found = [c for c in claims(rows, ours) if c["holds"] != "-"]
    if not found:
        return ""
    return markdown([f"{_WORDS[ours]}, MAP@10", "measured", "holds"], [[c["claim"], c["measured"], c["holds"]] for c in found])


def _of(rows: Sequence[Row], method: str, truth: str, group: str, prefix: str) -> Row | None:
    """The comparison with a method, by the names that it has for ``semantic_gnn``."""
    row = pick(rows, method=method, truth=truth, group=group, metric="map@10")
    if row is None or f"{prefix}gain" not in row:
        return None
    return row if not prefix else {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}


def _claim(said: str, row: Row | None, holds: bool) -> Claim:
    if row is None:
        return {"claim": said, "measured": "-", "holds": "-"}
    measured = percent(row, "gain_relative")
    if measured == "-":
        measured = f"{row['gain']:+.4f} [{row['gain_low']:+.4f}, {row['gain_high']:+.4f}]"
    return {"claim": said, "measured": measured, "holds": "yes" if holds else "no"}
