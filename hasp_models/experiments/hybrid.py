"""SemanticGNN with hybrid search: the cosine of its vectors plus a weight times the exact similarities of its graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hasp.graph import Graph
from hasp_models.data.benchmark import Benchmark, co_links, relink
from hasp_models.data.neighbors import EmbeddingScorer, Scorer
from hasp_models.exact import ExactSimilarity
from hasp_models.experiments.method import Fitted, Settings
from hasp_models.experiments.semantic import SEMANTIC, SEMANTIC_FEW_LINKS, SEMANTIC_SPACE, fit_semantic
from hasp_models.hybrid import ExactScorer, HybridScorer

__all__ = ["EXACT", "EXACT_FEW_LINKS", "EXACT_SPACE", "HYBRID", "HYBRID_FEW_LINKS", "HYBRID_SPACE", "fit_exact", "fit_hybrid"]

_NAMES = ("direct", "shared", "content", "power")

_OWN: Settings = {
    "hybrid": 0.5,
    "hybrid_direct": 1.0,
    "hybrid_shared": 1.0,
    "hybrid_content": 0.3,
    "hybrid_power": 1.0,
    "hybrid_links": 10,
}

HYBRID: Settings = {**SEMANTIC, **_OWN}
"""Where the search starts: the model's start, the weight of the exact similarities (``hybrid``), what they are made of, and how
many weak links per entity they read. Vectors are trained on ten."""

HYBRID_FEW_LINKS: Settings = {
    **SEMANTIC_FEW_LINKS,
    "hybrid": 2.0,
    "hybrid_direct": 0.7,
    "hybrid_shared": 0.03,
    "hybrid_content": 1.0,
    "hybrid_links": 300,
}
"""What the second trial changes, where most entities have few links or none. A sparse row has room for more links."""

HYBRID_SPACE: dict[str, Any] = {**SEMANTIC_SPACE, "hybrid": (0.3, 0.5, 0.7, 1.0, 2.0)}
"""What is tuned."""

EXACT: Settings = {k.removeprefix("hybrid_"): v for k, v in _OWN.items() if k != "hybrid"}
"""The exact similarities alone: what hybrid search would be without a model."""

EXACT_FEW_LINKS: Settings = {k.removeprefix("hybrid_"): v for k, v in HYBRID_FEW_LINKS.items() if k.startswith("hybrid_")}
"""What the second trial changes, as :data:`HYBRID_FEW_LINKS`."""

EXACT_SPACE: dict[str, Any] = {"direct": (0.7, 1.0, 1.5), "shared": (0.3, 1.0, 3.0), "content": (0.1, 0.3, 1.0)}
"""What is tuned."""


def fit_exact(benchmark: Benchmark, settings: Settings, seed: int, quiet: bool = True) -> Fitted:
    """The exact similarities of the benchmark's graph, a closed form; arguments as of :func:`fit_hybrid`."""
    graph = _wider(benchmark, int(settings["links"]))
    exact = ExactSimilarity.of(graph, benchmark.link_types, **{k: settings[k] for k in _NAMES})
    return Fitted(ExactScorer(exact))


def fit_hybrid(benchmark: Benchmark, settings: Settings, seed: int, quiet: bool = True) -> Fitted:
    """:func:`fit_semantic` with pretrained concepts; then only the scores differ.

    Args:
        benchmark: see :class:`hasp_models.experiments.method.Method`.
        settings: those of :data:`HYBRID`.
        seed: of pretraining and training.
        quiet: no bar.
    """
    model = fit_semantic(benchmark, {k: v for k, v in settings.items() if k not in _OWN}, seed, kg=True, quiet=quiet)

    def hybrid(dense: Scorer, graph: Graph) -> Scorer:
        links = [e for e in benchmark.link_types if e in graph.edges]
        exact = ExactSimilarity.of(graph, links, **{k: settings[f"hybrid_{k}"] for k in _NAMES})
        return HybridScorer(dense, exact, settings["hybrid"])

    def scorer_of(graph: Graph) -> Scorer:
        assert model.embed is not None
        return hybrid(model.scorer_of(graph) if model.scorer_of else EmbeddingScorer(model.embed(graph)), graph)

    return replace(model, scorer=hybrid(model.scorer, _wider(benchmark, int(settings["hybrid_links"]))), scorer_of=scorer_of)


def _wider(benchmark: Benchmark, links: int) -> Graph:
    """The benchmark's graph with so many weak links per entity, of the same graph users."""
    if benchmark.weak is None or benchmark.weak.top == links:
        return benchmark.graph
    of = (benchmark.users, benchmark.items, benchmark.num_items, benchmark.link_type, benchmark.rule)
    return relink(benchmark.graph, *co_links(*of, replace(benchmark.weak, top=links), benchmark.shrink))
