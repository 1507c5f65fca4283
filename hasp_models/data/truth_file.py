"""Pairs of similar entities, read from a table of a user's own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hasp.errors import HaspError
from hasp.graph import HaspWarning
from hasp_models.data.benchmark import Truth
from hasp_models.data.csr import CSR

__all__ = ["read_truth"]


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
    names = [np.asarray(columns[c]).astype(str) for c in ("a", "b")]
    text = np.asarray(ids).astype(str)
    order = np.argsort(text, kind="stable")
    found = []
    for wanted in names:
        at = np.minimum(np.searchsorted(text[order], wanted), max(text.size - 1, 0))
        found.append(np.where(text[order[at]] == wanted, order[at], -1))
    unknown = np.unique(np.concatenate([n[f < 0] for n, f in zip(names, found, strict=True)]))
    some = ", ".join(repr(str(u)) for u in unknown[:5])
    if unknown.size and not skip_unknown:
        raise HaspError(
            f"{path}: every id is an entity, but {unknown.size:,} are not ({some}); correct them, or evaluate --skip-unknown"
        )
    keep = (found[0] >= 0) & (found[1] >= 0)
    rows = CSR.from_pairs(found[0][keep], found[1][keep], text.size, symmetric=True)
    if not rows.indices.size:
        raise HaspError(f"{path}: a truth has a pair of two entities, found none among {keep.size:,} rows; correct the file")
    if unknown.size:
        left = int((~keep).sum())
        warnings.warn(
            f"{path}: {left:,} of {keep.size:,} pairs are left out, for {unknown.size:,} ids are no entity ({some})",
            HaspWarning,
            stacklevel=2,
        )
    return Truth.from_csr(path.name.split(".")[0], rows)
