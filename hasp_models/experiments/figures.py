"""Figures 6 to 8: entities that come later, links that the model adds itself, and training on parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from hasp.sources.reverse import add_reverse
from hasp_models.data.evaluate import Result
from hasp_models.data.neighbors import EmbeddingScorer, Scorer
from hasp_models.experiments.context import Context, Experiment, Row, fit_job
from hasp_models.experiments.judge import judge
from hasp_models.experiments.methods import METHODS
from hasp_models.experiments.plots import Bar, grouped_bars, method_bars
from hasp_models.experiments.store import Job, Outcome
from hasp_models.experiments.table1 import GROUPS, MAPS, NETFLIX, OURS, PLAIN
from hasp_models.experiments.tables import cell, markdown, percent, pick, rows_of, with_holm
from hasp_models.infer import add_neighbors

__all__ = ["FIG6", "FIG7", "FIG8", "MARGIN"]

MARGIN = 0.01
"""Figure 8: parts are as good as the whole graph if the interval of their relative MAP@10 stays above minus this."""

PARTS = (4, 16, 64)
SCHEDULES = (
    "all parts in a step",
    "one part in a step, equal epochs",
    "one part in a step, equal steps",
    "quarters merged at random, all in a step",
)
NEIGHBORS = (1, 3, 5)
SCORES: tuple[Literal["l2", "cosine"], ...] = ("l2", "cosine")
_CONTENT = ("tf_idf", "tf_idf_smoothed", "blend", "blend_shrunk", "blend_links")


# -- Figure 6 ------------------------------------------------------------------------------------------------------------


def _fig6_names(context: Context) -> list[str]:
    return FIG6.method_names(context.methods)


def _fig6_jobs(context: Context) -> list[Job]:
    return [job for name in _fig6_names(context) for job in context.jobs("fig6", name)]


def _fig6_run(context: Context, job: Job) -> Outcome:
    """Fit without the new entities, then judge them with and without links of theirs; nothing is trained again."""
    data, method = context.inductive(job.split), METHODS[job.method]
    fitted, seconds = fit_job(context, job, data.train)
    results: dict[str, dict[str, Result]] = {}
    for mode, whole in (("cold", data.cold), ("warm", data.warm)):
        scorer: Scorer
        if fitted.scorer_of is not None:
            scorer = fitted.scorer_of(whole.graph)
        elif fitted.embed is not None:
            scorer = EmbeddingScorer(fitted.embed(whole.graph))
        else:  # closed forms over concepts and links: the same formula, the settings chosen without the new entities
            scorer = method.run(whole, dict(job.settings), job.seed, context.quiet).scorer
        results[mode] = judge(whole, scorer, job.method, data.truths)
    return Outcome(results, seconds, {"epochs": fitted.epochs, "new": int(data.new.size)})


def _fig6_rows(context: Context) -> list[Row]:
    found = {name: context.values(context.jobs("fig6", name)) for name in _fig6_names(context)}
    rows: list[Row] = []
    for mode in ("cold", "warm"):
        methods = {name: of[mode] for name, of in found.items()}
        some = rows_of(
            methods, metrics=MAPS, groups=(None, *GROUPS), reference=OURS, base=NETFLIX, samples=context.size.samples
        )
        rows += [{**row, "mode": mode, "seeds": context.seeds_of(METHODS[row["method"]])} for row in some]
    return with_holm(rows, lambda row: row["metric"] == "map@10" and row["group"] == "all" and row["truth"] in ("co_sim", "hc"))


def _fig6_text(rows: list[Row]) -> str:
    out = [
        "A fifth of the entities of each degree group was in nothing that was trained, and is embedded without retraining; "
        "queries are these new entities. Cold: they come with concepts only. Warm: with the links of graph users too. "
        "Groups are by the links that they have in warm.",
        "",
    ]
    for mode in ("cold", "warm"):
        for truth in ("co_sim", "hc"):
            groups = [g for g in ("all", *GROUPS) if pick(rows, mode=mode, truth=truth, group=g)]
            if not groups:
                continue
            head = [f"{mode}, {truth} map@10", *groups, "SemanticGNN over it"]
            lines = []
            for name in dict.fromkeys(r["method"] for r in rows):
                key = {"mode": mode, "truth": truth, "method": name, "metric": "map@10"}
                cells = [cell(pick(rows, **key, group=g), interval=g == "all") for g in groups]
                lines.append([name, *cells, percent(pick(rows, **key, group="all"), "gain_relative")])
            out += [markdown(head, lines), ""]
    return "\n".join(out)


def _fig6_draw(rows: list[Row]) -> dict[str, str]:
    names = list(dict.fromkeys(r["method"] for r in rows))
    drawings = {}
    for mode in ("cold", "warm"):
        for truth in ("co_sim", "hc"):
            bars = _by_group(rows, [{"method": n, "mode": mode} for n in names], truth)
            if bars:
                title = f"New entities, {mode}: {truth} MAP@10 by degree group"
                drawings[f"fig6-{mode}-{truth}.svg"] = grouped_bars(title, names, bars)
    return drawings


# -- Figure 7 ------------------------------------------------------------------------------------------------------------


def _fig7_jobs(context: Context) -> list[Job]:
    return context.jobs("fig7", OURS)


def _fig7_run(context: Context, job: Job) -> Outcome:
    """Link every entity to its nearest ones by the model's own embeddings, and embed again with the same weights."""
    fitted, seconds = fit_job(context, job)
    benchmark = context.benchmark(job.split)
    assert fitted.embed is not None
    # With reverse types first: a link of one direction would otherwise be given its opposite.
    graph = add_reverse(benchmark.graph)
    table = fitted.embed(graph)
    results = {"none": _maps(judge(benchmark, EmbeddingScorer(table), job.method))}
    notes: dict[str, Any] = {"links": int(benchmark.links.indices.size) // 2}
    # Of unit vectors, L2 and cosine have the same neighbours: one of the two is enough.
    unit = bool(((table.norm(dim=1) - 1).abs() < 1e-5).all())
    for k in NEIGHBORS:
        for directed in (False, True):
            for score in SCORES:
                name = _added(k, directed, score)
                if unit and score != SCORES[0]:
                    results[name] = results[_added(k, directed, SCORES[0])]
                    continue
                more = add_neighbors(
                    graph, benchmark.link_type, k, table, directed=directed, score=score, degree=benchmark.links.counts
                )
                scorer = EmbeddingScorer(fitted.embed(more))
                results[name] = _maps(judge(benchmark, scorer, job.method))
                notes[name] = more.num_edges(benchmark.link_type) - graph.num_edges(benchmark.link_type)
    return Outcome(results, seconds, notes)


def _added(k: int, directed: bool, score: str) -> str:
    return f"k={k} {'directed' if directed else 'undirected'} {score}"


def _maps(results: dict[str, Result]) -> dict[str, Result]:
    """The truths that the figure shows."""
    return {k: r for k, r in results.items() if k in ("co_sim", "hc")}


def _variant_rows(context: Context, methods: Mapping[str, Any], reference: str, seeds: int) -> list[Row]:
    """Rows with ``variant`` in the place of ``method``; ``over_base`` refers to the reference."""
    rows = rows_of(methods, metrics=MAPS, groups=(None, *GROUPS), base=reference, samples=context.size.samples)
    return [{"method": OURS, "variant": row.pop("method"), **row, "seeds": seeds} for row in rows]


def _fig7_rows(context: Context) -> list[Row]:
    return _variant_rows(context, context.values(_fig7_jobs(context)), "none", context.size.seeds)


def _fig7_text(rows: list[Row]) -> str:
    out = ["New links per entity, and MAP@10 over that without new links, no retraining.", ""]
    for truth in ("co_sim", "hc"):
        groups = [g for g in ("all", *GROUPS) if pick(rows, truth=truth, group=g)]
        lines = []
        for name in dict.fromkeys(r["variant"] for r in rows):
            found = [pick(rows, variant=name, truth=truth, group=g, metric="map@10") for g in groups]
            lines.append([name, *(cell(r) if name == "none" else f"{cell(r)} {percent(r, 'over_base')}" for r in found)])
        if groups:
            out += [markdown([truth, *groups], lines), ""]
    return "\n".join(out)


def _fig7_draw(rows: list[Row]) -> dict[str, str]:
    drawings = {}
    for truth in ("co_sim", "hc"):
        names = ["none", *(f"k={k} {way} l2" for k in NEIGHBORS for way in ("undirected", "directed"))]
        bars = _by_group(rows, [{"variant": n} for n in names], truth)
        if bars:
            drawings[f"fig7-{truth}.svg"] = grouped_bars(f"New links: {truth} MAP@10 by degree group", names, bars)
    return drawings


# -- Figure 8 ------------------------------------------------------------------------------------------------------------


def _fig8_plan(context: Context) -> dict[str, dict[str, Any]]:
    """Variant -> settings. No early end, so that epochs and steps are what they are said to be."""
    chosen = context.chosen.get(OURS, METHODS[OURS].settings(quick=context.size.quick))
    epochs = int(chosen["epochs"])
    fixed = {"patience": None, "merge": 1}
    plan: dict[str, dict[str, Any]] = {"parts=1": {**fixed, "num_parts": 1, "parts_per_step": None}}
    for parts in PARTS[:1] if context.size.quick else PARTS:
        with_parts = {**fixed, "num_parts": parts}
        plan[f"parts={parts}, {SCHEDULES[0]}"] = {**with_parts, "parts_per_step": None}
        plan[f"parts={parts}, {SCHEDULES[1]}"] = {**with_parts, "parts_per_step": 1}
        few = {"parts_per_step": 1, "max_steps": epochs, "epochs": -(-epochs // parts)}  # lr falls off over these steps
        plan[f"parts={parts}, {SCHEDULES[2]}"] = {**with_parts, **few}
        if parts > PARTS[0]:  # links between the parts of a batch come back, and so do negatives from other parts
            plan[f"parts={parts}, {SCHEDULES[3]}"] = {**with_parts, "parts_per_step": None, "merge": parts // 4}
    return plan


def _fig8_jobs(context: Context) -> list[Job]:
    return [job for name, more in _fig8_plan(context).items() for job in context.jobs("fig8", OURS, name, more)]


def _fig8_run(context: Context, job: Job) -> Outcome:
    fitted, seconds = fit_job(context, job)
    results = _maps(judge(context.benchmark(job.split), fitted.scorer, job.method))
    return Outcome({job.variant: results}, seconds, {"epochs": fitted.epochs, **fitted.notes})


def _fig8_rows(context: Context) -> list[Row]:
    methods = {}
    for name, more in _fig8_plan(context).items():
        methods[name] = context.values(context.jobs("fig8", OURS, name, more))[name]
    rows = _variant_rows(context, methods, "parts=1", context.size.seeds)
    for row in rows:
        if "over_base" in row:
            row["margin"] = MARGIN
            row["within_margin"] = bool(row["over_base_low"] > -MARGIN)
    return rows


def _fig8_text(rows: list[Row]) -> str:
    truths = [t for t in ("co_sim", "hc") if pick(rows, truth=t)]
    lines = []
    for name in dict.fromkeys(r["variant"] for r in rows):
        line = [name]
        for truth in truths:
            row = pick(rows, variant=name, truth=truth, group="all", metric="map@10")
            verdict = "" if row is None or "within_margin" not in row else "yes" if row["within_margin"] else "no"
            line += [cell(row, interval=True), percent(row, "over_base"), verdict]
        lines.append(line)
    head = ["training", *(w for t in truths for w in (f"{t} map@10", "over parts=1", f"above -{100 * MARGIN:.0f} %"))]
    said = (
        f"Margin, set before any run: parts are as good as the whole graph if the interval of relative MAP@10 stays above "
        f"-{100 * MARGIN:.0f} %. With all parts in a step an epoch is one step, as for the whole graph: steps and epochs "
        "are equal. The epoch that validates best is kept, with equal steps the last one."
    )
    return "\n".join([said, "", markdown(head, lines)])


def _fig8_draw(rows: list[Row]) -> dict[str, str]:
    return method_bars(rows, "fig8", {t: f"Training on parts: {t} MAP@10" for t in ("co_sim", "hc")}, by="variant")


def _by_group(rows: list[Row], wanted: list[dict[str, Any]], truth: str) -> list[tuple[str, list[Bar]]]:
    """MAP@10 by degree group, a bar per wanted row."""
    bars = []
    for group in GROUPS:
        found = [pick(rows, truth=truth, group=group, metric="map@10", **key) for key in wanted]
        if all(r is not None for r in found):
            bars.append((group, [Bar(r["mean"], r["low"], r["high"]) for r in found if r is not None]))
    return bars


FIG6 = Experiment(
    "fig6",
    "Figure 6: new entities",
    (*_CONTENT, "gcn", "gat", "sage", "hgt", NETFLIX, PLAIN, OURS),
    (OURS,),
    _fig6_jobs,
    _fig6_run,
    _fig6_rows,
    _fig6_text,
    _fig6_draw,
)
FIG7 = Experiment("fig7", "Figure 7: new links", (OURS,), (OURS,), _fig7_jobs, _fig7_run, _fig7_rows, _fig7_text, _fig7_draw)
FIG8 = Experiment("fig8", "Figure 8: parts", (OURS,), (OURS,), _fig8_jobs, _fig8_run, _fig8_rows, _fig8_text, _fig8_draw)
