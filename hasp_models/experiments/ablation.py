"""What carries SemanticGNN: the tuned model, and the same with one thing changed at a time."""

from __future__ import annotations

from typing import Any

from hasp_models.experiments.context import Context, Experiment, Row, fit_job
from hasp_models.experiments.graph_models import TRAINING
from hasp_models.experiments.judge import judge
from hasp_models.experiments.method import Settings
from hasp_models.experiments.methods import METHODS
from hasp_models.experiments.plots import method_bars
from hasp_models.experiments.store import Job, Outcome
from hasp_models.experiments.table1 import OURS, PLAIN
from hasp_models.experiments.tables import cell, markdown, percent, pick, rows_of, with_holm

__all__ = ["ABLATION", "CHANGES"]

_FULL, _HALF = "as it is", "half as wide"
_COMMON = ("layers", "num_parts", "merge", "parts_per_step", "temperature", "disjoint", "epochs", "patience", "every")
# At .01 it does not train at d=256.
_FROM_SCRATCH: Settings = {**{name: TRAINING[name] for name in _COMMON}, "dim": 256, "lr": 0.003, "schedule": "constant"}

CHANGES: dict[str, Settings] = {
    _FULL: {},
    "not trained: the start alone": {"epochs": 1, "every": 1, "lr": 1e-12},
    "messages start at random (no echo)": {"echo": None},
    "one relation for all links (no tiers)": {"tiers": False},
    "EELs alone (no weak links)": {"weak": False},
    "weights are plain cosines (no shrinkage)": {"shrink": False},
    "all links are equal targets": {"power": 0.0, "trust": 0.0},
    "links that carry messages are no targets": {"targets": "supervising", "trust": 0.0},
    "exact similarities are the targets": {"trust": 1.0},
    "links are the targets, not exact similarities": {"trust": 0.0},
    _HALF: {"dim": 256},
    "no entity is made cold": {"cold": 0.0},
    "entities without vectors of their own": {"free": False},
    "InfoNCE from a random start": {"objective": "infonce", **_FROM_SCRATCH},
    "the paper's loss (Eq. 4-5) from a random start": {"objective": "paper", **_FROM_SCRATCH},
}
"""What is changed -> the settings that differ from the chosen ones; what changes nothing is left out. Besides these: the model
without the KG."""

WITHOUT_KG = (
    _FULL,
    "EELs alone (no weak links)",
    "entities without vectors of their own",
    "InfoNCE from a random start",
    "the paper's loss (Eq. 4-5) from a random start",
)
"""Changes that are made to the model without the KG, too: where pretrained concepts pay."""

_NO_KG = "without the KG"
_WORDS = {"co_sim": "Co-Sim", "hc": "HC-Sim"}
_SEEN = (("co_sim", "all"), ("hc", "all"), ("hc", "cold"))


def _by_change(context: Context) -> dict[str, list[Job]]:
    chosen = context.jobs("ablation", OURS)[0].settings
    changes = dict(CHANGES)
    if context.size.quick:  # what was made small for a quick run stays small
        small = METHODS[OURS].quick
        changes[_HALF] = {"dim": chosen["dim"] // 2}
        for name, more in CHANGES.items():
            if "objective" in more:
                changes[name] = {**more, **{k: v for k, v in small.items() if k in more}}
    real = {n: more for n, more in changes.items() if n == _FULL or {**chosen, **more} != chosen}
    return {name: context.jobs("ablation", OURS, name, more) for name, more in real.items()}


def _no_kg(context: Context) -> dict[str, list[Job]]:
    """The same changes without the KG; what was chosen for that model stays, but for what is changed."""
    changed = _by_change(context)
    chosen = context.jobs("ablation", OURS)[0].settings
    found = {}
    for name in WITHOUT_KG:
        if name in changed:
            settings = changed[name][0].settings
            more = {k: v for k, v in settings.items() if v != chosen[k]}
            found[name] = context.jobs("ablation", PLAIN, "" if name == _FULL else name, more)
    return found


def _jobs(context: Context) -> list[Job]:
    return [job for found in (_by_change(context), _no_kg(context)) for jobs in found.values() for job in jobs]


def _run(context: Context, job: Job) -> Outcome:
    fitted, seconds = fit_job(context, job)
    results = judge(context.benchmark(job.split), fitted.scorer, job.variant or job.method)
    return Outcome({"": results}, seconds, {"epochs": fitted.epochs, **fitted.notes})


def _rows(context: Context) -> list[Row]:
    found = {name: context.values(jobs).get("", {}) for name, jobs in _by_change(context).items()}
    plain = {name: context.values(jobs).get("", {}) for name, jobs in _no_kg(context).items()}
    how: dict[str, Any] = {"metrics": ("map@10",), "groups": (None, "cold"), "samples": context.size.samples}
    rows = rows_of({**found, _NO_KG: plain[_FULL]}, reference=_FULL, **how)
    for name, values in plain.items():
        # Each stands beside itself with the KG, whose row is there already.
        label = _without(name)
        paired = rows_of({name: found[name], label: values}, reference=name, **how)
        rows += [{**row, "pair": name} for row in paired if row["method"] == label]
    rows = [{**row, "seeds": context.seeds_of(METHODS[OURS])} for row in rows if row["truth"] in ("co_sim", "hc")]
    return with_holm(rows, lambda row: (row["truth"], row["group"]) in _SEEN and row.get("pair") != _FULL)


def _text(rows: list[Row]) -> str:
    seen = [(t, g) for t, g in _SEEN if pick(rows, truth=t, group=g)]
    heads = [_WORDS[t] + ("" if g == "all" else f" {g}") + " map@10" for t, g in seen]
    head = ["changed", *heads, *(f"{h}: as it is over this (p)" for h in heads)]
    lines = []
    for name in dict.fromkeys(row["method"] for row in rows if "pair" not in row):
        found = [pick(rows, method=name, truth=t, group=g) for t, g in seen]
        lines.append([name, *(cell(r, interval=True) for r in found), *(_over(r) for r in found)])
    said = (
        "One thing is changed at a time; the other settings stay as they were chosen for the model as it is, except that a "
        "random start is trained as the graph baselines are. Paired intervals over queries; p after Holm's correction."
    )
    out = [said, "", markdown(head, lines)]
    if pairs := list(dict.fromkeys(row["pair"] for row in rows if "pair" in row)):
        head = ["what pretrained concepts bring", *heads, *(f"{h}: over the same without the KG (p)" for h in heads)]
        lines = []
        for name in pairs:
            mine = [pick(rows, method=name, truth=t, group=g) for t, g in seen]
            plain = [pick(rows, pair=name, truth=t, group=g) for t, g in seen]
            lines.append([name, *(cell(r, interval=True) for r in mine), *(_over(r) for r in plain)])
        out += ["", markdown(head, lines)]
    return "\n".join(out)


def _without(name: str) -> str:
    return _NO_KG if name == _FULL else f"{name}, {_NO_KG}"


def _over(row: Row | None) -> str:
    if row is None or "gain_relative" not in row:
        return "-"
    return percent(row, "gain_relative") + (f" ({row['p_holm']:.3f})" if "p_holm" in row else "")


def _draw(rows: list[Row]) -> dict[str, str]:
    titles = {t: f"One change at a time: {words} MAP@10" for t, words in _WORDS.items()}
    return method_bars([row for row in rows if "pair" not in row], "ablation", titles)


ABLATION = Experiment("ablation", "One change at a time", (OURS, PLAIN), (OURS, PLAIN), _jobs, _run, _rows, _text, _draw)
