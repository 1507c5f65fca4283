"""Ways of sending gradients, beside each other: bytes on the wire, what is learned for them, and the time they take.

Two real processes (gloo over loopback) train all contenders in turn, a few steps of one and then of the next, so that a
machine that others use slows all alike. Bytes are the kernel's own count of what the process sent over TCP.
"""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from bench.curve import Curve, Panel, draw
from bench.forked import on_ranks
from bench.ladder import catalogue
from bench.measure import call_in_child
from bench.table import Table
from bench.wire import tcp_bytes_sent
from hasp import HASPData, HASPLoader
from hasp.graph import Graph
from hasp.sources.reverse import add_reverse
from hasp.text import format_bytes
from hasp_models.data.benchmark import Truth
from hasp_models.data.evaluate import evaluate
from hasp_models.distributed.gradients import Gradients
from hasp_models.distributed.ranks import Ranks
from hasp_models.distributed.sending import Sending, sender_of_run
from hasp_models.experiments.graph_models import embed_entities
from hasp_models.objectives import InfoNCE
from hasp_models.zoo.sage import HeteroSAGE

__all__ = ["SIZES", "WAYS", "run"]

WAYS: dict[str, tuple[str, str]] = {
    "dense": ("dense", "AdamW"),
    "fp16": ("fp16", "AdamW"),
    "PowerSGD, rank 1": ("powersgd:1:{warmup}", "AdamW"),
    "PowerSGD, rank 4": ("powersgd:4:{warmup}", "AdamW"),
    "DGC, 1 %": ("dgc:0.01:{warmup}", "AdamW"),
    "DGC, 0.1 %": ("dgc:0.001:{warmup}", "AdamW"),
    "post-local SGD, every 4": ("local-sgd:4:{warmup}", "AdamW"),
    "post-local SGD, every 16": ("local-sgd:16:{warmup}", "AdamW"),
    "dense, momentum SGD": ("dense", "SGD"),
    "DGC, 1 %, momentum SGD": ("dgc:0.01:{warmup}", "SGD corrected"),
    "DGC, 0.1 %, momentum SGD": ("dgc:0.001:{warmup}", "SGD corrected"),
    "DGC, 1 %, uncorrected momentum": ("dgc:0.01:{warmup}", "SGD"),
}
"""Contender -> what :meth:`hasp_models.distributed.sending.Sending.parse` takes, the warm-up being a tenth of the steps; and
the optimizer: the trainer's, or SGD with a momentum of its own or, for the correction, of the compression."""

SIZES: dict[str, dict[str, int]] = {
    "small": {"titles": 300, "queries": 50, "dim": 8, "parts": 4, "steps": 8, "turn": 4, "every": 4},
    "full": {"titles": 0, "queries": 800, "dim": 64, "parts": 16, "steps": 192, "turn": 16, "every": 48},
}
"""Size -> settings; ``titles`` 0: the books, where they are; ``turn``: steps of one contender before the next has its turn;
``every``: steps between two judgements."""

_SHORT = (
    "Short runs are hard on what is delayed: an entry that waits its turn at 1 % is sent once in a hundred steps, at 0.1 % "
    "once in a thousand."
)
RANKS = 2
_MOMENTUM = 0.9
PICTURE = "docs/results/compression.svg"
BESIDE = ("of dense",)


@dataclass
class Contender:
    """A model that two ranks train in one way, and what was counted: per step, of this rank."""

    model: nn.Module
    gradients: Gradients
    batches: Any
    loader: HASPLoader
    losses: list[float] = field(default_factory=list)
    wire: list[int] = field(default_factory=list)
    compute: list[float] = field(default_factory=list)
    exchange: list[float] = field(default_factory=list)
    curve: list[tuple[int, int, float]] = field(default_factory=list)

    def step(self, ranks: Ranks, objective: InfoNCE) -> None:
        """One step of the trainer's loop (:func:`hasp_models.train.fit`), with clocks around what is sent."""
        begin = time.perf_counter()
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        self.model.train()
        self.gradients.optimizer.zero_grad()
        term = objective(self.model, batch, len(self.losses))
        term.sum.backward()  # type: ignore[no-untyped-call]
        self.gradients.collect()
        done = time.perf_counter()
        loss, weight = ranks.agree("a step", None, [float(term.sum.detach()), term.weight])  # also: both are here
        before, start = tcp_bytes_sent(), time.perf_counter()
        self.gradients.exchange(weight)
        sent = time.perf_counter()
        self.gradients.move(weight, None)
        moved = time.perf_counter()
        self.gradients.average()
        end, after = time.perf_counter(), tcp_bytes_sent()
        self.compute.append(done - begin + moved - sent)
        self.exchange.append(sent - start + end - moved)
        self.losses.append(loss / max(weight, 1.0))
        self.wire.append(0 if before is None or after is None else after - before)


