"""Fill: entities without an EEL go to the emptiest part first (paper, section 5.2)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hasp.kernels.fill import emptiest_first
from hasp.rng import permutation, subkey

__all__ = ["fill"]


def fill(
    node_part: npt.NDArray[np.int32], num_parts: int, weight: npt.NDArray[np.int64] | None, seed: int
) -> npt.NDArray[np.int32]:
    """Complete a partition of the linked entities.

    Args:
        node_part: int32 ``[n]``: the part of every linked entity, ``-1`` for the others.
        num_parts: parts.
        weight: what is evened out, int64 ``[n]`` (degree, bytes); ``None``: every entity counts 1, as in the paper.
        seed: decides which of two equally heavy entities goes first.

    Returns:
        int32 ``[n]`` without ``-1``. With ``weight=None`` the sizes of any two parts that received an entity differ by at
        most one, so all do whenever no part of linked entities was above the mean already.
    """
    part = node_part.copy()
    linked = node_part >= 0
    free = np.flatnonzero(~linked)
    order = free[permutation(subkey(seed, 1), free.size)]
    if weight is None:
        load = np.bincount(node_part[linked], minlength=num_parts).astype(np.int64)
        emptiest_first(order, np.ones(order.size, dtype=np.int64), load, part)
        return part
    load = np.zeros(num_parts, dtype=np.int64)
    np.add.at(load, node_part[linked], weight[linked])
    # Heaviest first, so that the light ones at the end level out what the heavy ones left uneven.
    order = order[np.argsort(-weight[order], kind="stable")]
    emptiest_first(order, weight[order], load, part)
    return part
