"""How every kernel is compiled: without the interpreter's lock, once per machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numba

__all__ = ["jit"]

_told = False


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that compiles a function when it is first called, and keeps the result on disk.

    Numba keeps it beside the source, else in the user's cache folder, and refuses to compile where it may write to neither: in
    a container, say, whose user has no home. Then every process compiles for itself, and a warning names the remedy.

    Args:
        options: more of ``numba.njit``.
    """
    keep, alone = numba.njit(nogil=True, cache=True, **options), numba.njit(nogil=True, **options)

    def compiled(function: Callable[..., Any]) -> Any:
        global _told
        try:
            return keep(function)
        except RuntimeError as error:  # "cannot cache function ...: no locator available for file ..."
            if "cannot cache" not in str(error):
                raise
            if not _told:
                _told = True
                warnings.warn(
                    "compiled kernels are kept beside the source or in the user's cache folder, but neither can be written to; "
                    "every process compiles anew, for seconds: set NUMBA_CACHE_DIR to a folder that can",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return alone(function)

    return compiled
