"""What people use today, as methods: closed forms over co-engagement and concepts, item2vec and LightGCN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hasp_models.data import baselines
from hasp_models.data.baselines import BlendScorer
from hasp_models.data.benchmark import Benchmark
from hasp_models.data.neighbors import Scorer
from hasp_models.experiments.method import Fitted, Group, Method, Settings

__all__ = ["CLASSIC"]

_WEIGHTS = (0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
_SHRINK = (1.0, 2.0, 5.0, 10.0, 20.0)


def closed(
    name: str, group: Group, form: Callable[..., Scorer], space: dict[str, Any] | None = None, **defaults: Any
) -> Method:
    """A method without training: the same bytes for every seed."""

    def run(benchmark: Benchmark, settings: Settings, seed: int, quiet: bool) -> Fitted:
        return Fitted(form(benchmark, **settings))

    return Method(name, group, run, space or {}, defaults, seeded=False)


def trained(name: str, group: Group, form: Callable[..., Scorer], space: dict[str, Any], **defaults: Any) -> Method:
    """A method of vectors for entities alone, trained on engagements for a fixed number of epochs."""

    def run(benchmark: Benchmark, settings: Settings, seed: int, quiet: bool) -> Fitted:
        return Fitted(form(benchmark, seed=seed, **settings), epochs=int(settings["epochs"]))

    return Method(name, group, run, space, defaults, quick={"epochs": 3})


def blend_of(first: Callable[..., Scorer]) -> Callable[..., Scorer]:
    """``weight * first + tf_idf``; the weight is a tuned setting, chosen as all others are, and so are those of ``first``."""

    def form(benchmark: Benchmark, *, weight: float, **own: Any) -> Scorer:
        return BlendScorer(first(benchmark, **own), baselines.tf_idf(benchmark), weight)

    return form


def _item2vec(benchmark: Benchmark, **options: Any) -> Scorer:
    return baselines.item2vec(benchmark, **options)


def _lightgcn(benchmark: Benchmark, **options: Any) -> Scorer:
    return baselines.lightgcn(benchmark, **options)


_ITEM2VEC = {"lr": (0.003, 0.01, 0.03), "num_negatives": (2, 5, 10), "power": (0.25, 0.5, 0.75, 1.0), "epochs": (20, 40, 80)}
_LIGHTGCN = {"lr": (0.005, 0.01, 0.02, 0.05), "layers": (1, 2, 3), "weight": (1e-5, 1e-4, 1e-3), "epochs": (20, 40, 80)}

CLASSIC: tuple[Method, ...] = (
    closed("popularity", "chance", baselines.popularity),
    closed("random", "chance", baselines.random),
    closed("cosine", "co-engagement", baselines.cosine),
    closed("cosine_shrunk", "co-engagement", baselines.cosine, {"shrink": _SHRINK}, shrink=5.0),
    closed("cosine_links", "co-engagement", baselines.cosine_links),
    closed("ease", "co-engagement", baselines.ease, {"weight": (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)}, weight=100.0),
    closed("pure_svd", "co-engagement", baselines.pure_svd, {"dim": (16, 32, 64, 128, 256)}, dim=64),
    trained("item2vec", "co-engagement", _item2vec, _ITEM2VEC, dim=64, lr=0.01, num_negatives=5, power=0.75, epochs=40),
    trained("lightgcn", "co-engagement", _lightgcn, _LIGHTGCN, dim=64, lr=0.02, layers=3, weight=1e-4, epochs=40),
    closed("tf_idf", "content", baselines.tf_idf),
    closed(
        "tf_idf_smoothed", "hybrid", baselines.tf_idf_smoothed, {"weight": (0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0)}, weight=1.0
    ),
    closed("blend", "hybrid", blend_of(baselines.cosine), {"weight": _WEIGHTS}, weight=10.0),
    closed(
        "blend_shrunk", "hybrid", blend_of(baselines.cosine), {"weight": _WEIGHTS, "shrink": _SHRINK}, weight=20.0, shrink=2.0
    ),
    closed("blend_links", "hybrid", blend_of(baselines.cosine_links), {"weight": _WEIGHTS}, weight=3.0),
)
"""In the order of the table."""
