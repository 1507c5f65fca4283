"""The call of METIS. As a program, what a process of its own runs: it imports nothing of hasp, so that it starts at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ARRAYS", "OUTPUT", "call_metis"]

ARRAYS = ("indptr", "indices", "node_weight", "edge_weight")
OUTPUT = "part.npy"


def call_metis(arrays: Mapping[str, Any], num_parts: int, imbalance: float, seed: int) -> tuple[int, npt.NDArray[np.int32]]:
    """The cut as METIS reports it, and the part of every node.

    Args:
        arrays: of a :class:`hasp.backends.task.Task`, by :data:`ARRAYS`; weights may be ``None`` or missing.
        num_parts: as there.
        imbalance: as there.
        seed: as there.
    """
    import pymetis

    dtype = pymetis.zero_copy_dtype()

    def cast(name: str) -> Any:
        return None if arrays.get(name) is None else np.ascontiguousarray(arrays[name], dtype=dtype)

    cut, labels = pymetis.part_graph(
        num_parts,
        pymetis.CSRAdjacency(cast("indptr"), cast("indices")),
        vweights=cast("node_weight"),
        eweights=cast("edge_weight"),
        recursive=False,  # the default takes recursive bisection up to 8 parts: 1.7 times slower for the same cut
        options=pymetis.Options(seed=int(seed % (2**31)), ufactor=max(1, round(1000 * imbalance))),
    )
    return int(cut), np.asarray(labels, dtype=np.int32)


def _main(folder: str, rest: str) -> None:
    arrays = {a: np.load(f, mmap_mode="r", allow_pickle=False) for a in ARRAYS if (f := Path(folder) / f"{a}.npy").is_file()}
    cut, labels = call_metis(arrays, **json.loads(rest))
    np.save(Path(folder) / OUTPUT, np.append(labels.astype(np.int64), cut), allow_pickle=False)


if __name__ == "__main__":
    _main(*sys.argv[1:])
