"""How alike two entities are, read off the graph exactly: what vectors of some width can only come near to.

Sums of random vectors hold links and concepts up to the noise of a random projection, about ``1 / sqrt(dim)`` per pair; among
tens of thousands of entities some wrong one is always lucky. The similarities themselves are sparse products. They cannot be
served by a nearest-neighbour index and know nothing of a new relation, but a model can learn to tell them: see ``exact`` of
:class:`hasp_models.neighbor_softmax.NeighborSoftmax`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.parallel import blocks, run
from hasp.schema import EdgeType
from hasp_models.data.concepts import concept_rows, unit_rows
from hasp_models.kernels.sparse_scores import add_products, add_rows

__all__ = ["ExactSimilarity"]

_BLOCK = 64  # queries in one go


@dataclass(frozen=True)
class ExactSimilarity:
    """A weighted mean of what links, shared neighbours and shared concepts say of two entities.

        s_ij = (direct w_ij + shared cos(u_i, u_j) + content cos(t_i, t_j)) / (shared + content)
        u_i = own e_i + sum_j w_ij ** power e_j

    with w the weights of the links and t the TF-IDF rows of concepts. An entity without a link is judged by its concepts
    alone, and is no farther from the others for that.

    Attributes:
        rows: float32 ``[N, N + concepts]``, so that products of rows are the second and third term.
        links: float32 ``[N, N]``, row = the entity that hears: the first term.
        said: how it was made, for ``repr``.
    """

    rows: sp.csr_array
    links: sp.csr_array
    said: str = ""

    @classmethod
    def of(
        cls,
        graph: Graph,
        links: Sequence[EdgeType],
        *,
        direct: float = 1.0,
        shared: float = 1.0,
        content: float = 0.3,
        power: float = 1.0,
        own: float = 0.3,
        attr: str = "weight",
    ) -> ExactSimilarity:
        """From a graph; takes 16 bytes per link and 8 per concept edge.

        Args:
            graph: links of both directions; links without ``attr`` weigh 1.
            links: the link types, all from one entity type to itself.
            direct: how much a link itself counts.
            shared: how much shared neighbours count.
            content: how much shared concepts count.
            power: above 1, strong links count more among shared neighbours.
            own: how much an entity is its own neighbour: a link is then a shared neighbour, too.
            attr: the edge attribute that holds weights.

        Raises:
            HaspError: no link type, one that is unknown or joins two node types, weights below 0, or a setting out of range.
        """
        settings = {"direct": direct, "shared": shared, "content": content, "power": power, "own": own}
        wrong = [k for k, v in settings.items() if not v >= 0]
        if wrong or not shared + content > 0:
            raise HaspError(
                f"direct, shared, content, power and own are 0 or more, shared or content above 0, got {settings}; correct them"
            )
        if not links or len({t for e in links for t in (e[0], e[2])}) != 1 or any(e not in graph.edges for e in links):
            raise HaspError(
                f"links join one entity type to itself, got {list(links)}, the graph has {list(graph.edges)}; "
                "name its link types"
            )
        count = graph.num_nodes[links[0][0]]
        source, destination, weight = _pool(graph, links, attr)
        if weight.size and weight.min() < 0:
            raise HaspError(f"weights of links are 0 or more, got {weight.min():.6g}; correct {attr!r}")
        at, shape = (destination, source), (count, count)
        heard = sp.coo_array((weight, at), shape=shape).tocsr()
        raised = sp.coo_array((weight**power, at), shape=shape).tocsr()
        linked = (np.diff(raised.indptr) > 0).astype(np.float32)
        beside = unit_rows((raised + own * sp.diags_array(linked)).tocsr())
        concepts = concept_rows(graph, links[0][0])
        scale = float(np.sqrt(shared + content))
        rows = sp.hstack([beside * (np.sqrt(shared) / scale), concepts * (np.sqrt(content) / scale)]).tocsr()
        rows.eliminate_zeros()
        said = ", ".join(f"{k}={v:g}" for k, v in settings.items())
        return cls(rows.astype(np.float32), (heard * (direct / scale**2)).tocsr().astype(np.float32), said)

    def known(self, ids: Tensor) -> Tensor:
        """Which of these entities the graph says anything about, bool ``[n]``."""
        found = (np.diff(self.rows.indptr) > 0) | (np.diff(self.links.indptr) > 0)
        return torch.from_numpy(found)[ids.cpu()].to(ids.device)

    @property
    def num_items(self) -> int:
        """Number of entities."""
        return int(self.rows.shape[0])

    def against(self, ids: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Similarities with some entities.

        Args:
            ids: their global ids, each once; ``None``: all entities.

        Returns:
            queries, by global id, -> float32 ``[queries, len(ids)]``, on their device.

        Raises:
            HaspError: an id that comes twice.
        """
        among = np.arange(self.num_items) if ids is None else ids.cpu().numpy()
        others = self.rows if ids is None else self.rows[among]
        columns = others.tocsc()
        place = np.full(self.num_items, -1, dtype=np.int64)
        place[among] = np.arange(among.size)
        if np.count_nonzero(place >= 0) != among.size:
            raise HaspError(f"each entity is asked for once, but of {among.size:,} some are twice in ids; leave them out")

        def scores(queries: Tensor) -> Tensor:
            asked = queries.cpu().numpy().astype(np.int64)
            out = np.zeros((asked.size, among.size), dtype=np.float32)

            def some(block: tuple[int, int]) -> None:
                by = (columns.indptr, columns.indices, columns.data)
                add_products(asked, self.rows.indptr, self.rows.indices, self.rows.data, *by, *block, out)
                add_rows(asked, self.links.indptr, self.links.indices, self.links.data, place, *block, out)

            run(some, blocks(asked.size, _BLOCK))
            return torch.from_numpy(out).to(queries.device)

        return scores

    def scores(self, queries: Tensor, ids: Tensor) -> Tensor:
        """S between some entities and others, by global id: float32 ``[len(queries), len(ids)]``."""
        return self.against(ids)(queries)

    def __repr__(self) -> str:
        return f"ExactSimilarity({self.said})"


def _pool(graph: Graph, links: Sequence[EdgeType], attr: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sources, destinations int64 ``[E]`` and weights float32 ``[E]`` of all links, loops left out."""
    columns: list[list[np.ndarray]] = [[], [], []]
    for edge_type in links:
        source, destination = (end.numpy().astype(np.int64) for end in graph.edges[edge_type])
        given = graph.edge_attrs.get(edge_type, {}).get(attr)
        weight = np.ones(source.size, dtype=np.float32) if given is None else given.float().reshape(-1).numpy()
        proper = source != destination
        for column, value in zip(columns, (source, destination, weight), strict=True):
            column.append(value[proper])
    a, b, w = (np.concatenate(c) for c in columns)
    return a, b, w
