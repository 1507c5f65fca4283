"""Look: all that can be said of one block of a build by itself, on any thread.

A look reads one file, the source and what was known before the first part; it writes nothing but the counts of its own block.
What concerns several blocks, whose edge is where and who owns whom, it hands on: :mod:`hasp.verify` takes looks in the order
of the blocks, so that the number of threads never shows in what is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.part import CUT, SAMPLED, SHARED, Edges, Part
from hasp.recount import Recount, compare
from hasp.rows import take_rows
from hasp.schema import EdgeType, edge_name
from hasp.store.framing import Spec
from hasp.store.layout import check_block, file_name

if TYPE_CHECKING:
    from hasp.store.memory import MemoryStore
    from hasp.store.read import FolderStore

__all__ = ["Known", "Look", "look", "outside"]

Array = npt.NDArray[Any]


@dataclass
class Known:
    """What looks read.

    Attributes:
        store: the parts.
        source: the graph they were made of, if it is at hand.
        recount: counts that looks fill in, each those of its own block.
        node_part: labels ``[n]`` per entity type, where they are as they should be.
    """

    store: FolderStore | MemoryStore
    source: Graph | None
    recount: Recount
    node_part: dict[str, Array] = field(default_factory=dict)


def look(known: Known, block: int) -> Look:
    """Look at a part, or at one of the blocks beside them."""
    out = Look(known, block)
    part = out.load()
    if part is not None:
        {CUT: out.cut, SHARED: out.whole, SAMPLED: out.whole}.get(block, out.part)(part)
    return out


def outside(what: str, values: Array, count: int) -> str | None:
    """What is wrong, in words, if not all values lie in ``0..count-1``."""
    if not values.size or (values.min() >= 0 and values.max() < count):
        return None
    wrong = np.flatnonzero((values < 0) | (values >= count))
    return f"{what} lie in 0..{count - 1}, but entry {wrong[0]} is {values[wrong[0]]} ({wrong.size:,} such)"


class Look:
    """One block, looked at.

    Args:
        known: see there.
        block: ``part_id``.

    Attributes:
        where: name of the block's file.
        said: problems, in order; between them, an edge type and its ``e_id`` where these are to be marked as seen.
        owned: entity types, their ids in this part, and whether those ascend, so that none is there twice.
        unread: it could not be looked at as a whole, so that recounts say nothing.
    """

    def __init__(self, known: Known, block: int) -> None:
        self.known, self.block = known, block
        self.manifest, self.recount, self.source = known.store.manifest, known.recount, known.source
        self.where = file_name(block)
        self.said: list[str | tuple[EdgeType, Array]] = []
        self.owned: list[tuple[str, Array, bool]] = []
        self.unread = False

    # ---- blocks ----------------------------------------------------------------------------------------------------
    def load(self) -> Part | None:
        """Read the block and check names, dtypes and shapes; ``None`` if it cannot be looked at further."""
        store, m = self.known.store, self.manifest
        try:
            beside = {SHARED: "shared", SAMPLED: "sampled", CUT: "cut"}
            part: Part = store.part(self.block) if self.block >= 0 else getattr(store, beside[self.block])
            specs = {name: Spec.of(tensor) for name, tensor in part.to_tensors().items()}
            check_block(self.block, specs, m.roles, m.num_nodes, m.node_attrs, m.edge_attrs)
        except HaspError as error:
            self.said.append(f"{self.where}: {error}")
            self.unread = True
            return None
        self.recount.bytes(part)
        return part

    def part(self, part: Part) -> None:
        """One part: its entities are its own and ascending, its edges sorted, in range and nowhere else."""
        for node_type, nodes in part.nodes.items():
            ids = nodes.n_id.numpy() if nodes.n_id is not None else np.empty(0, np.int32)
            if not self._inside(f"n_id of {node_type}", ids, self.manifest.num_nodes[node_type]):
                self.unread = True
                return
            wrong = np.flatnonzero(ids[1:] <= ids[:-1])
            if wrong.size:
                at = int(wrong[0])
                self._say(f"n_id of {node_type} ascends, but row {at + 1} is {ids[at + 1]} after {ids[at]}")
            self.owned.append((node_type, ids, not wrong.size))
            labels = self.known.node_part.get(node_type)
            if labels is not None:
                wrong = np.flatnonzero(labels[ids] != part.part_id)
                if wrong.size:
                    text = f"entity {ids[wrong[0]]} of {node_type} is in part {labels[ids[wrong[0]]]}"
                    self._say(f"{text} by node_part, but listed here ({wrong.size:,} such)")
            if self.source is not None:
                self._attrs(node_type, nodes.attrs, self.source.node_attrs.get(node_type, {}), ids)
        sound = [self._edges(edge_type, edges, part) for edge_type, edges in part.edges.items()]
        if self.recount.placed:
            sound += [nodes.num_nodes == self.recount.sizes(t)[part.part_id] for t, nodes in part.nodes.items()]
        if all(sound):
            self.recount.part(part)
        else:
            self.unread = True

    def whole(self, part: Part) -> None:
        """The shared block or the sampled one: all nodes of its types, all edges among them."""
        for node_type, nodes in part.nodes.items():
            if nodes.num_nodes != self.manifest.num_nodes[node_type]:
                self._say(f"all {self.manifest.num_nodes[node_type]} {node_type}, got {nodes.num_nodes}")
            elif self.source is not None:
                self._attrs(node_type, nodes.attrs, self.source.node_attrs.get(node_type, {}), None)
        for edge_type, edges in part.edges.items():
            self._edges(edge_type, edges, part)

    def cut(self, part: Part) -> None:
        """The cut: grouped by pair of different parts, each group sorted, every end a row of its own part."""
        sound = [self._cut_edges(edge_type, edges) for edge_type, edges in part.edges.items()]  # all of them, then judge
        if all(sound):
            self.recount.cut(part)
        else:
            self.unread = True

    def _cut_edges(self, edge_type: EdgeType, edges: Edges) -> bool:
        """One edge type of the cut; whether its rows may be looked up."""
        name, num_parts = edge_name(edge_type), self.recount.num_parts
        if edges.pairs is None or edges.ptr is None:
            self._say(f"{name}: the cut is grouped by pairs of parts, but pairs or ptr is missing")
            return False
        pairs, ptr = edges.pairs.numpy().astype(np.int64), edges.ptr.numpy()
        if ptr[0] != 0 or ptr[-1] != edges.num_edges or (np.diff(ptr) <= 0).any():
            self._say(f"{name}: ptr ascends from 0 to {edges.num_edges:,}, got {ptr[:3].tolist()}...{ptr[-1]}")
            return False
        if not self._inside(f"pairs of {name}", pairs.reshape(-1), num_parts):
            return False
        key = pairs[:, 0] * num_parts + pairs[:, 1]
        if (np.diff(key) <= 0).any() or (pairs[:, 0] == pairs[:, 1]).any():
            self._say(f"{name}: pairs are of two parts, ascending and each once, and these are not: {pairs[:3].tolist()}...")
            return False
        group = np.repeat(np.arange(len(pairs)), np.diff(ptr))
        index, e_id = edges.edge_index.numpy(), edges.e_id.numpy()
        self._sorted(name, index[1], e_id, group)
        if not self._marked(edge_type, e_id) or not self.recount.placed:
            return False
        for side, end in enumerate((edge_type[0], edge_type[2])):
            rows = self.recount.sizes(end)[pairs[group, side]]
            wrong = np.flatnonzero((index[side] < 0) | (index[side] >= rows))
            if wrong.size:
                at = wrong[0]
                self._say(f"{name}: column {at} has row {index[side][at]} of a part with {rows[at]} {end}")
                return False
            if self.source is not None:
                ids = self.recount.global_ids(end, pairs[group, side], index[side])
                self._against(self.source, edge_type, side, ids, edges.e_id)
        if self.source is not None:
            self._attrs(name, edges.attrs, self.source.edge_attrs.get(edge_type, {}), e_id)
        return True

    # ---- rules -----------------------------------------------------------------------------------------------------
    def _say(self, problem: str) -> None:
        self.said.append(f"{self.where}: {problem}")

    def _edges(self, edge_type: EdgeType, edges: Edges, part: Part) -> bool:
        """The edges of one type in a block that is not the cut; whether their ends are in range."""
        name = edge_name(edge_type)
        index, e_id = edges.edge_index.numpy(), edges.e_id.numpy()
        for side, end in enumerate((edge_type[0], edge_type[2])):
            rows = part.nodes[end].num_nodes if end in part.nodes else self.manifest.num_nodes[end]
            if not self._inside(f"edge_index[{side}] of {name}", index[side], rows):
                return False
        self._sorted(name, index[1], e_id)
        if not self._marked(edge_type, e_id) or self.source is None:
            return True
        for side, end in enumerate((edge_type[0], edge_type[2])):
            n_id = part.nodes[end].n_id if end in part.nodes else None
            ids = index[side] if n_id is None else take_rows(n_id, edges.edge_index[side]).numpy()
            self._against(self.source, edge_type, side, ids, edges.e_id)
        self._attrs(name, edges.attrs, self.source.edge_attrs.get(edge_type, {}), e_id)
        return True

    def _inside(self, what: str, values: Array, count: int) -> bool:
        """Whether all values lie in ``0..count-1``; says so if not."""
        wrong = outside(what, values, count)
        if wrong is not None:
            self._say(wrong)
        return wrong is None

    def _sorted(self, name: str, dst: Array, e_id: Array, group: Array | None = None) -> None:
        """Ascending by (group, destination, e_id)."""
        back = (dst[1:] < dst[:-1]) | ((dst[1:] == dst[:-1]) & (e_id[1:] <= e_id[:-1]))
        if group is not None:
            back &= group[1:] == group[:-1]
        if back.any():
            self._say(f"{name}: edges are sorted by destination, then e_id, but column {back.argmax() + 1} is not")

    def _marked(self, edge_type: EdgeType, e_id: Array) -> bool:
        """Have the edges marked as seen; whether they are in range."""
        if not self._inside(f"e_id of {edge_name(edge_type)}", e_id, self.manifest.num_edges[edge_type]):
            return False
        self.said.append((edge_type, e_id))
        return True

    def _against(self, source: Graph, edge_type: EdgeType, side: int, ids: Array, e_id: Tensor) -> None:
        expected = take_rows(source.edges[edge_type][side], e_id).numpy()
        wrong = np.flatnonzero(ids != expected)
        if wrong.size:
            at = wrong[0]
            text = f"the {('source', 'destination')[side]} of edge {int(e_id[at])} is {expected[at]}, got {ids[at]}"
            self._say(f"{edge_name(edge_type)}: {text} ({wrong.size:,} such)")

    def _attrs(self, owner: str, mine: Mapping[str, Tensor], own: Mapping[str, Tensor], ids: Array | None) -> None:
        if set(mine) != set(own):
            self._say(f"{owner}: the attributes are {sorted(own)}, got {sorted(mine)}")
        for key in sorted(set(mine) & set(own)):
            wrong = compare(mine[key], own[key], ids)
            if wrong is not None:
                self._say(f"{key} of {owner}: {wrong}")
