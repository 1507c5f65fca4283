"""Pairs of entities as a user has them: a table with two columns of ids."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hasp.errors import HaspError
from hasp.graph import HaspWarning
from hasp_models.data.benchmark import Truth
from hasp_models.data.csr import CSR

__all__ = ["numbered", "read_truth"]

Ids = npt.NDArray[np.int64]


def read_truth(path: Path, ids: Any, *, skip_unknown: bool = False) -> Truth:
    """Pairs of similar entities, from a table with the columns ``a`` and ``b`` of the user's ids.

    Args:
        path: CSV (also ``.gz``) or Parquet.
        ids: the ids of all entities ``[N]``.
        skip_unknown: leave pairs with an id that is none of these out, instead of refusing the file.

    Raises:
        HaspError: unknown ids (counted, and up to five named), or no pair at all.

    Warns:
        HaspWarning: pairs were left out.
    """
    from hasp.sources.columns import read_table

    columns = read_table(path, ids=("a", "b")).columns
    if "a" not in columns or "b" not in columns:
        raise HaspError(f"{path}: a truth has the columns 'a' and 'b', found {list(columns)}; rename or add them")
    a, b, known = numbered(path, columns["a"], columns["b"], ids, skip_unknown=skip_unknown)
    rows = CSR.from_pairs(a, b, len(ids), symmetric=True)
    if not rows.indices.size:
        raise HaspError(f"{path}: a truth has a pair of two entities, found none among {known.size:,} rows; correct the file")
    return Truth.from_csr(path.name.split(".")[0], rows)


def numbered(path: Path, a: Any, b: Any, ids: Any, *, skip_unknown: bool) -> tuple[Ids, Ids, npt.NDArray[np.bool_]]:
    """Rows of entities for the ids of pairs.

    Args:
        path: of the table, for the error.
        a: ids ``[P]``.
        b: ids ``[P]``.
        ids: the ids of all entities ``[N]``.
        skip_unknown: leave out pairs with an id that is none of these.

    Returns:
        int64 ``[known pairs]`` twice, and bool ``[P]``: which pairs they are.

    Raises:
        HaspError: unknown ids (counted, and up to five named).

    Warns:
        HaspWarning: pairs were left out.
    """
    text, wanted = np.asarray(ids).astype(str), np.stack([np.asarray(end).astype(str) for end in (a, b)])
    order = np.argsort(text, kind="stable")
    at = order[np.minimum(np.searchsorted(text[order], wanted), max(text.size - 1, 0))]
    found = text[at] == wanted
    unknown = np.unique(wanted[~found])
    some = ", ".join(repr(str(u)) for u in unknown[:5])
    if unknown.size and not skip_unknown:
        raise HaspError(
            f"{path}: every id is an entity, but {unknown.size:,} are not ({some}); correct them, or skip them (--skip-unknown)"
        )
    known = found.all(axis=0)
    if unknown.size:
        left = int((~known).sum())
        warnings.warn(
            f"{path}: {left:,} of {known.size:,} pairs are left out, for {unknown.size:,} ids are no entity ({some})",
            HaspWarning,
            stacklevel=3,
        )
    return at[0, known], at[1, known], known
