"""A tiny build by hand, which the tests of the store write, interrupt, damage and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hasp.config import BuildConfig
from hasp.part import CUT, SAMPLED, SHARED, Edges, Nodes, Part
from hasp.schema import Roles
from hasp.store.disk import Disk
from hasp.store.framing import Spec
from hasp.store.manifest import Manifest
from hasp.store.read import FolderStore
from hasp.store.write import Writer

CO, HAS, SUB, ACTS, LIKES = ("t", "co", "t"), ("t", "has", "c"), ("c", "sub", "c"), ("s", "acts", "t"), ("s", "likes", "c")
ROLES = Roles(
    {"t": "entity", "c": "semantic", "s": "sampled"},
    {CO: "eel", HAS: "entity-semantic", SUB: "semantic-semantic", ACTS: "sampled", LIKES: "sampled"},
    {"s": 2},
    {},
)
NODE_ATTRS = {
    "t": {"y": Spec("int64", ()), "x": Spec("float32", (3,)), "train_mask": Spec("bool", ())},
    "c": {"v": Spec("float16", (1, 2))},
    "s": {"z": Spec("uint8", ())},
}
EDGE_ATTRS = {CO: {"weight": Spec("float64", ())}, HAS: {}, SUB: {"h": Spec("bfloat16", (2,))}, ACTS: {}, LIKES: {}}
NUM_NODES = {"t": 7, "c": 3, "s": 4}
NUM_EDGES = {CO: 6, HAS: 4, SUB: 2, ACTS: 3, LIKES: 2}
IDS = {"t": np.array([10, 11, 12, 13, 14, 15, 16]), "c": np.array(["Akční", "", "犬🐕"])}
NAMES = {"t": np.array(list("abcdefg"))}


def config(**changes: object) -> BuildConfig:
    return BuildConfig(**{"num_parts": 3, "seed": 5, "backend": "metis", **changes})  # type: ignore[arg-type]


def _attrs(specs: dict[str, Spec], rows: int, shift: int) -> dict[str, torch.Tensor]:
    out = {}
    for salt, (key, spec) in enumerate(specs.items()):
        count = int(np.prod((rows, *spec.shape)))
        out[key] = ((torch.arange(count) + salt + shift) % 5).to(spec.torch_dtype).view(rows, *spec.shape)
    return out


def _edges(edge_type: tuple[str, str, str], e_id: list[int], shift: int, pairs: list[list[int]] | None = None) -> Edges:
    ids = torch.tensor(e_id, dtype=torch.int32)
    index = torch.stack([ids % 2, ids % 3]).int() if e_id else torch.empty(2, 0, dtype=torch.int32)
    extra = () if pairs is None else (torch.tensor(pairs, dtype=torch.int32).view(-1, 2), torch.arange(len(pairs) + 1))
    return Edges(index, ids, _attrs(EDGE_ATTRS[edge_type], len(e_id), shift), *extra)


def parts(shift: int = 0) -> list[Part]:
    """Three parts, the last one empty, and the three blocks; ``shift`` changes values, never sizes."""
    owned = [[0, 2, 4, 6], [1, 3, 5], []]
    co, has, acts = [[0, 1], [2], []], [[0, 2], [1, 3], []], [[0], [1, 2], []]
    out = []
    for p in range(3):
        n_id = torch.tensor(owned[p], dtype=torch.int32)
        nodes = {"t": Nodes(n_id, len(owned[p]), _attrs(NODE_ATTRS["t"], len(owned[p]), p + shift))}
        edges = {CO: _edges(CO, co[p], shift), HAS: _edges(HAS, has[p], shift), ACTS: _edges(ACTS, acts[p], shift)}
        out.append(Part(p, nodes, edges))
    shared = Part(SHARED, {"c": Nodes(None, 3, _attrs(NODE_ATTRS["c"], 3, shift))}, {SUB: _edges(SUB, [0, 1], shift)})
    sampled = Part(SAMPLED, {"s": Nodes(None, 4, _attrs(NODE_ATTRS["s"], 4, shift))}, {LIKES: _edges(LIKES, [0, 1], shift)})
    cut = Part(CUT, {}, {CO: _edges(CO, [3, 4, 5], shift, [[0, 1], [1, 0], [1, 2]])})
    return [*out, shared, sampled, cut]


def node_part() -> dict[str, torch.Tensor]:
    return {"t": torch.tensor([0, 1, 0, 1, 0, 1, 0], dtype=torch.int32)}


def build(
    root: Path,
    disk: Disk | None = None,
    *,
    overwrite: bool = False,
    fingerprint: str = "f" * 64,
    shift: int = 0,
    stop_after: int | None = None,
    writer: type[Writer] = Writer,
    **changes: object,
) -> Manifest | None:
    """What ``hasp.build`` does with a Writer; ``stop_after`` leaves it unfinished after so many parts."""
    with writer(
        root, fingerprint=fingerprint, config=config(**changes), roles=ROLES, overwrite=overwrite, disk=disk or Quick()
    ) as out:
        if out.finished:
            return out.manifest
        out.save_node_part(node_part())
        out.save_ids(IDS, NAMES)
        for part in parts(shift)[:stop_after]:
            if not out.has(part.part_id):
                out.write(part)
        if stop_after is not None:
            return None
        return out.finish(
            num_nodes=NUM_NODES,
            num_edges=NUM_EDGES,
            node_attrs=NODE_ATTRS,
            edge_attrs=EDGE_ATTRS,
            report={"num_parts": 3, "kept": 0.5},
            build_log={"seconds": {"cut": 1.5}},
        )


class Quick(Disk):
    """Syncs nothing, for tests in which the machine stays up."""

    def sync(self, handle: int) -> None:
        """Nothing."""

    def sync_dir(self, path: Path) -> None:
        """Nothing."""


def snapshot(root: Path) -> dict[str, bytes]:
    """Name -> bytes of every file but the lock."""
    return {f.name: f.read_bytes() for f in sorted(root.iterdir()) if f.name != ".lock"}


def touch(store: FolderStore) -> None:
    """Read everything there is."""
    for p in range(store.num_parts):
        store.part(p)
    _ = store.shared, store.sampled, store.cut, store.node_part(), store.ids("t")


def same(a: Part, b: Part) -> bool:
    """Equal part ids, names, types, order, dtypes and values."""
    mine, theirs = a.to_tensors(), b.to_tensors()
    counts = [{t: n.num_nodes for t, n in p.nodes.items()} for p in (a, b)]
    return (
        a.part_id == b.part_id
        and counts[0] == counts[1]
        and list(mine) == list(theirs)
        and all(_content(mine[k]) == _content(theirs[k]) for k in mine)
    )


def _content(value: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """To be compared for every dtype: older torch compares no float8."""
    return value.dtype, value.shape, value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
