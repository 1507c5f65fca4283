"""DistMult, ComplEx and RotatE with PyG's modules and losses, over the negatives of this package.

PyG draws its own negatives from all nodes and ranks tails only, unfiltered; here its modules get the same typed negatives as
TransE, and :func:`hasp_models.kg_embedding.filtered_ranking` ranks both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp_models.triples import Triples, batches

__all__ = ["pretrain_pyg"]


def pretrain_pyg(
    triples: Triples,
    method: str,
    dim: int,
    epochs: int,
    margin: float,
    batch_size: int,
    lr: float,
    generator: torch.Generator,
    draw: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
    seed: int,
    progress: Callable[[int, float], None] | None,
) -> tuple[Tensor, Tensor]:
    """Train one of PyG's modules with Adam; returns node and relation vectors as :class:`KGEmbedding` lays them out."""
    from torch_geometric.nn import kge

    kinds: dict[str, Any] = {"distmult": kge.DistMult, "complex": kge.ComplEx, "rotate": kge.RotatE}
    options = {} if method == "complex" else {"margin": margin}
    with torch.random.fork_rng(devices=[]):  # PyG's start comes from the global generator
        torch.manual_seed(seed)
        model = kinds[method](triples.num_nodes, triples.num_relations, dim, **options)

    def sample(head: Tensor, relation: Tensor, tail: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bad_head, bad_tail, _ = draw(head, relation, tail)
        return bad_head, relation, bad_tail

    model.random_sample = sample
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for epoch in range(epochs):
        total = 0.0
        for rows in batches(torch.randperm(len(triples), generator=generator), batch_size):
            optimizer.zero_grad()
            loss: Tensor = model.loss(triples.head[rows], triples.relation[rows], triples.tail[rows])
            torch.autograd.backward(loss)
            optimizer.step()
            total += float(loss.detach()) * rows.numel()
        if total != total or abs(total) == float("inf"):
            raise HaspError(f"the loss of epoch {epoch} is {total}; lower lr={lr}")
        if progress is not None:
            progress(epoch, total / len(triples))
    nodes, relations = model.node_emb.weight.detach(), model.rel_emb.weight.detach()
    if method != "distmult":
        nodes = torch.cat([nodes, model.node_emb_im.weight.detach()], dim=1)
    if method == "complex":
        relations = torch.cat([relations, model.rel_emb_im.weight.detach()], dim=1)
    return nodes.clone(), relations.clone()
