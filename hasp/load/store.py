"""What the loader asks of a store, and nothing more: any object with these members can be loaded from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from hasp.part import Part

if TYPE_CHECKING:
    from hasp.store.manifest import Manifest

__all__ = ["Store"]


class Store(Protocol):
    """Parts and the three blocks beside them, on disk or in memory (:mod:`hasp.store.read`)."""

    @property
    def manifest(self) -> Manifest:
        """Roles, counts, settings, fingerprint."""

    @property
    def shared(self) -> Part:
        """All semantic nodes and the edges among them."""

    @property
    def sampled(self) -> Part:
        """All nodes of the sampled types, and their edges without an entity end."""

    @property
    def cut(self) -> Part:
        """The entity-entity edges between two parts, grouped by pair of parts."""

    def part(self, part_id: int) -> Part:
        """What one part owns."""

    def node_part(self) -> Mapping[str, Tensor]:
        """Per entity type, the part of every entity, int32 ``[n]``."""
