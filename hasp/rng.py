"""Stateless randomness: everything random is a function of (seed, epoch, part, ...) and of nothing else.

Only the parts of NumPy whose bits are promised never to change are used (``SeedSequence``), so that a seed gives the same
parts and the same order on every machine, at any number of threads, workers and ranks.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["hash64", "hash_one", "permutation", "subkey", "word"]

_WORDS = 6
_ONES = (1 << 64) - 1


@lru_cache(maxsize=256)
def word(text: str) -> int:
    """A stable 32-bit number for a name, to be used in :func:`subkey` (FNV-1a over UTF-8)."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


@lru_cache(maxsize=256)
def subkey(seed: int, *words: int) -> np.uint64:
    """Derive a 64-bit key from a seed and up to five further numbers (epoch, part, type...).

    The words are padded to a fixed length first: ``SeedSequence([1])`` and ``SeedSequence([1, 0])`` are the same.
    """
    if len(words) >= _WORDS:
        raise ValueError(f"at most {_WORDS - 1} words, got {len(words)}")
    entropy = [seed, *(w + 1 for w in words), *[0] * (_WORDS - 1 - len(words))]
    return np.uint64(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def hash64(key: np.uint64, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """Hash every id with the key (the finaliser of splitmix64). Shape of ``ids``, dtype uint64."""
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def hash_one(key: np.uint64, number: int) -> np.uint64:
    """:func:`hash64` of one number, without an array."""
    z = (number * 0x9E3779B97F4A7C15 + int(key)) & _ONES
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _ONES
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _ONES
    return np.uint64(z ^ (z >> 31))


def permutation(key: np.uint64, n: int) -> npt.NDArray[np.int64]:
    """A random permutation of ``range(n)``, int64 ``[n]``; equal keys give equal permutations."""
    return np.argsort(hash64(key, np.arange(n, dtype=np.int64)), kind="stable").astype(np.int64, copy=False)
