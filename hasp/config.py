"""BuildConfig: the settings of a build, frozen, each with its help text and its validator."""

from __future__ import annotations

import math
import numbers
import operator
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hasp.errors import HaspError

__all__ = ["BACKENDS", "BuildConfig", "folder", "number", "parse_bytes", "switch", "whole"]

BACKENDS = ("auto", "metis", "multilevel", "stream", "metis_child", "metis32", "kaminpar", "random", "hash", "given")
"""Partitioners by name; ``auto`` is one of the next two, ``given`` is what a build with ``node_part`` says of itself."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_bytes(value: int | float | str) -> int:
    """``"2GB"`` -> 2000000000, ``"512MiB"`` -> 536870912; numbers pass through. Raises :class:`HaspError` otherwise."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = int(value) if math.isfinite(value) else 0
    else:
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?\s*", str(value).upper())
        if match is None or match[2] not in _UNITS:
            raise HaspError(f"a size is a number with an optional unit (2GB, 512MiB), got {value!r}; write it so")
        number = int(float(match[1]) * _UNITS[match[2]])
    if number <= 0:
        raise HaspError(f"a size is positive, got {value!r}; give at least one byte")
    return number


def whole(name: str, value: Any) -> int:
    """A whole number of any type that is one (``int``, NumPy's), as ``int``. Raises :class:`HaspError` for any other."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise HaspError(f"{name}={value!r}: a whole number; give one without a fraction")


def number(name: str, value: Any) -> float:
    """A number of any type that is one, as ``float``. Raises :class:`HaspError` for any other."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    raise HaspError(f"{name}={value!r}: a number; give one")


def switch(name: str, value: Any) -> bool:
    """``True`` or ``False``, and no text that would count as true. Raises :class:`HaspError` for any other."""
    if isinstance(value, bool):
        return value
    raise HaspError(f"{name}={value!r}: True or False; give one of them")


def folder(name: str, value: Any) -> Path:
    """A path. Raises :class:`HaspError` for what is none, such as a URL."""
    if isinstance(value, (str, os.PathLike)):
        if re.match(r"[a-z][a-z0-9+.-]+:/", str(value)):  # a Path of s3://a is s3:/a
            raise HaspError(
                f"{name}={str(value)!r}: a folder whose files can be mapped and renamed, not a URL; copy from or to it"
            )
        return Path(value)
    raise HaspError(f"{name}={value!r}: a path, as text or pathlib.Path; give one")


def _help(text: str, default: Any) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class BuildConfig:
    """Settings of one build. Everything in it but ``threads`` decides the bytes of the parts.

    Raises:
        HaspError: a field is out of its range; the message starts with the field's name.
    """

    num_parts: int = _help("parts to cut the graph into", 1)
    seed: int = _help("seed of the partitioner, of the fill order and of the sampled types", 0)
    backend: str = _help(
        "partitioner of the entities with links: auto (metis, or multilevel for a large graph, by the EELs and their degrees "
        "alone); metis; multilevel (ours: faster and a tenth of the memory on large graphs); stream (a few passes over the "
        "edges, memory for the entities alone); metis_child (metis in a process of its own); metis32, kaminpar (extras); "
        "random, hash (baselines); given (your own labels, node_part=)",
        "auto",
    )
    imbalance: float = _help("how much heavier than the mean the partitioner may make a part of linked entities", 0.03)
    balance: str = _help("what the fill of unlinked entities evens out: nodes (the paper), edges or bytes", "nodes")
    weight: str = _help("edge attribute of the EELs used as edge weight by the partitioner; empty: none", "")
    threads: int = _help("threads of the kernels; 0: one per core. Never changes the result", 0)

    def __post_init__(self) -> None:
        def rule(ok: bool, name: str, text: str, remedy: str) -> None:
            if not ok:
                raise HaspError(f"{name}={getattr(self, name)!r}: {text}; {remedy}")

        for name in ("num_parts", "seed", "threads"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        object.__setattr__(self, "imbalance", number("imbalance", self.imbalance))
        rule(isinstance(self.weight, str), "weight", "the name of an edge attribute", "leave it empty for none")
        rule(self.num_parts >= 1, "num_parts", "at least 1 part", "1 keeps the graph whole")
        rule(self.num_parts < 2**15, "num_parts", "at most 32,767 parts", "lower num_parts")
        rule(0 <= self.seed < 2**63, "seed", "0 <= seed < 2**63", "choose another seed")
        if self.backend not in BACKENDS:
            raise HaspError(f"backend={self.backend!r} is not one of {list(BACKENDS)}; choose one of these")
        rule(self.balance in ("nodes", "edges", "bytes"), "balance", "nodes, edges or bytes", "choose one of these")
        rule(0.0 < self.imbalance <= 1.0, "imbalance", "0 < imbalance <= 1", "0.03 is METIS's own default")
        rule(self.threads >= 0, "threads", "0 or more", "0 uses every core")

    def to_json(self) -> dict[str, Any]:
        """What decides the bytes: every field but ``threads``."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "threads"}


if BuildConfig.__doc__ is not None:  # so that help() has every field, too
    _told = "".join(f"        {f.name}: {f.metadata['help']}.\n" for f in fields(BuildConfig))
    BuildConfig.__doc__ = f"{BuildConfig.__doc__.rstrip()}\n\n    Attributes:\n{_told}    "
