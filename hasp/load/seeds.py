"""Seeds: the nodes a batch is asked about come first among their type, as PyG's node loaders put them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from hasp.errors import HaspError
from hasp.load.store import Store
from hasp.rows import take_rows

__all__ = ["Seeds"]


class Seeds:
    """The input nodes of a loader.

    Args:
        store: what the loader reads.
        input_nodes: an entity type, or ``(entity type, nodes)`` with nodes a mask ``[n]``, distinct ids, or ``None`` (all).

    Raises:
        HaspError: the type is no entity type, a mask of the wrong length, an id out of range or given twice.
    """

    def __init__(self, store: Store, input_nodes: Any) -> None:
        node_type, nodes = (input_nodes, None) if isinstance(input_nodes, str) else _two(input_nodes)
        manifest = store.manifest
        if node_type not in manifest.roles.entity:
            raise HaspError(
                f"input_nodes are of an entity type, one of {manifest.roles.entity}, got {node_type!r}; "
                "nodes of other types are in many parts, and would be counted in each"
            )
        count = manifest.num_nodes[node_type]
        self.node_type = node_type
        if nodes is None:
            ids = torch.arange(count)
            position = ids
        else:
            try:
                nodes = torch.as_tensor(nodes)
            except (TypeError, ValueError, RuntimeError) as error:
                raise HaspError(f"input_nodes of {node_type!r} are ids or a mask, got {nodes!r:.80}; give a tensor") from error
            if nodes.is_floating_point():
                raise HaspError(f"input_nodes of {node_type!r} are ids or a mask, got {nodes.dtype}; cast them to int64")
            if nodes.dtype == torch.bool:
                if nodes.shape != (count,):
                    raise HaspError(f"a mask over {node_type!r} has shape ({count},), got {tuple(nodes.shape)}; make it so")
                ids = nodes.nonzero().view(-1)
                position = ids  # as PyG does: a mask has no order of its own
            else:
                ids = nodes.to(torch.int64).view(-1)
                position = torch.arange(ids.numel())
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= count):
            raise HaspError(f"input_nodes of {node_type!r} lie in 0..{count - 1}, got {int(ids.min())}..{int(ids.max())}")
        self._ids, order = ids.sort(stable=True)
        self._position = position[order]
        twice = (self._ids[1:] == self._ids[:-1]).nonzero()
        if twice.numel():
            raise HaspError(f"input_nodes are distinct, got {int(self._ids[twice[0, 0]])} twice; use input_nodes.unique()")

    def apply(self, batch: HeteroData) -> HeteroData:
        """Put the seeds first; set ``batch_size`` to their number and ``input_id`` to their positions in ``input_nodes``."""
        store = batch[self.node_type]
        n_id = store.n_id
        at = torch.searchsorted(self._ids, n_id).clamp_(max=max(self._ids.numel() - 1, 0))
        seed = self._ids[at] == n_id if self._ids.numel() else torch.zeros(n_id.numel(), dtype=torch.bool)
        store.batch_size = int(seed.sum())
        store.input_id = self._position[at[seed]] if self._ids.numel() else self._position
        first = torch.cat([seed.nonzero().view(-1), (~seed).nonzero().view(-1)])
        if not bool((first == torch.arange(first.numel())).all()):
            _reorder(batch, self.node_type, first)
        return batch


def _reorder(batch: HeteroData, node_type: str, order: Tensor) -> None:
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


def _two(value: Any) -> tuple[Any, Any]:
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not isinstance(value[0], str):
        raise HaspError(f"input_nodes is a node type or (node type, nodes), got {type(value).__name__}; write it so")
    return value[0], value[1]
