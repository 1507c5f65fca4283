"""Deep gradient compression with NumPy and loops: Algorithm 4 of Lin et al., all ranks in one process."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]


def largest(values: Array, k: int) -> list[int]:
    """Places of the k largest magnitudes, the first of equal ones, ascending."""
    return sorted(sorted(range(values.size), key=lambda i: (-abs(values[i]), i))[:k])


class Ranks:
    """What all ranks hold, and one step of all of them.

    Args:
        shapes: entries per tensor.
        size: number of ranks.
        ratio: share that is sent.
        momentum: m.
        nesterov: the look-ahead form.
        masking: zero the momentum of what was sent.
    """

    def __init__(
        self, shapes: list[int], size: int, ratio: float, momentum: float = 0.0, nesterov: bool = False, masking: bool = True
    ) -> None:
        self.size, self.ratio, self.m, self.nesterov, self.masking = size, ratio, momentum, nesterov, masking
        self.u = [[np.zeros(n) for n in shapes] for _ in range(size)]
        self.v = [[np.zeros(n) for n in shapes] for _ in range(size)]

    def step(self, gradients: list[list[Array]]) -> list[Array]:
        """``gradients[rank][tensor]`` -> what every rank gets, per tensor: the mean of what was sent."""
        out: list[Array] = [np.zeros(g.size) for g in gradients[0]]
        for rank in range(self.size):
            for t, g in enumerate(gradients[rank]):
                u, v = self.u[rank][t], self.v[rank][t]
                k = min(g.size, max(1, math.ceil(g.size * self.ratio)))
                whole = k * self.size >= g.size
                for i in range(g.size):
                    if self.nesterov:
                        u[i] = self.m * (u[i] + g[i])
                        v[i] += u[i] + g[i]
                    else:
                        u[i] = self.m * u[i] + g[i]
                        v[i] += u[i]
                for i in range(g.size) if whole else largest(v, k):
                    out[t][i] += v[i] / self.size
                    v[i] = 0.0
                    if self.masking and not whole:
                        u[i] = 0.0
        return out
