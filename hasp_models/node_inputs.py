"""What a graph model starts from: the first vector of every node, and the global ids by which they are looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hasp.errors import HaspError

__all__ = ["NodeInputs", "n_id_of"]


class NodeInputs(nn.Module):
    """The first vector of every node: a Linear per type over features, plus a vector of its own where asked for.

    A type may have any of: features ``x`` of the batch (``in_channels``), a table of features looked up by ``n_id``
    (``features``, as pretrained concept vectors), a learned vector per node by ``n_id`` (``embed`` and ``free``). Their
    terms are added; a type with none starts at zero and lives on its neighbours.

    A free vector is dropped, row by row, with probability ``dropout`` in training, and nodes past the end of its table or
    marked as ``cold`` have none: so the model learns to do without, as it must for new entities. Nothing is rescaled, because
    a missing vector at inference is not rescaled either.

    Args:
        node_types: every node type.
        dim: width of the result.
        in_channels: type -> width of ``x``.
        features: type -> ``[N, c]``; frozen unless ``train_features``.
        train_features: make the tables parameters.
        embed: type -> number of nodes.
        free: type -> number of nodes; these are dropped out.
        dropout: see above.
        lengths: type -> ``[N]``: how long the learned vectors start (1 on average where none is given).
    """

    def __init__(
        self,
        node_types: Sequence[str],
        dim: int,
        in_channels: Mapping[str, int],
        features: Mapping[str, Tensor],
        train_features: bool,
        embed: Mapping[str, int],
        free: Mapping[str, int],
        dropout: float,
        lengths: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        named = (("in_channels", in_channels), ("features", features), ("embed", embed), ("free", free))
        for label, given in (*named, ("lengths", lengths or {})):
            unknown = [t for t in given if t not in node_types]
            if unknown:
                raise HaspError(f"{label} names the node type {unknown[0]!r}, but the graph has {list(node_types)}")
        both = [t for t in free if t in embed]
        if both:
            raise HaspError(f"a learned vector is either in embed or in free (with dropout), got {both[0]!r} in both")
        if not 0 <= dropout <= 1:
            raise HaspError(f"entity_dropout is a probability, got {dropout}; 0 keeps every free vector")
        self.dim, self.dropout = dim, dropout
        self.of_x = nn.ModuleDict({t: nn.Linear(c, dim) for t, c in in_channels.items()})
        self.of_table = nn.ModuleDict({t: nn.Linear(f.size(1), dim) for t, f in features.items()})
        self.tables = nn.ParameterDict(
            {t: nn.Parameter(f.detach().float().clone(), requires_grad=train_features) for t, f in features.items()}
        )
        self.own = nn.ParameterDict({t: nn.Parameter(torch.empty(n, dim)) for t, n in {**embed, **free}.items()})
        for table in self.own.values():
            nn.init.normal_(table, std=dim**-0.5)
        for node_type, length in (lengths or {}).items():
            own = self.own[node_type] if node_type in self.own else torch.empty(0)
            if length.shape != own.shape[:1]:
                want, got = own.size(0), tuple(length.shape)
                raise HaspError(f"lengths of {node_type!r} are one per learned vector, {want:,}, got {got}; correct them")
            own.data.mul_(length[:, None])
        self.free = list(free)

    def forward(self, node_type: str, n_id: Tensor, x: Tensor | None, cold: Tensor | None = None) -> Tensor:
        """``[n, dim]`` for the nodes ``n_id`` ``[n]`` of one type; ``x`` is ``[n, c]`` or ``None``, ``cold`` bool ``[n]``."""
        like = next(self.parameters(), torch.empty(0))
        terms: list[Tensor] = []
        if node_type in self.of_x:
            if x is None:
                raise HaspError(f"the model takes features of {node_type!r}, but this batch has no x for it; add them")
            terms.append(self.of_x[node_type](x.to(like.dtype)))
        if node_type in self.of_table:
            terms.append(self.of_table[node_type](self._looked_up(node_type, self.tables[node_type], n_id)))
        if node_type in self.own:
            table: Tensor = self.own[node_type]
            if node_type not in self.free:
                terms.append(self._looked_up(node_type, table, n_id))
            elif table.size(0):
                known = n_id < table.size(0) if cold is None else (n_id < table.size(0)) & ~cold
                if self.training and self.dropout > 0:
                    known = known & (torch.rand(n_id.shape, device=n_id.device) >= self.dropout)
                # Gather row 0 for those without, then zero it: shapes stay the same on every device.
                terms.append(_taken(table, n_id * known) * known[:, None])
        return sum(terms[1:], terms[0]) if terms else like.new_zeros((n_id.numel(), self.dim))

    def _looked_up(self, node_type: str, table: Tensor, n_id: Tensor) -> Tensor:
        """``table[n_id]``. All rows in their order, as parts hold their concepts: the table itself."""
        if n_id.device.type == "cpu":
            if n_id.numel() == table.size(0) and torch.equal(n_id, torch.arange(n_id.numel())):
                return table
            self._within(node_type, n_id, table.size(0))
        return _taken(table, n_id)

    def _within(self, node_type: str, n_id: Tensor, count: int) -> None:
        if n_id.numel() and int(n_id.max()) >= count:
            raise HaspError(
                f"the model has vectors for {count:,} nodes of {node_type!r}, got n_id {int(n_id.max()):,}; "
                "train on this graph, or give this type features"
            )


def _taken(table: Tensor, ids: Tensor) -> Tensor:
    """``table[ids]``: on the CPU by the way whose gradient adds rows, not numbers; elsewhere that one is in no fixed order."""
    return table.index_select(0, ids) if ids.device.type == "cpu" else table[ids]


def n_id_of(store: Any) -> Tensor:
    """Global ids of a node store of PyG, int64 ``[n]``: its ``n_id``, or ``0..n-1`` where it has none."""
    if "n_id" in store:
        return store.n_id.long()  # type: ignore[no-any-return]
    device = store.x.device if "x" in store else None
    return torch.arange(int(store.num_nodes), device=device)
