"""Table 1: every method on Co-Sim and HC-Sim; and Figure 5: SemanticGNN over the NETFLIX-baseline by degree group."""

from __future__ import annotations

from typing import Any

from hasp_models.experiments.claims import claims_text
from hasp_models.experiments.context import Context, Experiment, Row, fit_job
from hasp_models.experiments.judge import judge
from hasp_models.experiments.plots import Bar, grouped_bars, method_bars
from hasp_models.experiments.store import Job, Outcome
from hasp_models.experiments.tables import cell, markdown, percent, pick, rows_of, with_holm

__all__ = ["FIG5", "GROUPS", "MAPS", "PAPER", "TABLE1"]

MAPS = ("map@10", "map@50", "map@100")
GROUPS = ("group0", "group1", "group2", "cold")
OURS, NETFLIX, PLAIN, HYBRID = "semantic_gnn", "netflix", "semantic_no_kg", "semantic_hybrid"

PAPER: dict[str, dict[str, tuple[float, float, float]]] = {
    "gcn": {"co_sim": (-0.5534, -0.6098, -0.6226), "hc": (-0.4932, -0.5426, -0.5553)},
    "gat": {"co_sim": (-0.1596, -0.1261, -0.1323), "hc": (-0.3515, -0.3307, -0.3293)},
    "sage": {"co_sim": (-0.1201, -0.0919, -0.1031), "hc": (-0.3025, -0.2532, -0.2764)},
    PLAIN: {"co_sim": (0.1859, 0.1305, 0.1254), "hc": (0.3079, 0.2713, 0.2620)},
    OURS: {"co_sim": (0.2167, 0.1706, 0.1825), "hc": (0.3542, 0.2946, 0.2596)},
}
"""The paper's Table 1: MAP@10, 50 and 100 over the NETFLIX-baseline, on data that is not public."""

_COLUMNS = [(truth, group, m) for truth, group in (("co_sim", "all"), ("hc", "all"), ("hc", "cold")) for m in MAPS]
_WORDS = {"co_sim": "Co-Sim", "hc": "HC-Sim", "co_sim_raw": "raw Co-Sim", "co_sim_new": "Co-Sim, new pairs"}


def _jobs(context: Context) -> list[Job]:
    return [job for m in context.methods for job in context.jobs("table1", m.name)]


def _run(context: Context, job: Job) -> Outcome:
    fitted, seconds = fit_job(context, job)
    results = judge(context.benchmark(job.split), fitted.scorer, job.method)
    return Outcome({"": results}, seconds, {"epochs": fitted.epochs, **fitted.notes})


def _rows(context: Context) -> list[Row]:
    names = [m.name for m in context.methods]
    methods = {name: context.values(context.jobs("table1", name)).get("", {}) for name in names}
    how: dict[str, Any] = {"metrics": MAPS, "groups": (None, *GROUPS), "samples": context.size.samples}
    rows = rows_of(methods, reference=OURS, base=NETFLIX, **how)
    if HYBRID in methods:
        for row, beside in zip(rows, rows_of(methods, reference=HYBRID, **how), strict=True):
            row |= {f"hybrid_{name}": number for name, number in beside.items() if name.startswith("gain")}
    for row in rows:
        row["seeds"] = next(context.seeds_of(m) for m in context.methods if m.name == row["method"])
        said = PAPER.get(row["method"], {}).get(row["truth"])
        if said is not None and row["group"] == "all":
            row["paper_over_base"] = said[MAPS.index(row["metric"])]
    return with_holm(rows, lambda row: (row["truth"], row["group"], row["metric"]) in _COLUMNS)


