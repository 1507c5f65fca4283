"""NeighborSoftmax: the links of an entity as a distribution over all entities of the batch, strong links first.

What it differs in from :class:`hasp_models.objectives.InfoNCE`: a query is told from *all* entities of the batch instead of
the partners of other pairs; a link counts by its strength instead of all alike; links of several types supervise together;
and some entities are made cold, so that the concepts learn to speak for themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.rng import hash64, subkey, word
from hasp.schema import EdgeType
from hasp_models.exact import ExactSimilarity
from hasp_models.objectives import LossTerm, full_precision, vectors
from hasp_models.target_softmax import Targets, target_softmax

__all__ = ["NeighborSoftmax"]


class NeighborSoftmax:
    """Cross-entropy between the links of a query and a softmax of cosines over all entities of the batch.

    For a query i, with links to j of strength w_ij,

        L_i = - sum_j q_ij log( exp(cos(h_i, h_j) / temperature) / sum_k exp(cos(h_i, h_k) / temperature) )
        q_ij = w_ij ** power / sum_j' w_ij' ** power

    where k runs over the batch without i. The sum is over at most ``queries`` entities of the batch with such a link.

    A share of the linked pairs supervises: these carry no messages, each pair as a whole, in all its link types and both
    directions, drawn anew for every ``key``, so that a link does not predict itself. The other links carry messages. By
    default they are targets as well, easy ones: when the graph is embedded all links carry messages, and the order of strong
    and weak links should hold then, too. The loader needs no ``edge_label_index``.

    With ``exact``, the targets are mixed with what the graph says exactly,

        q_ij = (1 - trust) w_ij ** power / sum_j' w_ij' ** power + trust exp(s_ij / temperature) / sum_k exp(s_ik / temperature)

    so that the model learns the whole order of the entities, not of the linked ones alone; every entity that has a link or a
    concept is then a query, one without a link with s alone (knowledge distillation, Hinton et al., 2015).

    Args:
        strength: link type -> w of its links. All join one entity type to itself.
        temperature: cosines are divided by it.
        power: how much more a strong link counts.
        queries: at most so many per batch; the memory of a step is ``queries * entities of the batch``.
        supervise: share of the linked pairs that supervises.
        targets: ``"all"`` links, or ``"supervising"`` ones alone; then what i is linked to by the others is no k either.
        cold: share of the entities that hear no link and go without their free vector in this step. Entities without a link
            always go without: as they are told from every query and asked for by none, their vectors would only flee.
        exact: similarities by global id, of the graph that the batches are from.
        trust: how much of a target is theirs.

    Raises:
        HaspError: a setting out of its range, no link type, or one between different node types.
    """

    def __init__(
        self,
        strength: Mapping[EdgeType, float],
        *,
        temperature: float = 0.05,
        power: float = 2.0,
        queries: int = 512,
        supervise: float = 0.3,
        cold: float = 0.3,
        targets: str = "all",
        exact: ExactSimilarity | None = None,
        trust: float = 1.0,
    ) -> None:
        ends = {t for e in strength for t in (e[0], e[2])}
        if len(ends) != 1 or not all(w > 0 for w in strength.values()):
            raise HaspError(
                f"strength gives a number above 0 to links that join one node type to itself, got {dict(strength)}; correct it"
            )
        if not temperature > 0 or power < 0 or queries < 1:
            raise HaspError(
                f"temperature is above 0, power 0 or more, queries at least 1, got {(temperature, power, queries)}; correct it"
            )
        if not 0 < supervise <= 1 or not 0 <= cold < 1:
            raise HaspError(f"supervise lies in (0, 1] and cold in [0, 1), got {supervise} and {cold}; 0.3 each is usual")
        if targets not in ("all", "supervising"):
            raise HaspError(f"targets is 'all' or 'supervising', got {targets!r}; choose one")
        if not 0 < trust <= 1 or (exact is not None and targets != "all"):
            raise HaspError(f"trust lies in (0, 1], and exact needs targets='all', got {trust} and {targets!r}; correct them")
        self.entity, self.strength, self.targets = ends.pop(), dict(strength), targets
        self.exact, self.trust = exact, trust
        self.temperature, self.power, self.queries = temperature, power, queries
        self.supervise, self.cold = supervise, cold

    def __call__(self, model: Any, batch: Any, key: int = 0) -> LossTerm:
        """The summed cross-entropy of the batch's queries; the weight is their number."""
        a, b, weight = self._links(batch)
        seed = np.uint64(key)
        told = torch.ones_like(a, dtype=torch.bool) if self.targets == "all" else self._drawn(batch, a, b, seed)
        out = vectors(model, self._messages(batch, a, seed), [self.entity])
        h = full_precision(out[self.entity])
        ids = batch[self.entity].n_id.long() if "n_id" in batch[self.entity] else torch.arange(h.size(0), device=h.device)
        asked = a[told] if self.exact is None else torch.cat([a, self.exact.known(ids).nonzero()[:, 0]])
        chosen = self._queries(asked, seed)
        if not chosen.numel() or h.size(0) < 2:  # nobody asks, or nobody is asked about
            return LossTerm(h.sum() * 0.0, 0.0)
        targets = self._targets(a, b, weight, told, chosen, ids)
        return LossTerm(target_softmax(h, chosen, targets, self.temperature), float(chosen.numel()))

    def _targets(self, a: Tensor, b: Tensor, weight: Tensor, told: Tensor, chosen: Tensor, ids: Tensor) -> Targets:
        """What the queries should say, some of them at a time: the shares of their links, and what is known exactly."""
        place = a.new_full((ids.numel(),), -1)
        place[chosen] = torch.arange(chosen.numel(), device=place.device)
        order = place[a].argsort(stable=True)
        order = order[int((place[a] < 0).sum()) :]
        row, column, told = place[a[order]], b[order], told[order]
        mass = (weight[order] ** self.power).masked_fill(~told, 0.0)
        total = mass.new_zeros(chosen.numel()).index_add_(0, row, mass)
        share = mass / total[row].clamp_min(torch.finfo(mass.dtype).tiny)
        said = None if self.exact is None else self.exact.against(ids)

        def some(start: int, stop: int) -> tuple[Tensor, Tensor]:
            hidden = torch.zeros(stop - start, ids.numel(), dtype=torch.bool, device=ids.device)
            known = None
            if said is not None:
                known = said(ids[chosen[start:stop]]).div_(self.temperature)
                known = known.scatter_(1, chosen[start:stop, None], -torch.inf).softmax(1)
                if self.trust == 1:  # nothing is asked of the links
                    return known, hidden
            first, last = (int(x) for x in torch.searchsorted(row, torch.tensor([start, stop], device=row.device)))
            at, shown = (row[first:last] - start, column[first:last]), told[first:last]
            q = share.new_zeros(hidden.shape).index_put_(at, share[first:last], accumulate=True)
            if self.targets != "all":  # links that carry messages are no wrong answers
                hidden.index_put_(at, torch.ones_like(shown))
                hidden[at[0][shown], at[1][shown]] = False
            if known is not None:
                trust = torch.where(total[start:stop] > 0, self.trust, 1.0)[:, None]
                q = q.mul_(1 - trust).add_(known.mul_(trust))
            return q, hidden

        return some

    def _links(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Every linked pair in both directions, and its strength: int64 ``[m]`` twice, float32 ``[m]``."""
        if "num_owned" in batch[self.entity]:
            raise HaspError(
                "this objective reads its links off the batch, in which those from a halo are only messages; load without halo="
            )
        found = [(batch[e].edge_index.long(), w) for e, w in self.strength.items() if e in batch.edge_types]
        if not found:
            raise HaspError(
                f"this objective needs links of {list(self.strength)}, the batch has {batch.edge_types}; correct it"
            )
        index = torch.cat([i for i, _ in found], dim=1)
        weight = torch.cat([torch.full((i.size(1),), float(w), device=i.device) for i, w in found])
        proper = index[0] != index[1]
        index, weight = index[:, proper], weight[proper]
        return torch.cat([index[0], index[1]]), torch.cat([index[1], index[0]]), torch.cat([weight, weight])

    def _drawn(self, batch: Any, a: Tensor, b: Tensor, seed: np.uint64) -> Tensor:
        """Which links supervise: a hash of their two GLOBAL ids, so that no type or direction tells another's secret."""
        ids = batch[self.entity].n_id.long() if "n_id" in batch[self.entity] else torch.arange(batch[self.entity].num_nodes)
        low, high = torch.minimum(ids[a], ids[b]).cpu().numpy(), torch.maximum(ids[a], ids[b]).cpu().numpy()
        with np.errstate(over="ignore"):
            bits = hash64(subkey(int(seed), word("supervise")), low.astype(np.int64) * np.int64(-7046029254386353131) + high)
        return torch.from_numpy(bits.astype(np.float64) / 2.0**64 < self.supervise).to(a.device)

    def _messages(self, batch: Any, linked: Tensor, seed: np.uint64) -> Any:
        """The batch without the links that supervise and without those into cold entities."""
        out = copy.copy(batch)
        store = out[self.entity]
        ids = store.n_id if "n_id" in store else torch.arange(store.num_nodes)
        draw = hash64(subkey(int(seed), word("cold")), ids.cpu().numpy().astype(np.int64)).astype(np.float64) / 2.0**64
        cold = torch.from_numpy(draw < self.cold).to(ids.device)
        alone = torch.ones_like(cold)
        alone[linked] = False
        store.cold = cold | alone
        for edge_type in self.strength:
            if edge_type not in out.edge_types:
                continue
            a, b = (end.long() for end in out[edge_type].edge_index)
            keep = ~(self._drawn(batch, a, b, seed) | cold[b])
            along = [name for name, value in out[edge_type].items() if isinstance(value, Tensor) and len(value) == keep.numel()]
            for name in along:
                if name != "edge_index":
                    out[edge_type][name] = out[edge_type][name][keep]
            out[edge_type].edge_index = out[edge_type].edge_index[:, keep]
        return out

    def _queries(self, linked: Tensor, seed: np.uint64) -> Tensor:
        """At most ``queries`` of the entities with such a link, ascending."""
        some: Tensor = torch.unique(linked)
        if some.numel() <= self.queries:
            return some
        order = np.argsort(hash64(subkey(int(seed), word("queries")), some.cpu().numpy()), kind="stable")[: self.queries]
        return some[torch.from_numpy(np.sort(order)).to(some.device)]

    def __repr__(self) -> str:
        names: tuple[str, ...] = ("temperature", "power", "queries", "supervise", "cold", "targets")
        names += () if self.exact is None else ("exact", "trust")
        return f"NeighborSoftmax({self.strength}, {', '.join(f'{n}={getattr(self, n)!r}' for n in names)})"
