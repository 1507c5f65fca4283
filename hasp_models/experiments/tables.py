"""Rows of numbers from results, and rows as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hasp_models.experiments.context import Row
from hasp_models.experiments.intervals import Estimate, Values, gain, means_of, relative

__all__ = ["cell", "csv_of", "markdown", "percent", "pick", "rows_of", "with_holm"]


def rows_of(
    methods: Mapping[str, Mapping[str, Values]],
    *,
    metrics: Sequence[str],
    groups: Sequence[str | None],
    reference: str | None = None,
    base: str | None = None,
    samples: int = 10_000,
    seed: int = 0,
) -> list[Row]:
    """One row per method, truth, metric and group.

    Args:
        methods: label -> truth -> one result per split, averaged over seeds.
        metrics: names.
        groups: names; ``None``: all queries.
        reference: the label that every other one is compared with: ``gain`` is ``reference - method`` and ``gain_relative``
            ``reference / method - 1``, each with its interval; ``p`` belongs to ``gain``.
        base: the label that ``over_base``, ``method / base - 1``, refers to.
        samples: bootstrap samples.
        seed: of the samples.
    """
    rows: list[Row] = []
    truths = list(dict.fromkeys(t for of in methods.values() for t in of))
    for truth in truths:
        judged = {label: of[truth] for label, of in methods.items() if truth in of}
        some = next(iter(judged.values()))[0]
        for group in groups:
            if group is not None and group not in some.groups:
                continue
            for metric, means in means_of(judged, metrics, group, samples=samples, seed=seed).items():
                for label in judged:
                    row: Row = {"method": label, "truth": truth, "metric": metric, "group": group or "all"}
                    row |= {"queries": means.queries, "splits": means.splits, **_numbers("mean", means.of(label))}
                    if reference in judged and label != reference:
                        row |= _numbers("gain", gain(means, reference, label))
                        row |= _numbers("gain_relative", relative(means, reference, label))
                    if base in judged and label != base:
                        row |= _numbers("over_base", relative(means, label, base))
                    rows.append(row)
    return rows


def with_holm(rows: list[Row], family: Callable[[Row], bool]) -> list[Row]:
    """Add ``p_holm``, Holm's correction over the compared rows of the family (those that a table shows).

    Comparisons with a second reference, ``hybrid_gain_p``, are of the same family, and get ``hybrid_p_holm``.
    """
    from hasp_models.data.evaluate import holm

    compared = [(row, prefix) for prefix in ("", "hybrid_") for row in rows if f"{prefix}gain_p" in row and family(row)]
    for (row, prefix), p in zip(compared, holm([row[f"{prefix}gain_p"] for row, prefix in compared]), strict=True):
        row[f"{prefix}p_holm"] = p
    return rows


def _numbers(name: str, found: Estimate | None) -> Row:
    if found is None or not math.isfinite(found.value):
        return {}
    short = "" if name == "mean" else f"{name}_"
    row = {name: found.value, f"{short}low": found.low, f"{short}high": found.high}
    return row if found.p is None else {**row, f"{name}_p": found.p}


def pick(rows: Sequence[Row], **wanted: Any) -> Row | None:
    """The first row with these values."""
    return next((r for r in rows if all(r.get(k) == v for k, v in wanted.items())), None)


def cell(row: Row | None, *, interval: bool = False) -> str:
    """A mean, with its interval if asked for."""
    if row is None or "mean" not in row:
        return "-"
    return f"{row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]" if interval else f"{row['mean']:.4f}"


def percent(row: Row | None, name: str) -> str:
    """A relative number with its interval, in per cent; ``-`` where it is not defined."""
    if row is None or name not in row:
        return "-"
    main = f"{100 * row[name]:+.1f} %"
    if f"{name}_low" not in row:
        return main
    return f"{main} [{100 * row[f'{name}_low']:+.1f}, {100 * row[f'{name}_high']:+.1f}]"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column flush left."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def csv_of(rows: Sequence[Row]) -> str:
    """All rows as CSV: one column per key, empty where a row has none."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
