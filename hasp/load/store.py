"""What the loader asks of a store, and nothing more: any object with these members can be loaded from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from hasp.errors import HaspError
from hasp.part import Part

if TYPE_CHECKING:
    from hasp.store.manifest import Manifest

__all__ = ["Store", "open_store", "part_costs"]


class Store(Protocol):
    """Parts and the three blocks beside them, on disk (:mod:`hasp.store.read`) or in memory (:mod:`hasp.store.memory`)."""

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


def open_store(parts: Any) -> Store:
    """The store of a ``HASPData``, of a folder, or the store itself. Raises :class:`HaspError` for anything else."""
    if isinstance(parts, (str, os.PathLike)):
        from hasp.store.read import FolderStore

        return FolderStore.open(os.fspath(parts))
    store = getattr(parts, "store", parts)
    if not hasattr(store, "manifest") or not hasattr(store, "part"):
        raise HaspError(
            f"HASPLoader reads HASPData, a store or a folder of parts, got {type(parts).__name__}; build parts first"
        )
    found: Store = store
    return found


def part_costs(store: Store) -> list[float] | None:
    """Bytes per part, as the report has them; any fixed numbers are right, better ones only balance better."""
    found = store.manifest.report.get("part_bytes")
    if not isinstance(found, list) or len(found) != int(store.manifest.config["num_parts"]):
        return None
    return [float(v) for v in found]
