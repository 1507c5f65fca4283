"""Reorder: the nodes of one type of a batch in another order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from hasp.rows import take_rows

__all__ = ["reorder"]


def reorder(batch: HeteroData, node_type: str, order: Tensor) -> None:
    """Row ``i`` of a node type becomes what was row ``order[i]``; edges are renumbered and sorted again."""
    store = batch[node_type]
    for key, value in store.items():
        if isinstance(value, Tensor) and key != "input_id":
            store[key] = take_rows(value, order)
    row = torch.empty_like(order)
    row[order] = torch.arange(order.numel())
    for edge_type in batch.edge_types:
        ends = [end for end in (0, 1) if edge_type[2 * end] == node_type]
        if not ends:
            continue
        edges = batch[edge_type]
        index = edges.edge_index.clone()
        for end in ends:
            index[end] = row[index[end].to(torch.int64)].to(index.dtype)
        # Edges come in ascending (destination, e_id): a stable sort by the new destination keeps the second key.
        again = index[1].argsort(stable=True)
        for key, value in edges.items():
            if isinstance(value, Tensor):
                edges[key] = index[:, again] if key == "edge_index" else take_rows(value, again)
