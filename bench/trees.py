"""Trees of ranks: averages within small groups often and over all ranks rarely, beside averages over all ranks and dense.

What a tree is for is the slow way between machines: the ranks of a group share one, and all but the rare averages stay on it.
"""

from __future__ import annotations

import statistics
from typing import Any

from bench.compression import SIZES
from bench.measure import call_in_child
from bench.table import Table

__all__ = ["BESIDE", "SIZES", "WAYS", "run"]

RANKS = 4
WAYS: dict[str, tuple[str, str]] = {
    "dense": ("dense", "AdamW"),
    "over all, every 4": ("local-sgd:4", "AdamW"),
    "by twos every 4, over all every 16": ("local-sgd:4x2,16x4", "AdamW"),
    "over all, every 16": ("local-sgd:16", "AdamW"),
}
"""Contender -> what :meth:`hasp_models.distributed.sending.Sending.parse` takes, and the optimizer."""
OVER_ALL = {"dense": 1, "over all, every 4": 4, "by twos every 4, over all every 16": 16, "over all, every 16": 16}
"""Contender -> steps between two exchanges in which all ranks take part."""
BESIDE = ("of dense",)


def run(size: str = "full") -> list[Table]:
    """Train all contenders in turns in the same four processes, and count what each rank sends."""
    settings = SIZES[size]
    found = call_in_child("bench.compression:measure", ways=WAYS, ranks=RANKS, **settings)
    if "error" in found:
        raise RuntimeError(f"the measurement failed: {found['error']}")
    return [_table(found["ranks"], settings)]


def _table(ranks: list[dict[str, Any]], settings: dict[str, int]) -> Table:
    columns = ["gradients", "bytes per step", "of dense", "exchanges of all ranks in 100 steps", "loss", "MAP@10"]
    title = f"HeteroSAGE on {ranks[0]['data']} in {settings['parts']} parts, {RANKS} ranks, {settings['steps']} steps"
    table = Table("trees", title, columns, beside=BESIDE)
    wire = {way: statistics.mean(b for rank in ranks for b in rank["counted"][way]["wire"]) for way in WAYS}
    for way in WAYS:
        mine = ranks[0]["counted"][way]
        table.add(
            **{
                "gradients": way,
                "bytes per step": round(wire[way]),
                "of dense": wire[way] / wire["dense"] if wire["dense"] else None,
                "exchanges of all ranks in 100 steps": 100 / OVER_ALL[way],
                "loss": statistics.mean(mine["losses"][-max(1, settings["steps"] // 10) :]),
                "MAP@10": round(mine["curve"][-1][2], 4),
            }
        )
    table.notes.append(
        "Bytes: TCP payload that a rank sent in a step, by the kernel's count, mean of all ranks and steps. Loss: mean of the "
        "last tenth of the steps. MAP@10 on held-out links, of the mean of the ranks' weights; one seed. AdamW at 0.01."
    )
    return table
