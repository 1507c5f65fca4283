"""Verify: check the checksum of every file again, and every rule that a build promises (design, section 4).

One part at a time is in memory, with one byte per edge and per entity to see that each occurs once. Nothing that the builder
computed is trusted but the labels in ``node_part``, and those are checked against the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.part import CUT, SAMPLED, SHARED, Edges, Part
from hasp.recount import Recount, compare
from hasp.schema import EdgeType, edge_name
from hasp.scratch import MEMORY, Scratch, scratch_folder
from hasp.store.framing import Spec
from hasp.store.layout import IDS, NODE_PART, check_block, file_name

if TYPE_CHECKING:
    from hasp.store.memory import MemoryStore
    from hasp.store.read import FolderStore

__all__ = ["verify"]

Progress = Callable[[str, int, int], None]
Array = npt.NDArray[Any]


def verify(store: FolderStore | MemoryStore, source: Graph | None = None, progress: Progress | None = None) -> list[str]:
    """Look for anything in a build that is not as promised.

    Args:
        store: the parts, open. Those of a folder are read again with every checksum.
        source: the graph they were made of; then every id, edge and attribute is compared with it too.
        progress: told (stage, done, total).

    Returns:
        One line per problem, which names the file, the type, the rule and the value; empty if there is none.
    """
    root = getattr(store, "root", None)
    if root is not None:
        try:
            store = type(store).open(root, verify="always")  # type: ignore[union-attr]
        except HaspError as error:
            return [str(error)]
    check = _Check(store, source)
    # The cut comes before the parts: the degrees of a part's entities need both.
    steps: list[Callable[[], None]] = [check.labels, check.cut, check.shared, check.sampled, check.ids]
    steps += [partial(check.part, p) for p in range(check.num_parts)]
    steps += [check.totals, check.report]
    with Scratch(scratch_folder()) if source is not None else MEMORY as pages:  # a source of maps does not pile up
        pages.watch(source.tensors() if source is not None else ())
        for done, step in enumerate(steps):
            if progress is not None:
                progress("verify", done, len(steps))
            step()
    if progress is not None:
        progress("verify", len(steps), len(steps))
    return check.problems


class _Check:
    """The state of one verification."""

    def __init__(self, store: FolderStore | MemoryStore, source: Graph | None) -> None:
        self.store, self.source = store, source
        self.manifest = store.manifest
        self.roles = self.manifest.roles
        self.num_parts = int(self.manifest.config["num_parts"])
        self.problems: list[str] = []
        self.node_part: dict[str, Array] = {}
        self.owners = {t: np.zeros(self.manifest.num_nodes[t], dtype=np.uint8) for t in self.roles.entity}
        self.seen = {e: np.zeros(n, dtype=np.bool_) for e, n in self.manifest.num_edges.items()}
        self.visits = dict.fromkeys(self.manifest.num_edges, 0)
        self.recount = Recount(self.manifest)
        self.unread = 0

    def say(self, where: str, problem: str) -> None:
        self.problems.append(f"{where}: {problem}")

    def load(self, part_id: int, read: Callable[[], Part]) -> Part | None:
        """Read a block and check names, dtypes and shapes; ``None`` if it cannot be looked at further."""
        try:
            part = read()
            specs = {name: Spec.of(tensor) for name, tensor in part.to_tensors().items()}
            m = self.manifest
            check_block(part_id, specs, m.roles, m.num_nodes, m.node_attrs, m.edge_attrs)
        except HaspError as error:
            self.say(file_name(part_id), str(error))
            self.unread += 1
            return None
        self.recount.bytes(part)
        return part

    # ---- blocks ----------------------------------------------------------------------------------------------------
    def labels(self) -> None:
        """node_part: one label in range per entity, and the source's own fingerprint."""
        try:
            stored = self.store.node_part()
        except HaspError as error:
            self.say(NODE_PART, str(error))
            return
        for node_type in self.roles.entity:
            count = self.manifest.num_nodes[node_type]
            labels = stored[node_type].numpy() if node_type in stored else np.empty(0, np.int32)
            if labels.shape != (count,) or labels.dtype != np.int32:
                self.say(NODE_PART, f"{node_type}: one int32 label per entity ({count:,}), got {labels.dtype} {labels.shape}")
                continue
            if self._outside(NODE_PART, f"labels of {node_type}", labels, self.num_parts):
                self.node_part[node_type] = labels
        if self.source is not None:
            self._fingerprint(self.source)
        if len(self.node_part) == len(self.roles.entity):
            self.recount.places(self.node_part)

    def _fingerprint(self, source: Graph) -> None:
        given = self.node_part if self.manifest.config.get("backend") == "given" else None
        found = source.fingerprint(given)
        if found != self.manifest.fingerprint:
            self.say(
                "manifest.json", f"the fingerprint of the source is {found[:16]}..., stored {self.manifest.fingerprint[:16]}..."
            )
        of_source = {edge_name(e): source.num_edges(e) for e in source.edges}
        for name, stored, mine in (
            ("num_nodes", dict(self.manifest.num_nodes), dict(source.num_nodes)),
            ("num_edges", {edge_name(e): n for e, n in self.manifest.num_edges.items()}, of_source),
        ):
            names = [k for k in {**stored, **mine} if stored.get(k) != mine.get(k)]
            if names:
                few = ", ".join(f"{k} {mine.get(k, 'absent')} (stored {stored.get(k, 'absent')})" for k in names[:5])
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                self.say(
                    "manifest.json",
                    f"{name} of the source differ: {few}{more}; this is another graph, "
                    "or give the --exclude, --reverse and --kind of the build",
                )
                self.source = None

    def part(self, part_id: int) -> None:
        """One part: its entities are its own and ascending, its edges sorted, in range and nowhere else."""
        part = self.load(part_id, lambda: self.store.part(part_id))
        if part is None:
            return
        where = file_name(part_id)
        for node_type, nodes in part.nodes.items():
            ids = nodes.n_id.numpy() if nodes.n_id is not None else np.empty(0, np.int32)
            if not self._outside(where, f"n_id of {node_type}", ids, self.manifest.num_nodes[node_type]):
                self.unread += 1
                return
            wrong = np.flatnonzero(ids[1:] <= ids[:-1])
            if wrong.size:
                at = int(wrong[0])
                self.say(where, f"n_id of {node_type} ascends, but row {at + 1} is {ids[at + 1]} after {ids[at]}")
            np.add.at(self.owners[node_type], ids, 1)
            if node_type in self.node_part:
                wrong = np.flatnonzero(self.node_part[node_type][ids] != part_id)
                if wrong.size:
                    text = f"entity {ids[wrong[0]]} of {node_type} is in part {self.node_part[node_type][ids[wrong[0]]]}"
                    self.say(where, f"{text} by node_part, but listed here ({wrong.size:,} such)")
            if self.source is not None:
                attrs = self.source.node_attrs.get(node_type, {})
                self._attrs(where, node_type, nodes.attrs, attrs, ids)
        sound = [self._edges(where, edge_type, edges, part) for edge_type, edges in part.edges.items()]
        if self.recount.placed:
            sound += [nodes.num_nodes == self.recount.sizes(t)[part_id] for t, nodes in part.nodes.items()]
        if all(sound):
            self.recount.part(part)
        else:
            self.unread += 1

    def shared(self) -> None:
        """The shared block: all semantic nodes, all edges among them."""
        self._whole(SHARED, lambda: self.store.shared)

    def sampled(self) -> None:
        """The sampled block: all sampled nodes, all their edges without an entity end."""
        if self.roles.sampled:
            self._whole(SAMPLED, lambda: self.store.sampled)

    def _whole(self, part_id: int, read: Callable[[], Part]) -> None:
        part = self.load(part_id, read)
        if part is None:
            return
        for node_type, nodes in part.nodes.items():
            if nodes.num_nodes != self.manifest.num_nodes[node_type]:
                self.say(file_name(part_id), f"all {self.manifest.num_nodes[node_type]} {node_type}, got {nodes.num_nodes}")
            elif self.source is not None:
                self._attrs(file_name(part_id), node_type, nodes.attrs, self.source.node_attrs.get(node_type, {}), None)
        for edge_type, edges in part.edges.items():
            self._edges(file_name(part_id), edge_type, edges, part)

    def cut(self) -> None:
        """The cut: grouped by pair of different parts, each group sorted, every end a row of its own part."""
        part = self.load(CUT, lambda: self.store.cut)
        if part is None:
            return
        sound = [self._cut_edges(edge_type, edges) for edge_type, edges in part.edges.items()]  # all of them, then judge
        if all(sound):
            self.recount.cut(part)
        else:
            self.unread += 1

    def _cut_edges(self, edge_type: EdgeType, edges: Edges) -> bool:
        """One edge type of the cut; whether its rows may be looked up."""
        where, name = file_name(CUT), edge_name(edge_type)
        if edges.pairs is None or edges.ptr is None:
            self.say(where, f"{name}: the cut is grouped by pairs of parts, but pairs or ptr is missing")
            return False
        pairs, ptr = edges.pairs.numpy().astype(np.int64), edges.ptr.numpy()
        if ptr[0] != 0 or ptr[-1] != edges.num_edges or (np.diff(ptr) <= 0).any():
            self.say(where, f"{name}: ptr ascends from 0 to {edges.num_edges:,}, got {ptr[:3].tolist()}...{ptr[-1]}")
            return False
        if not self._outside(where, f"pairs of {name}", pairs.reshape(-1), self.num_parts):
            return False
        key = pairs[:, 0] * self.num_parts + pairs[:, 1]
        if (np.diff(key) <= 0).any() or (pairs[:, 0] == pairs[:, 1]).any():
            self.say(
                where, f"{name}: pairs are of two parts, ascending and each once, and these are not: {pairs[:3].tolist()}..."
            )
            return False
        group = np.repeat(np.arange(len(pairs)), np.diff(ptr))
        index, e_id = edges.edge_index.numpy(), edges.e_id.numpy()
        self._sorted(where, name, index[1], e_id, group)
        if not self._once(where, edge_type, e_id) or not self.recount.placed:
            return False
        for side, end in enumerate((edge_type[0], edge_type[2])):
            rows = self.recount.sizes(end)[pairs[group, side]]
            wrong = np.flatnonzero((index[side] < 0) | (index[side] >= rows))
            if wrong.size:
                at = wrong[0]
                self.say(where, f"{name}: column {at} has row {index[side][at]} of a part with {rows[at]} {end}")
                return False
            if self.source is not None:
                ids = self.recount.global_ids(end, pairs[group, side], index[side])
                self._against(where, edge_type, side, ids, e_id)
        if self.source is not None:
            self._attrs(where, name, edges.attrs, self.source.edge_attrs.get(edge_type, {}), e_id)
        return True

    def ids(self) -> None:
        """The user's own ids and names are the source's."""
        source = self.source
        for node_type in self.manifest.num_nodes if source is not None else ():
            for what, read, own in (("ids", self.store.ids, source.ids), ("names", self.store.names, source.names)):  # type: ignore[union-attr]
                try:
                    stored = read(node_type)
                except HaspError as error:
                    self.say(IDS, str(error))
                    continue
                expected = own.get(node_type)
                equal = (stored is None) == (expected is None)
                if stored is not None and expected is not None:
                    equal = np.array_equal(np.asarray(stored).astype(str), np.asarray(expected).astype(str))
                if not equal:
                    self.say(IDS, f"the {what} of {node_type} are those of the source, and these are not")

    # ---- rules -----------------------------------------------------------------------------------------------------
    def _edges(self, where: str, edge_type: EdgeType, edges: Edges, part: Part) -> bool:
        """The edges of one type in one block; whether their ends are in range."""
        name = edge_name(edge_type)
        index, e_id = edges.edge_index.numpy(), edges.e_id.numpy()
        for side, end in enumerate((edge_type[0], edge_type[2])):
            rows = part.nodes[end].num_nodes if end in part.nodes else self.manifest.num_nodes[end]
            if not self._outside(where, f"edge_index[{side}] of {name}", index[side], rows):
                return False
        self._sorted(where, name, index[1], e_id)
        if not self._once(where, edge_type, e_id) or self.source is None:
            return True
        for side, end in enumerate((edge_type[0], edge_type[2])):
            n_id = part.nodes[end].n_id if end in part.nodes else None
            self._against(where, edge_type, side, index[side] if n_id is None else n_id.numpy()[index[side]], e_id)
        self._attrs(where, name, edges.attrs, self.source.edge_attrs.get(edge_type, {}), e_id)
        return True

    def _outside(self, where: str, what: str, values: Array, count: int) -> bool:
        """Whether all values lie in ``0..count-1``; says so if not."""
        wrong = np.flatnonzero((values < 0) | (values >= count))
        if wrong.size:
            self.say(where, f"{what} lie in 0..{count - 1}, but entry {wrong[0]} is {values[wrong[0]]} ({wrong.size:,} such)")
        return not wrong.size

    def _sorted(self, where: str, name: str, dst: Array, e_id: Array, group: Array | None = None) -> None:
        """Ascending by (group, destination, e_id)."""
        back = (dst[1:] < dst[:-1]) | ((dst[1:] == dst[:-1]) & (e_id[1:] <= e_id[:-1]))
        if group is not None:
            back &= group[1:] == group[:-1]
        wrong = np.flatnonzero(back)
        if wrong.size:
            self.say(where, f"{name}: edges are sorted by destination, then e_id, but column {wrong[0] + 1} is not")

    def _once(self, where: str, edge_type: EdgeType, e_id: Array) -> bool:
        """Note the edges as seen; whether they are in range."""
        if not self._outside(where, f"e_id of {edge_name(edge_type)}", e_id, self.manifest.num_edges[edge_type]):
            return False
        again = np.flatnonzero(self.seen[edge_type][e_id])
        if again.size:
            text = f"edge {e_id[again[0]]} is in another file too ({again.size:,} such)"
            self.say(where, f"{edge_name(edge_type)}: every edge is in one place, but {text}")
        self.seen[edge_type][e_id] = True
        self.visits[edge_type] += e_id.size
        return True

    def _against(self, where: str, edge_type: EdgeType, side: int, ids: Array, e_id: Array) -> None:
        assert self.source is not None
        expected = self.source.edges[edge_type][side].numpy()[e_id]
        wrong = np.flatnonzero(ids != expected)
        if wrong.size:
            at = wrong[0]
            text = f"the {('source', 'destination')[side]} of edge {e_id[at]} is {expected[at]}, got {ids[at]}"
            self.say(where, f"{edge_name(edge_type)}: {text} ({wrong.size:,} such)")

    def _attrs(self, where: str, owner: str, mine: Mapping[str, Tensor], own: Mapping[str, Tensor], ids: Array | None) -> None:
        if set(mine) != set(own):
            self.say(where, f"{owner}: the attributes are {sorted(own)}, got {sorted(mine)}")
        for key in sorted(set(mine) & set(own)):
            wrong = compare(mine[key], own[key], ids)
            if wrong is not None:
                self.say(where, f"{key} of {owner}: {wrong}")

    # ---- sums ------------------------------------------------------------------------------------------------------
    def totals(self) -> None:
        """Every entity has one owner; every edge is in one place."""
        for node_type, owners in self.owners.items():
            wrong = np.flatnonzero(owners != 1)
            if wrong.size:
                text = f"entity {wrong[0]} has {owners[wrong[0]]} ({wrong.size:,} such)"
                self.say("parts", f"{node_type}: every entity is owned by one part, but {text}")
        for edge_type, seen in self.seen.items():
            missing = np.flatnonzero(~seen)
            if missing.size:
                text = f"edge {missing[0]} is in none ({missing.size:,} such)"
                self.say("parts", f"{edge_name(edge_type)}: every edge is in a part or the cut, but {text}")
            elif self.visits[edge_type] != seen.size:
                text = f"{self.visits[edge_type]:,} are stored for {seen.size:,}"
                self.say("parts", f"{edge_name(edge_type)}: every edge is in one place, but {text}")

    def report(self) -> None:
        """The stored report is what a recount gives; not asked when some block could not be read."""
        if self.unread or not self.recount.placed:
            return
        for problem in self.recount.differences(self.source):
            self.say("manifest.json", f"report: {problem}")
