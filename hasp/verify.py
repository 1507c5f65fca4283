"""Verify: check the checksum of every file again, and every rule that a build promises (design, section 4).

Parts are looked at on all cores (:mod:`hasp.look`) and taken in their order, as many of them in memory as threads and one more,
with one bit per edge and one byte per entity to see that each occurs once. Nothing that the builder computed is trusted but the
labels in ``node_part``, and those are checked against the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hasp.cluster.executor import Here
from hasp.errors import HaspError
from hasp.graph import Graph
from hasp.look import Known, Look, look, outside
from hasp.marks import Marks
from hasp.part import CUT, SAMPLED, SHARED
from hasp.recount import Recount
from hasp.schema import EdgeType, edge_name
from hasp.scratch import MEMORY, Scratch, scratch_folder
from hasp.store.layout import IDS, NODE_PART

if TYPE_CHECKING:
    from hasp.store.memory import MemoryStore
    from hasp.store.read import FolderStore

__all__ = ["verify"]

Progress = Callable[[str, int, int], None]
Array = npt.NDArray[Any]

_MANY = 1 << 25  # edges from which a kernel marks them


def verify(
    store: FolderStore | MemoryStore, source: Graph | None = None, progress: Progress | None = None, threads: int = 0
) -> list[str]:
    """Look for anything in a build that is not as promised.

    Args:
        store: the parts, open. Those of a folder are read again with every checksum.
        source: the graph they were made of; then every id, edge and attribute is compared with it too.
        progress: told (stage, done, total).
        threads: that look at parts, each at one of its own; 0: one per core. It changes nothing in what is said.

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
    with (
        Scratch(scratch_folder()) if source is not None else MEMORY as pages,  # a source of maps does not pile up
        Here(threads, ahead=0) as here,
    ):
        pages.watch(source.tensors() if source is not None else ())
        steps = check.steps(here)
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
        self.store = store
        self.manifest = store.manifest
        self.roles = self.manifest.roles
        self.num_parts = int(self.manifest.config["num_parts"])
        self.recount = Recount(self.manifest)
        self.known = Known(store, source, self.recount)
        self.problems: list[str] = []
        self.owners = {t: np.zeros(self.manifest.num_nodes[t], dtype=np.uint8) for t in self.roles.entity}
        many = sum(self.manifest.num_edges.values()) >= _MANY
        self.seen = {e: Marks(n, kernel=many) for e, n in self.manifest.num_edges.items()}
        self.visits = dict.fromkeys(self.manifest.num_edges, 0)
        self.unread = False

    def steps(self, here: Here) -> list[Callable[[], None]]:
        """All there is to do, in order."""
        looks: Iterator[Look] = here.map((look, self.known, p) for p in range(self.num_parts))
        # The cut comes before the parts: the degrees of a part's entities need both.
        beside = [CUT, SHARED, *([SAMPLED] if self.roles.sampled else [])]
        return [
            self.labels,
            *(partial(self.beside, block) for block in beside),
            self.ids,
            *[lambda: self.take(next(looks))] * self.num_parts,
            self.totals,
            self.report,
        ]

    def say(self, where: str, problem: str) -> None:
        self.problems.append(f"{where}: {problem}")

    def beside(self, block: int) -> None:
        """Look at a block that is not a part."""
        self.take(look(self.known, block))

    def take(self, found: Look) -> None:
        """Say what a look found, and mark the edges and entities that it met."""
        for said in found.said:
            if isinstance(said, str):
                self.problems.append(said)
            else:
                self._mark(found.where, *said)
        for node_type, ids, ascending in found.owned:
            if ascending:  # each once
                self.owners[node_type][ids] += np.uint8(1)
            else:
                np.add.at(self.owners[node_type], ids, 1)
        self.unread |= found.unread

    def _mark(self, where: str, edge_type: EdgeType, e_id: Array) -> None:
        """Mark edges as seen; those of another file are told."""
        again = self.seen[edge_type].add(e_id)
        if again.size:
            text = f"edge {e_id[again[0]]} is in another file too ({again.size:,} such)"
            self.say(where, f"{edge_name(edge_type)}: every edge is in one place, but {text}")
        self.visits[edge_type] += e_id.size

    # ---- what is not of one block ----------------------------------------------------------------------------------
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
            wrong = outside(f"labels of {node_type}", labels, self.num_parts)
            if wrong is not None:
                self.say(NODE_PART, wrong)
            else:
                self.known.node_part[node_type] = labels
        if self.known.source is not None:
            self._fingerprint(self.known.source)
        if len(self.known.node_part) == len(self.roles.entity):
            self.recount.places(self.known.node_part)

    def _fingerprint(self, source: Graph) -> None:
        given = self.known.node_part if self.manifest.config.get("backend") == "given" else None
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
                self.known.source = None

    def ids(self) -> None:
        """The user's own ids and names are the source's."""
        source = self.known.source
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

    def totals(self) -> None:
        """Every entity has one owner; every edge is in one place."""
        for node_type, owners in self.owners.items():
            wrong = np.flatnonzero(owners != 1)
            if wrong.size:
                text = f"entity {wrong[0]} has {owners[wrong[0]]} ({wrong.size:,} such)"
                self.say("parts", f"{node_type}: every entity is owned by one part, but {text}")
        for edge_type, seen in self.seen.items():
            missing, first = seen.missing()
            if missing:
                text = f"edge {first} is in none ({missing:,} such)"
                self.say("parts", f"{edge_name(edge_type)}: every edge is in a part or the cut, but {text}")
            elif self.visits[edge_type] != seen.count:
                text = f"{self.visits[edge_type]:,} are stored for {seen.count:,}"
                self.say("parts", f"{edge_name(edge_type)}: every edge is in one place, but {text}")

    def report(self) -> None:
        """The stored report is what a recount gives; not asked when some block could not be read."""
        if self.unread or not self.recount.placed:
            return
        for problem in self.recount.differences(self.known.source):
            self.say("manifest.json", f"report: {problem}")
