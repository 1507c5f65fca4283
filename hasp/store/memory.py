"""MemoryStore: parts that were never written, behind the interface of those on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
from torch import Tensor

from hasp.part import Part
from hasp.store.disk import Progress
from hasp.store.layout import check_part_id
from hasp.store.manifest import Manifest

__all__ = ["MemoryStore"]


class MemoryStore:
    """Parts that were never written: the same interface as :class:`hasp.store.read.FolderStore`.

    Args:
        manifest: with no files.
        parts: in order of their ids.
        shared: semantic nodes and the edges among them.
        sampled: nodes of the sampled types and their edges without an entity end.
        cut: the entity-entity edges between two parts.
        node_part: int32 ``[n]`` per entity type.
        ids: per node type, where there are any.
        names: per node type, where there are any.
    """

    def __init__(
        self,
        manifest: Manifest,
        parts: Sequence[Part],
        shared: Part,
        sampled: Part,
        cut: Part,
        node_part: Mapping[str, Tensor],
        ids: Mapping[str, npt.NDArray[Any]],
        names: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self.manifest = manifest
        self.shared, self.sampled, self.cut = shared, sampled, cut
        self.build_log: dict[str, Any] = {}
        self._parts, self._node_part = list(parts), dict(node_part)
        self._ids, self._names = dict(ids), dict(names)

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return len(self._parts)

    def part(self, part_id: int) -> Part:
        """One part. Raises :class:`HaspError` if there is no such part."""
        check_part_id(part_id, self.num_parts)
        return self._parts[part_id]

    def node_part(self) -> dict[str, Tensor]:
        """The part of every entity, int32 ``[n]`` per entity type."""
        return dict(self._node_part)

    def ids(self, node_type: str) -> npt.NDArray[Any] | None:
        """The user's own ids of a type ``[n]``, or ``None``."""
        return self._ids.get(node_type)

    def names(self, node_type: str) -> npt.NDArray[Any] | None:
        """Readable names of a type ``[n]``, or ``None``."""
        return self._names.get(node_type)

    def check_files(self, progress: Progress | None = None) -> list[str]:
        """There are no files, and so no problems with them."""
        return []
