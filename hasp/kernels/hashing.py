"""The hash of :mod:`hasp.rng`, one number at a time, for other kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from hasp.kernels.jit import jit

__all__ = ["mixed"]


@jit()
def mixed(key: Any, number: Any) -> Any:
    """As :func:`hasp.rng.hash64`: uint64 of a uint64 key and a whole number."""
    z = np.uint64(number) * np.uint64(0x9E3779B97F4A7C15) + key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