def run(size: str = "full") -> list[Table]:
    """Train, tabulate, draw."""
    found = call_in_child("bench.compression:measure", **SIZES[size])
    if "error" in found:
        raise RuntimeError(f"the measurement failed: {found['error']}")
    first, second = found["ranks"]
    table = _table(first, second, SIZES[size])
    finish(table)
    return [table]


def measure(ways: dict[str, tuple[str, str]] = WAYS, ranks: int = RANKS, **settings: int) -> dict[str, Any]:
    """In a process of its own: load the data, fork the ranks, and hand back what each counted."""
    torch.set_num_threads(1)
    graph, schema, link, truth, name = catalogue(settings["titles"], settings["queries"])
    data = HASPData(graph, schema, num_parts=settings["parts"], reverse=True, log=False)
    whole = graph if any(e[1].startswith("rev_") for e in graph.edges) else add_reverse(graph)
    found = on_ranks(ranks, _train, data, whole, link, truth, settings, ways)
    return {"ranks": [{"data": name, **rank} for rank in found]}


def finish(table: Table) -> None:
    """Add what must be said, and draw quality against bytes."""
    if _SHORT not in table.notes:
        table.notes.append(_SHORT)
    rows = [row for row in table.rows if "momentum" not in row["gradients"]]
    points = {row["gradients"]: [(b, m) for _, b, m in row["curve"] if b] for row in rows}
    curves = [Curve(name, found, colour=i) for i, (name, found) in enumerate(points.items()) if found]
    if curves:
        words = f"What is learned for the bytes: {table.title.split(',')[0]}, {RANKS} ranks"
        panel = Panel("MAP@10", "bytes sent by a rank so far", curves, format_bytes, lambda y: f"{y:.3g}", log="x", low=None)
        table.picture, table.drawing = PICTURE, draw(words, [panel])


