"""All methods, in the order of Table 1."""

from __future__ import annotations

from collections.abc import Sequence

from hasp.errors import HaspError
from hasp_models.data.benchmark import Benchmark
from hasp_models.experiments.classic import CLASSIC
from hasp_models.experiments.graph_baselines import GRAPH_BASELINES
from hasp_models.experiments.graph_models import QUICK
from hasp_models.experiments.hybrid import (
    EXACT,
    EXACT_FEW_LINKS,
    EXACT_SPACE,
    HYBRID,
    HYBRID_FEW_LINKS,
    HYBRID_SPACE,
    fit_exact,
    fit_hybrid,
)
from hasp_models.experiments.method import Fitted, Method, Settings
from hasp_models.experiments.semantic import SEMANTIC, SEMANTIC_FEW_LINKS, SEMANTIC_SPACE, fit_semantic

__all__ = ["METHODS", "choose"]


_QUICK = {**QUICK, "epochs": 10, "every": 5, "queries": 256, "kg_epochs": 10, "num_parts": 1, "parts_per_step": None}


def _ours(name: str, kg: bool) -> Method:
    def run(benchmark: Benchmark, settings: Settings, seed: int, quiet: bool) -> Fitted:
        return fit_semantic(benchmark, settings, seed, kg=kg, quiet=quiet)

    return Method(name, "ours", run, SEMANTIC_SPACE, SEMANTIC, _QUICK, starts=[SEMANTIC_FEW_LINKS])


_OURS = (
    _ours("semantic_no_kg", False),
    _ours("semantic_gnn", True),
    Method("semantic_hybrid", "ours", fit_hybrid, HYBRID_SPACE, HYBRID, _QUICK, starts=[HYBRID_FEW_LINKS]),
)

_EXACT = Method("exact", "hybrid", fit_exact, EXACT_SPACE, EXACT, seeded=False, starts=[EXACT_FEW_LINKS])

METHODS: dict[str, Method] = {m.name: m for m in (*CLASSIC, _EXACT, *GRAPH_BASELINES, *_OURS)}
"""Methods by name."""


def choose(names: Sequence[str] | None = None) -> list[Method]:
    """The named methods (``None``: all), in the order of the table.

    Raises:
        HaspError: a name that is none.
    """
    unknown = [n for n in names or () if n not in METHODS]
    if unknown:
        raise HaspError(f"methods are {', '.join(METHODS)}, got {unknown[0]!r}; correct --methods")
    return [m for n, m in METHODS.items() if names is None or n in names]
