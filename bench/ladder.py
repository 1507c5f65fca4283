"""Time to a fixed validation MAP, one machine, the same model and data: a ladder from PyG's way to fused parts.

Every rung trains the same SemanticGNN (two layers, d=64, InfoNCE, AdamW, the same seed) on the same graph until MAP@10 on
the validation truth reaches the target; the clock stands still while it is measured. The first three rungs take one step
over the whole graph per epoch and differ only in how Eq. 3 is computed, so they walk through the same weights up to the
order of float sums: their first losses are compared, and a rung that would need more than its budget is timed per step and
charged the number of steps that its fused twin needed. The last rung takes a step per part.

All rungs have the same links per step. That is hard on the full graph, whose step costs about the same with four times as
many, so PyG's way has a second row with them: compare the last rung with both.

Each rung is a process of its own: its peak memory is that of the kernel's high-water mark above what was resident before
training. With ``HASP_BENCH_CLOCK=cpu`` everything runs on one thread.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.utils import scatter, softmax

from bench.measure import CLOCK, Peak, call_in_child, clock
from bench.table import Table
from hasp import HASPData, HASPLoader, Schema
from hasp.graph import Graph
from hasp.load.merge import merge
from hasp.parallel import cores
from hasp.schema import EdgeType
from hasp_models.data.benchmark import Truth
from hasp_models.data.catalogues import load_benchmark
from hasp_models.data.csr import CSR
from hasp_models.data.evaluate import evaluate
from hasp_models.objectives import InfoNCE
from hasp_models.relation_attention import RelationAttention
from hasp_models.relation_csr import RelationCSR
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.train import fit

__all__ = ["RUNGS", "SIZES", "climb", "run"]

# way of Eq. 3, parts (a step each), supervised links per step
RUNGS: dict[str, tuple[str, int, int]] = {
    "PyG's way, full graph": ("pyg", 1, 256),
    "the same, 1,024 links per step": ("pyg", 1, 1024),
    "factorised torch, full graph": ("torch", 1, 256),
    "fused, full graph": ("numba", 1, 256),
    "fused, HASP parts": ("numba", 4, 256),
}
TWIN, PARTS = "fused, full graph", "fused, HASP parts"
TWINS = {256: TWIN, 1024: "fused, full graph, 1,024 links per step"}  # by links per step; who is no rung has no row
SHARE = 0.95  # of the best MAP of the fused twin: the target
# titles of the synthetic catalogue (0: books, where they are), d, steps of the twin, seconds of a slow rung, queries
BESIDE = ("times faster", "ms per step")
SIZES: dict[str, tuple[int, int, int, float, int]] = {"small": (300, 8, 4, 5.0, 50), "full": (0, 64, 100, 20.0, 1500)}


class PyGWay(RelationAttention):
    """The layer with PyG's own tools: ``[h ; r]`` and its products per edge, softmax and sums over an index."""

    def attend(self, h: Tensor, csr: RelationCSR, relation: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r = self.relation if relation is None else relation
        assert r is not None and self.beta is not None
        src, rel, row = csr.src.long(), csr.rel.long(), csr.row
        message = F.linear(torch.cat([h[src], r[rel]], dim=1), self.w_v)
        query = F.linear(h[: csr.num_dst], self.w_q)
        logit = (query[row] * F.linear(message, self.w_k)).sum(1, keepdim=True) * self.channels**-0.5 * self.beta[rel]
        alpha = softmax(logit, row, num_nodes=csr.num_dst)
        return scatter(message * alpha, row, dim=0, dim_size=csr.num_dst), alpha


def catalogue(titles: int, queries: int) -> tuple[Graph, Schema, EdgeType, Truth, str]:
    """The graph, who is an entity, the links, the validation truth, and the name of the data."""
    books = Path(os.environ.get("HASP_SHARED", Path(__file__).parent.parent.parent / "shared")) / "data" / "books"
    if not titles and books.is_dir():
        found = load_benchmark(books)
        graph, link, truth, name = found.graph, found.link_type, found.validation["co_sim"], "books"
    else:
        from hasp.sources.synthetic import Catalogue, generate

        made = generate(Catalogue(num_titles=titles or 10_000, seed=0))
        graph, link, name = made.graph, ("title", "co_engaged", "title"), "a synthetic catalogue"
        rows = CSR.from_pairs(made.test[0], made.test[1], made.config.num_titles, symmetric=True)
        truth = Truth.from_csr("held-out links", rows)
    some = np.sort(np.random.default_rng(0).permutation(truth.queries.size)[:queries])
    truth = Truth(truth.name, truth.queries[some], truth.rows.select(some))
    return graph, Schema(entity=link[0], eel=[link]), link, truth, name


def climb(
    way: str,
    parts: int,
    pairs: int,
    titles: int,
    dim: int,
    epochs: int,
    budget: float,
    queries: int,
    every: int,
    target: float | None,
) -> dict[str, Any]:
    """One rung, in its own process.

    Args:
        way: ``pyg``, ``torch`` or ``numba``.
        parts: of the build; a step per part.
        pairs: supervised links per step, at most.
        titles: see :data:`SIZES`.
        dim: width.
        epochs: at most.
        budget: seconds of training after which it ends.
        queries: of the validation.
        every: epochs between two measurements of MAP.
        target: ends when this MAP is reached; ``None``: trains all epochs.

    Returns:
        ``steps``, ``seconds``, ``ms`` (per step, median, without the first two), ``map`` (last), ``best``,
        ``reached`` (``[seconds, steps]`` at the target), ``losses`` of the first five steps, ``peak`` bytes, ``curve``.
    """
    threads = _threads(titles)
    torch.set_num_threads(threads)
    graph, schema, link, truth, name = catalogue(titles, queries)
    data = HASPData(graph, schema, num_parts=parts, reverse=True, log=False)
    torch.manual_seed(0)
    model = SemanticGNN.from_data(data, dim=dim, layers=2, backend="torch" if way == "pyg" else way, threads=threads)
    if way == "pyg":
        model.takes_types = False  # every layer updates every node, as PyG's heterogeneous convolutions do
        for layer in model.layers:
            layer.__class__ = PyGWay
    judge = SemanticGNN.from_data(data, dim=dim, layers=2, backend="numba", threads=threads)
    whole = merge(data.store, range(data.num_parts))
    csr = judge.csr(whole)
    with torch.no_grad():
        judge(whole, csr)  # compiles
    given: dict[str, Any] = {"edge_label_index": link, "disjoint_train_ratio": 0.5, "index_dtype": None}
    loader = HASPLoader(data, 1, True, seed=0, parts_per_step=1, **given)
    watch = _Watch(InfoNCE(link, max_pairs=pairs, known=[link]), budget, target, every)
    if way == "numba":
        watch.inner(model, loader([0]), 0).sum.backward()  # type: ignore[no-untyped-call]

    def validate(trained: torch.nn.Module) -> float:
        with watch:
            if watch.epoch() and watch.due():
                judge.load_state_dict(trained.state_dict())
                with torch.no_grad():
                    watch.saw(evaluate(judge(whole, csr)[link[0]], truth, ks=(10,)).mean("map@10"))
        watch.enough()
        return 0.0

    peak = Peak()
    with peak:
        watch.start()
        with contextlib.suppress(_Enough):
            fit(model, loader, watch, epochs=epochs, lr=0.01, validate=validate, progress=False)
    return {
        **watch.result(),
        "peak": peak.bytes,
        "data": name,
        "edges": csr.src.numel(),
        "nodes": sum(graph.num_nodes.values()),
    }


def _threads(titles: int) -> int:
    """One where CPU seconds are added up over threads, and where there is too little to share."""
    return 1 if CLOCK == "cpu" or 0 < titles < 1000 else min(2, cores())


class _Enough(Exception):
    """The rung is over."""


class _Watch:
    """An objective that keeps the time: seconds of training between the steps, without those of the validation."""

    def __init__(self, inner: InfoNCE, budget: float, target: float | None, every: int) -> None:
        self.inner, self.budget, self.target, self.every = inner, budget, target, every
        self.spent, self._since, self._epoch = 0.0, 0.0, 0
        self.at: list[float] = []
        self.losses: list[float] = []
        self.curve: list[tuple[float, int, float]] = []
        self.reached: tuple[float, int] | None = None

    def __call__(self, model: Any, batch: Any, key: int) -> Any:
        self.at.append(self.now())
        term = self.inner(model, batch, key)
        if len(self.losses) < 5:
            self.losses.append(float(term.sum.detach()) / max(term.weight, 1.0))
        return term

    def start(self) -> None:
        self._since = clock()

    def now(self) -> float:
        return self.spent + clock() - self._since

    def __enter__(self) -> None:
        self.spent = self.now()

    def __exit__(self, *error: object) -> None:
        self._since = clock()

    def epoch(self) -> int:
        self._epoch += 1
        return self._epoch

    def due(self) -> bool:
        return self._epoch % self.every == 0

    def saw(self, value: float) -> None:
        self.curve.append((self.spent, len(self.at), value))
        if self.target is not None and value >= self.target and self.reached is None:
            self.reached = (self.spent, len(self.at))

    def enough(self) -> None:
        if self.reached is not None or self.now() > self.budget:
            raise _Enough

    def result(self) -> dict[str, Any]:
        begins = [*self.at, self.now()]
        steps = np.diff(begins)[2:] if len(begins) > 3 else np.diff(begins)
        values = [v for *_, v in self.curve]
        return {
            "steps": len(self.at),
            "seconds": self.spent,
            "ms": 1e3 * float(np.median(steps)),
            "map": values[-1] if values else None,
            "best": max(values, default=None),
            "reached": self.reached,
            "losses": self.losses,
            "curve": self.curve,
        }


def run(size: str = "full") -> list[Table]:
    """The ladder: seconds to the target, rung by rung. The small size runs in this process: its peaks mean little."""
    titles, dim, steps, budget, queries = SIZES[size]
    common: dict[str, Any] = {"titles": titles, "dim": dim, "queries": queries}

    def rung(name: str, epochs: int, seconds: float, every: int, target: float | None) -> dict[str, Any]:
        way, parts, pairs = RUNGS.get(name, ("numba", 1, 1024))
        given: dict[str, Any] = {
            "way": way,
            "parts": parts,
            "pairs": pairs,
            "epochs": epochs,
            "budget": seconds,
            "every": every,
            "target": target,
        }
        found = climb(**common, **given) if size == "small" else call_in_child("bench.ladder:climb", **common, **given)
        if "error" in found:
            raise SystemExit(f"{name}: {found['error']}")
        return found

    every = max(1, steps // 30)
    whole = rung(TWIN, steps, 1e9, every, None)  # all its steps: the target comes from here
    target = SHARE * whole["best"]
    reached = next((seconds, step) for seconds, step, value in whole["curve"] if value >= target)
    found = {TWIN: {**whole, "reached": reached}}
    for name in (*RUNGS, TWINS[1024]):
        parts = RUNGS[name][1] if name in RUNGS else 1
        if name != TWIN:
            patience = 1e9 if name in TWINS.values() else budget if parts == 1 else 5 * budget
            found[name] = rung(name, 10 * steps, patience, every if parts == 1 else 1, target)
    table = Table(
        "ladder",
        f"Seconds to a validation MAP@10 of {target:.3f} on {whole['data']}, "
        f"{whole['nodes']:,} nodes, {whole['edges']:,} edges, SemanticGNN, d={dim}, two layers",
        ["rung", "ms per step", "steps to the MAP", "seconds to it", "times faster", "best MAP", "peak MB"],
        beside=BESIDE,
    )
    charged, first = [], None
    for name in RUNGS:
        got = found[name]
        seconds, count = got["reached"] or (None, None)
        if seconds is None and RUNGS[name][1] == 1:
            twin = found[TWINS[RUNGS[name][2]]]
            np.testing.assert_allclose(got["losses"], twin["losses"], rtol=2e-3, err_msg=f"{name} is not the same model")
            count = twin["reached"][1]
            seconds = count * got["ms"] / 1e3
            charged.append(f"{name} ran {got['steps']} steps")
        first = seconds if first is None else first
        table.add(
            rung=name,
            **{
                "ms per step": got["ms"],
                "steps to the MAP": count,
                "seconds to it": seconds,
                "times faster": None if seconds is None or first is None else first / seconds,
                "best MAP": got["best"] if got["reached"] else None,  # a rung that was cut short has none to compare
                "peak MB": None if got["peak"] is None else got["peak"] / 1e6,
            },
            curve=got["curve"],
            losses=got["losses"],
        )
    if charged:
        table.notes.append(
            f"Not trained to the end: {'; '.join(charged)} within {budget:.0f} s, with the losses of the fused twin to 0.2 %, "
            "and is charged the twin's number of steps."
        )
    threads = _threads(titles)
    table.notes.append(
        f"On {threads} thread{'s' if threads > 1 else ''}; the target is {SHARE:.0%} of the best MAP of the fused full graph "
        f"in {steps} steps. MAP is measured off the clock, every {every} steps of the full graph and every epoch of parts. "
        f"{RUNGS[PARTS][1]} parts, a step each (of 4, 8, 16 and 32 those that get there soonest); {RUNGS[TWIN][2]} supervised "
        "links per step unless the row says otherwise: more of them cost the full graph next to nothing, and take it there in "
        "fewer steps. PyG's way computes every layer for every node type; the others leave out of the last layer what the loss "
        "does not read; "
        "peak: above what was resident when training began."
    )
    return [table]
