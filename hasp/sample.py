"""User-defined node sampling (paper, section 5.2): which nodes of a sampled type a part shows in an epoch.

Drawn when a part is loaded, not when it is built: nothing is lost on disk, and every epoch may see other nodes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hasp.rng import hash64, subkey, word

__all__ = ["sample"]


def sample(seed: int, part: int, epoch: int, node_type: str, count: int, quota: int) -> npt.NDArray[np.int64]:
    """Choose ``min(quota, count)`` of ``range(count)``, uniformly and without replacement.

    The nodes with the smallest hashes are taken (ties by id), so the choice is a function of the arguments alone.

    Returns:
        Ascending ids, int64 ``[min(quota, count)]``.
    """
    ids = np.arange(count, dtype=np.int64)
    if quota >= count:
        return ids
    if quota <= 0:
        return ids[:0]
    rank = hash64(subkey(seed, part, epoch, word(node_type)), ids)
    limit = np.partition(rank, quota - 1)[quota - 1]
    chosen = ids[rank < limit]
    ties = ids[rank == limit][: quota - chosen.size]
    return np.sort(np.concatenate([chosen, ties]))
