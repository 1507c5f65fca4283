"""A small build with every kind of node and edge, and ways to damage it so that all checksums agree again."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from safetensors.torch import load_file, save_file

from hasp.data import HASPData
from hasp.graph import Graph
from hasp.schema import Schema
from hasp.store.framing import specs
from hasp.store.manifest import FileEntry, Manifest
from hasp.verify import verify

CO, HAS, SUB, SAW, KNOWS = (
    ("title", "co", "title"),
    ("title", "has", "genre"),
    ("genre", "sub", "genre"),
    ("user", "saw", "title"),
    ("user", "knows", "user"),
)


def a_graph() -> Graph:
    rng = np.random.default_rng(0)

    def ends(a: int, b: int, count: int):
        return torch.from_numpy(rng.integers(0, a, count)), torch.from_numpy(rng.integers(0, b, count))

    nodes = {"title": 60, "genre": 5, "user": 20}
    edges = {CO: ends(40, 40, 160), HAS: ends(60, 5, 90), SUB: ends(5, 5, 6), SAW: ends(20, 60, 50), KNOWS: ends(20, 20, 30)}
    x = torch.from_numpy(rng.random((60, 3), dtype=np.float32))
    x[7, 1] = torch.nan  # equal to itself, as far as copies go
    return Graph(
        nodes,
        edges,
        {"title": {"x": x}, "genre": {"weight": torch.arange(5) / 4}},
        {CO: {"time": torch.arange(160)}},
        ids={"title": np.arange(60) + 1000},
    )


def schema() -> Schema:
    return Schema(entity="title", eel=[CO], sample={"user": 4})


def build(folder: Path) -> tuple[Path, Graph]:
    """The build in a folder, and what it was made of."""
    with pytest.warns(UserWarning, match="NaN"):
        HASPData(a_graph(), schema(), num_parts=4, root=folder / "parts")
    return folder / "parts", a_graph()


def check(root: Path, source: Graph | None = None, threads: int = 0) -> list[str]:
    return verify(HASPData.open(root, verify="size").store, source, threads=threads)


def resign(root: Path, name: str | None = None, **changes) -> None:
    """Make the manifest agree with what lies in the folder."""
    path = root / "manifest.json"
    manifest = Manifest.from_bytes(path.read_bytes())
    if name is not None:
        data = (root / name).read_bytes()
        entry = FileEntry(len(data), blake3(data).hexdigest(), specs(load_file(root / name)))
        changes["files"] = {**manifest.files, name: entry}
    path.write_bytes(dataclasses.replace(manifest, **changes).to_bytes())


def damage(root: Path, name: str, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = {k: v.clone() for k, v in load_file(root / name).items()}
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, root / name)
    resign(root, name)


def edit(key: str, at, value) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key][at] = value

    return change


def swap_columns(tensors):
    """Two edges change places: still the same edges, no longer sorted."""
    for key in ("edge_index/title__has__genre", "e_id/title__has__genre"):
        value = tensors[key]
        value[..., [0, -1]] = value[..., [-1, 0]]


def drop_edge(tensors):
    for key in [k for k in tensors if k.split("/")[1] == "title__has__genre"]:
        tensors[key] = tensors[key][..., 1:]


def rename_edge(tensors):
    """The first two edges swap their ids: each id still once, each with the wrong ends or order."""
    tensors["e_id/title__co__title"][[0, -1]] = tensors["e_id/title__co__title"][[-1, 0]]


def swap_entities(tensors):
    tensors["n_id/title"][[0, 1]] = tensors["n_id/title"][[1, 0]]
