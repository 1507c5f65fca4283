"""Attributes of nodes in ``.npy`` files, which are mapped and so may be larger than memory."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hasp.errors import InvalidGraph

__all__ = ["mapped_arrays"]


def mapped_arrays(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The files ``<type>.<attribute>.npy`` of a folder as tensors per node type, mapped and not to be written to.

    Raises:
        InvalidGraph: a file has another name, is cut short, or holds no rows of numbers.
    """
    out: dict[str, dict[str, Tensor]] = {}
    for path in sorted(folder.glob("*.npy")) if folder.is_dir() else ():
        owner, _, name = path.name[: -len(".npy")].rpartition(".")
        if not owner or not name or "__" in owner:
            raise InvalidGraph(f"{path}: arrays are called <node type>.<attribute>.npy; rename it")
        try:
            if isinstance(path, Path):
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            else:  # on another file system: there is nothing to map
                with path.open("rb") as file:
                    array = np.load(file, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise InvalidGraph(
                f"{path}: not a whole .npy file of numbers ({str(error).splitlines()[0]}); save it again"
            ) from error
        if array.ndim == 0 or array.dtype.kind not in "biuf" or not array.dtype.isnative or not array.flags.c_contiguous:
            raise InvalidGraph(
                f"{path}: a row of numbers per node, in this machine's byte order and C order, got {array.dtype} "
                f"{array.shape}; convert it"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of read-only arrays; parts never write to their source
            out.setdefault(owner, {})[name] = torch.from_numpy(array)
    return out