def _train(
    data: HASPData, whole: Graph, link: Any, truth: Truth, settings: dict[str, int], ways: dict[str, tuple[str, str]]
) -> dict[str, Any]:
    """All contenders in turns; what this rank counted."""
    ranks = Ranks()
    contenders = {way: _contender(*how, data, link, settings, ranks) for way, how in ways.items()}
    objective = InfoNCE(link, max_pairs=512, known=[link])
    for turn in range(0, settings["steps"], settings["turn"]):
        for way in list(contenders)[:: 1 if turn // settings["turn"] % 2 == 0 else -1]:
            one = contenders[way]
            for _ in range(settings["turn"]):
                one.step(ranks, objective)
            steps = len(one.losses)
            if steps % settings["every"] == 0:
                judged = _mean_model(one, ranks)
                quality = 0.0
                if ranks.rank == 0:
                    quality = evaluate(embed_entities(judged, whole, link[0]), truth, ks=(10,)).mean("map@10")
                one.curve.append((steps, sum(one.wire), quality))
                ranks.agree("judging")
    size = sum(p.numel() for p in contenders["dense"].model.parameters())
    counted = {
        way: {"losses": c.losses, "wire": c.wire, "compute": c.compute, "exchange": c.exchange, "curve": c.curve}
        for way, c in contenders.items()
    }
    return {"weights": size, "counted": counted}


def _contender(text: str, optimizer: str, data: HASPData, link: Any, settings: dict[str, int], ranks: Ranks) -> Contender:
    torch.manual_seed(0)
    model = HeteroSAGE.from_data(data, dim=settings["dim"], layers=2, normalize=True)
    sending = Sending.parse(text.format(warmup=settings["steps"] // 10))
    parameters = list(model.parameters())
    if optimizer == "SGD corrected":
        sending = replace(sending, momentum=_MOMENTUM)
    sender = sender_of_run(sending, model, [], ranks.size, None)
    mover: torch.optim.Optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)
    if optimizer != "AdamW":
        mover = torch.optim.SGD(parameters, lr=0.05, momentum=_MOMENTUM if optimizer == "SGD" else 0.0)
    loader = HASPLoader(data, 1, True, seed=0, parts_per_step=ranks.size, edge_label_index=link, disjoint_train_ratio=0.5)
    return Contender(model, Gradients(mover, parameters, [], ranks, sender), iter(loader), loader)


def _mean_model(one: Contender, ranks: Ranks) -> nn.Module:
    """The mean of the ranks' models, without touching them: they differ only where ranks move on their own."""
    judged = copy.deepcopy(one.model)
    values = [p.data for p in judged.parameters()]
    ranks.add_up("judging", values)
    for value in values:
        value.div_(ranks.size)
    return judged


def _table(first: dict[str, Any], second: dict[str, Any], settings: dict[str, int]) -> Table:
    """A row per contender; figures of a step are those after the warm-up."""
    dense_bytes = 4 * first["weights"]
    columns = ["gradients", "bytes per step", "of dense", "of dense, 8 ranks", "loss", "MAP@10", "ms per step", "ms exchange"]
    columns += ["ms at 10 Gb/s", "ms at 1 Gb/s"]
    title = f"HeteroSAGE on {first['data']} in {settings['parts']} parts, {RANKS} ranks, {settings['steps']} steps, "
    table = Table("compression", f"{title}{first['weights']:,} weights ({dense_bytes / 1e6:.2f} MB)", columns, beside=BESIDE)
    start = settings["steps"] // 10
    base = statistics.mean(first["counted"]["dense"]["wire"][start:])
    for way, mine in first["counted"].items():
        other = second["counted"][way]
        wire = statistics.mean(mine["wire"][start:])
        compute = _typical([max(pair) for pair in zip(mine["compute"], other["compute"], strict=True)][start:])
        exchange = _typical(mine["exchange"][start:])
        tail = mine["losses"][-max(1, settings["steps"] // 10) :]
        table.add(
            **{
                "gradients": way,
                "bytes per step": round(wire),
                "of dense": wire / base if base else None,
                "of dense, 8 ranks": wire / base * (4 if way.startswith("DGC") else 1) if base else None,
                "loss": statistics.mean(tail),
                "MAP@10": round(mine["curve"][-1][2], 4),
                "ms per step": 1e3 * (compute + exchange),
                "ms exchange": 1e3 * exchange,
                "ms at 10 Gb/s": 8e3 * wire / 1e10,
                "ms at 1 Gb/s": 8e3 * wire / 1e9,
                "curve": mine["curve"],
                "sent in all": sum(mine["wire"]),
            }
        )
    table.notes += [
        "Bytes: TCP payload that a rank sent in a step, by the kernel's count, mean of the steps after the warm-up "
        f"({start} steps, in which more is sent). With 8 ranks: computed; what an all-reduce sends grows by 7/4, what an "
        "all-gather sends by 7. Loss: mean of the last tenth of the steps. MAP@10 on held-out links, of the mean of the ranks' "
        "weights; one seed.",
        "Milliseconds per step and of its exchange (what the hook computes included) were measured over loopback, contenders "
        "in turns in the same two processes; those at 10 and 1 Gb/s are computed from the bytes alone, without latency.",
        f"AdamW at 0.01, the trainer's optimizer; SGD at 0.05 (dense, of 0.03, 0.1, 0.3 and 1 the first two were "
        f"best after 60 steps), with a momentum of {_MOMENTUM}, which with DGC is "
        "corrected (in the compression) unless it says not.",
    ]
    return table


def _typical(seconds: list[float], window: int = 16) -> float:
    """Seconds per step: the median over windows, as some contenders send in one step of many."""
    sums = [sum(seconds[i : i + window]) for i in range(0, max(1, len(seconds) - window + 1), window)]
    return statistics.median(sums) / min(window, len(seconds))
