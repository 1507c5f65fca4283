"""The companion of ``hasp``: the models, pretraining, training and evaluation of the SemanticGNN paper over parts.

Names are imported when first used; importing the package loads neither a model nor a kernel.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "ExactSimilarity": "hasp_models.exact",
    "HybridScorer": "hasp_models.hybrid",
    "MaxMargin": "hasp_models.margin",
    "NeighborSoftmax": "hasp_models.neighbor_softmax",
    "PinSage": "hasp_models.zoo.pinsage",
    "RelationAttention": "hasp_models.relation_attention",
    "RelationCSR": "hasp_models.relation_csr",
    "SemanticGNN": "hasp_models.semantic_gnn",
    "Tiers": "hasp_models.tiers",
    "add_neighbors": "hasp_models.infer",
    "blend_start": "hasp_models.recipe",
    "embed_all": "hasp_models.infer",
    "embed_parts": "hasp_models.mapreduce",
    "fit": "hasp_models.train",
}

__all__ = [*_HOME]

if TYPE_CHECKING:
    from hasp_models.exact import ExactSimilarity as ExactSimilarity
    from hasp_models.hybrid import HybridScorer as HybridScorer
    from hasp_models.infer import add_neighbors as add_neighbors
    from hasp_models.infer import embed_all as embed_all
    from hasp_models.mapreduce import embed_parts as embed_parts
    from hasp_models.margin import MaxMargin as MaxMargin
    from hasp_models.neighbor_softmax import NeighborSoftmax as NeighborSoftmax
    from hasp_models.recipe import blend_start as blend_start
    from hasp_models.relation_attention import RelationAttention as RelationAttention
    from hasp_models.relation_csr import RelationCSR as RelationCSR
    from hasp_models.semantic_gnn import SemanticGNN as SemanticGNN
    from hasp_models.tiers import Tiers as Tiers
    from hasp_models.train import fit as fit
    from hasp_models.zoo.pinsage import PinSage as PinSage


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'hasp_models' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
