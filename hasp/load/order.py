"""Order: which rank sees which parts, when. Pure functions of numbers; no torch, no process group, no state.

An epoch is one sequence of parts, ``parts_order(seed, epoch)``. ``batch_size`` consecutive parts are a *batch* (merged into
one graph); ``parts_per_step`` consecutive parts are an optimizer *step*. Ranks only divide the batches of a step among
themselves, so the same parts meet in the same step at any world size, and a run may resume at another one.

Every rank gets the same number of batches in every step. Where there are fewer batches than places, the places left over
are *padding*: batches without parts, at the end of the step. They hold no entity, so they weigh nothing in a sum of losses,
and a rank that owns one still takes part in every collective (a rank that skipped it would hang the group).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hasp.errors import HaspError
from hasp.rng import permutation, subkey, word

__all__ = ["batches_per_rank", "check_order", "num_steps", "parts_order", "rank_batches", "step_batches"]

_ORDER = word("order")


def check_order(num_parts: int, batch_size: int, parts_per_step: int, rank: int, world_size: int) -> None:
    """Check the numbers that all other functions take for granted.

    Raises:
        HaspError: a number is out of its range, or ``parts_per_step`` is no multiple of ``batch_size``.
    """
    for name, value in (("num_parts", num_parts), ("batch_size", batch_size), ("world_size", world_size)):
        if value < 1:
            raise HaspError(f"{name} is at least 1, got {value}; raise it")
    if parts_per_step < 1 or parts_per_step % batch_size:
        raise HaspError(
            f"parts_per_step is a positive multiple of batch_size={batch_size}, got {parts_per_step}; "
            f"use {max(batch_size, parts_per_step // batch_size * batch_size)}"
        )
    if not 0 <= rank < world_size:
        raise HaspError(f"rank lies in 0..{world_size - 1} for world_size={world_size}, got {rank}; correct one of them")


def parts_order(seed: int, epoch: int, num_parts: int, shuffle: bool) -> npt.NDArray[np.int64]:
    """The parts in the order of one epoch, int64 ``[num_parts]``: a permutation, or ``0..num_parts-1`` unshuffled."""
    if not shuffle:
        return np.arange(num_parts, dtype=np.int64)
    return permutation(subkey(seed, epoch, _ORDER), num_parts)


def num_steps(num_parts: int, parts_per_step: int, drop_last: bool = False) -> int:
    """Optimizer steps of an epoch; ``drop_last`` leaves out a last step that is not full."""
    return num_parts // parts_per_step if drop_last else -(-num_parts // parts_per_step)


def step_batches(order: npt.NDArray[np.int64], step: int, batch_size: int, parts_per_step: int) -> list[npt.NDArray[np.int64]]:
    """The batches of one step: consecutive runs of ``batch_size`` parts of ``order``; only the last may be shorter."""
    parts = order[step * parts_per_step : (step + 1) * parts_per_step]
    return [parts[start : start + batch_size] for start in range(0, parts.size, batch_size)]


def batches_per_rank(num_parts: int, step: int, batch_size: int, parts_per_step: int, world_size: int) -> int:
    """Batches that every rank gets in one step, padding included."""
    parts = min(parts_per_step, num_parts - step * parts_per_step)
    batches = -(-parts // batch_size)
    return -(-batches // world_size)


def rank_batches(
    batches: list[npt.NDArray[np.int64]],
    cost: npt.NDArray[np.float64] | npt.NDArray[np.int64],
    rank: int,
    world_size: int,
) -> list[npt.NDArray[np.int64]]:
    """The batches of one step that one rank takes, in the order of the step, padding (empty arrays) last.

    The dearest batch goes first, each to the rank with the least work so far that still has a place (longest processing
    time first; ties by position and by rank). Places are ``ceil(batches / world_size)`` per rank, whatever the costs.

    Args:
        batches: all batches of the step, from :func:`step_batches`.
        cost: cost per part ``[num_parts]``, for example its bytes.
        rank: this rank.
        world_size: number of ranks.
    """
    places = -(-len(batches) // world_size)
    work = np.array([cost[batch].sum() for batch in batches], dtype=np.float64)
    load = np.zeros(world_size)
    count = np.zeros(world_size, dtype=np.int64)
    mine: list[int] = []
    for index in np.argsort(-work, kind="stable"):
        taker = int(np.argmin(np.where(count < places, load, np.inf)))
        load[taker] += work[index]
        count[taker] += 1
        if taker == rank:
            mine.append(int(index))
    empty = np.empty(0, dtype=np.int64)
    return [batches[index] for index in sorted(mine)] + [empty] * (places - len(mine))