def _text(rows: list[Row]) -> str:
    names = list(dict.fromkeys(row["method"] for row in rows))
    seen = [(t, g) for t, g in (("co_sim", "all"), ("hc", "all"), ("hc", "cold")) if pick(rows, truth=t, group=g)]
    out = []

    def title(truth: str, group: str) -> str:
        return _WORDS.get(truth, truth) + ("" if group == "all" else f" {group}")

    head = ["method", *(f"{title(t, g)} {m}" for t, g in seen for m in MAPS)]
    lines = []
    for name in names:
        cells = [pick(rows, method=name, truth=t, group=g, metric=m) for t, g in seen for m in MAPS]
        lines.append([name, *(cell(c, interval=c is not None and c["metric"] == "map@10") for c in cells)])
    out += ["Means, with 95 % intervals over queries.", "", markdown(head, lines), ""]
    for ours, word, prefix in ((OURS, "SemanticGNN", ""), (HYBRID, "SemanticGNN, hybrid search,", "hybrid_")):
        if ours in names and len(names) > 1:
            head = [f"{word} over", *(f"{title(t, g)} map@10 (p)" for t, g in seen)]
            lines = []
            for name in names:
                if name != ours:
                    found = [pick(rows, method=name, truth=t, group=g, metric="map@10") for t, g in seen]
                    lines.append([name, *(_gain(row, prefix) for row in found)])
            said = "Paired; p after Holm's correction over all comparisons of this table."
            if PLAIN in names and ours == OURS:
                ratios = [(1 + PAPER[OURS][t][0]) / (1 + PAPER[PLAIN][t][0]) - 1 for t in ("co_sim", "hc")]
                said += (
                    f" The paper's gains over {PLAIN}: {100 * ratios[0]:+.1f} % and {100 * ratios[1]:+.1f} %, on other data."
                )
            out += [said, "", markdown(head, lines), ""]
    if NETFLIX in names and len(names) > 1:
        head = ["over the NETFLIX-baseline", *(f"{_WORDS[t]} {m}" for t in ("co_sim", "hc") for m in MAPS)]
        lines = [[n, *(_beside(pick(rows, method=n, truth=t, group="all", metric=m)) for t in ("co_sim", "hc") for m in MAPS)]
                 for n in names if n != NETFLIX]  # fmt: skip
        out += ["In brackets the interval; in parentheses the paper's number, on other data.", "", markdown(head, lines), ""]
    for ours in (OURS, HYBRID):
        if found_claims := claims_text(rows, ours):
            out += [found_claims, ""]
    for truth in dict.fromkeys(row["truth"] for row in rows):
        groups = [g for g in ("all", *GROUPS) if pick(rows, truth=truth, group=g)]
        counts = {g: row["queries"] for g in groups if (row := pick(rows, truth=truth, group=g))}
        head = [f"{_WORDS.get(truth, truth)} map@10", *(f"{g} ({counts[g]:,} queries)" for g in groups)]
        lines = [[n, *(cell(pick(rows, method=n, truth=truth, group=g, metric="map@10")) for g in groups)] for n in names]
        out += [markdown(head, lines), ""]
    return "\n".join(out)


def _gain(row: Row | None, prefix: str) -> str:
    if row is None:
        return "-"
    p = f" ({row[f'{prefix}p_holm']:.3f})" if f"{prefix}p_holm" in row else ""
    return percent(row, f"{prefix}gain_relative") + p


def _beside(row: Row | None) -> str:
    said = "" if row is None or "paper_over_base" not in row else f" ({100 * row['paper_over_base']:+.1f} %)"
    return percent(row, "over_base") + said


def _draw(rows: list[Row]) -> dict[str, str]:
    return method_bars(rows, "table1", {t: f"{_WORDS[t]}: MAP@10" for t in ("co_sim", "hc")})


def _fig5_jobs(context: Context) -> list[Job]:
    return [job for name in (OURS, NETFLIX) for job in context.jobs("table1", name)]


def _fig5_rows(context: Context) -> list[Row]:
    methods = {name: context.values(context.jobs("table1", name)).get("", {}) for name in (OURS, NETFLIX)}
    rows = rows_of(methods, metrics=MAPS, groups=GROUPS, base=NETFLIX, samples=context.size.samples)
    return [{**row, "seeds": context.size.seeds} for row in rows]


def _fig5_text(rows: list[Row]) -> str:
    head = ["truth", "group", "queries", "metric", "SemanticGNN", "NETFLIX-baseline", "ratio"]
    lines = []
    for row in rows:
        if row["method"] == OURS:
            key = {k: row[k] for k in ("truth", "group", "metric")}
            other = pick(rows, method=NETFLIX, **key)
            ratio = "-" if "over_base" not in row else _ratio(row)
            lines.append([*key.values(), "", cell(row, interval=True), cell(other, interval=True), ratio])
            lines[-1][2:4] = [f"{row['queries']:,}", row["metric"]]
    return markdown(head, lines)


def _ratio(row: Row) -> str:
    return f"{1 + row['over_base']:.2f} [{1 + row['over_base_low']:.2f}, {1 + row['over_base_high']:.2f}]"


def _fig5_draw(rows: list[Row]) -> dict[str, str]:
    drawings = {}
    for truth in ("co_sim", "hc"):
        groups = [g for g in GROUPS if pick(rows, truth=truth, group=g)]
        bars = []
        for group in groups:
            pair = [pick(rows, method=m, truth=truth, group=group, metric="map@10") for m in (OURS, NETFLIX)]
            bars.append((group, [Bar(r["mean"], r["low"], r["high"]) for r in pair if r is not None]))
        if bars:
            title = f"{_WORDS[truth]}: MAP@10 by degree group"
            drawings[f"fig5-{truth}.svg"] = grouped_bars(title, ["SemanticGNN", "NETFLIX-baseline"], bars)
    return drawings


TABLE1 = Experiment("table1", "Table 1", None, (), _jobs, _run, _rows, _text, _draw)
FIG5 = Experiment(
    "fig5", "Figure 5: by degree group", (OURS, NETFLIX), (OURS, NETFLIX), _fig5_jobs, _run, _fig5_rows, _fig5_text, _fig5_draw
)
