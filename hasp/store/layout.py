"""Names in a parts folder, and which tensors each file holds."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hasp.errors import CorruptPart, HaspError
from hasp.part import CUT, SAMPLED, SHARED
from hasp.schema import EdgeType, Roles, edge_name
from hasp.store.framing import Spec

__all__ = [
    "BUILD_LOG",
    "IDS",
    "JOURNAL",
    "LOCK",
    "MANIFEST",
    "NODE_PART",
    "check_block",
    "check_part_id",
    "file_name",
    "is_data",
    "tensor_order",
]

MANIFEST, JOURNAL, BUILD_LOG, LOCK = "manifest.json", "journal.jsonl", "build.json", ".lock"
NODE_PART, IDS = "node_part.safetensors", "ids.safetensors"

_BLOCKS = {SHARED: "shared.safetensors", SAMPLED: "sampled.safetensors", CUT: "cut.safetensors"}
_DATA = re.compile(r"(part-[0-9]{5}|shared|sampled|cut|node_part|ids)\.safetensors", re.ASCII)


def file_name(part_id: int) -> str:
    """Name of the file of a part or of a block."""
    return _BLOCKS[part_id] if part_id < 0 else f"part-{part_id:05d}.safetensors"


def is_data(name: str) -> bool:
    """Is this the name of a file that a manifest may list?"""
    return _DATA.fullmatch(name) is not None


def required(roles: Roles, num_parts: int) -> dict[str, int | None]:
    """Every file that a finished folder has -> the block it holds; ``None`` for ``node_part``."""
    blocks = [*range(num_parts), SHARED, *([SAMPLED] if roles.sampled else []), CUT]
    return {**{file_name(b): b for b in blocks}, NODE_PART: None}


def block_types(part_id: int, roles: Roles) -> tuple[list[str], list[EdgeType]]:
    """Node types and edge types of a block, in the graph's order."""
    own = {SHARED: "semantic", SAMPLED: "sampled", CUT: ""}.get(part_id, "entity")
    nodes = [t for t, role in roles.nodes.items() if role == own]
    edges = []
    for edge_type, role in roles.edges.items():
        entity_end = "entity" in (roles.nodes[edge_type[0]], roles.nodes[edge_type[2]])
        inside = {
            SHARED: role == "semantic-semantic",
            SAMPLED: role == "sampled" and not entity_end,
            CUT: role in ("eel", "entity-entity"),
        }.get(part_id, entity_end)
        if inside:
            edges.append(edge_type)
    return nodes, edges


def tensor_order(
    part_id: int,
    roles: Roles,
    node_attrs: Mapping[str, Mapping[str, Spec]],
    edge_attrs: Mapping[EdgeType, Mapping[str, Spec]],
) -> list[str]:
    """The names of a block's tensors, types and attributes in the order of the source graph."""
    nodes, edges = block_types(part_id, roles)
    out: list[str] = []
    for node_type in nodes:
        out += [f"n_id/{node_type}"] if part_id >= 0 else []
        out += [f"node/{node_type}/{key}" for key in node_attrs.get(node_type, {})]
    for edge_type in edges:
        name = edge_name(edge_type)
        out += [f"edge_index/{name}", f"e_id/{name}"]
        out += [f"pairs/{name}", f"ptr/{name}"] if part_id == CUT else []
        out += [f"edge/{name}/{key}" for key in edge_attrs.get(edge_type, {})]
    return out


def check_block(
    part_id: int,
    tensors: Mapping[str, Spec],
    roles: Roles,
    num_nodes: Mapping[str, int],
    node_attrs: Mapping[str, Mapping[str, Spec]],
    edge_attrs: Mapping[EdgeType, Mapping[str, Spec]],
) -> None:
    """Names, dtypes and shapes of one block agree with each other and with the attributes of the graph.

    Raises:
        CorruptPart: they do not; the message names the tensor.
    """
    nodes, edges = block_types(part_id, roles)
    expected = tensor_order(part_id, roles, node_attrs, edge_attrs)
    if set(expected) != set(tensors):
        odd = sorted(set(expected) ^ set(tensors))
        raise CorruptPart(f"{file_name(part_id)} holds the tensors of its types, but {odd[:3]} are missing or too many")
    ids = ("int32", "int64")

    def check(name: str, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> None:
        if tensors[name].dtype not in dtypes or tensors[name].shape != shape:
            raise CorruptPart(
                f"{name} of {file_name(part_id)} is {' or '.join(dtypes)} {list(shape)}, "
                f"got {tensors[name].dtype} {list(tensors[name].shape)}"
            )

    for node_type in nodes:
        rows = num_nodes[node_type]
        if part_id >= 0:
            rows = tensors[f"n_id/{node_type}"].shape[0] if tensors[f"n_id/{node_type}"].shape else -1
            check(f"n_id/{node_type}", ids, (rows,))
        for key, spec in node_attrs.get(node_type, {}).items():
            check(f"node/{node_type}/{key}", (spec.dtype,), (rows, *spec.shape))
    for edge_type in edges:
        name = edge_name(edge_type)
        rows = tensors[f"e_id/{name}"].shape[0] if tensors[f"e_id/{name}"].shape else -1
        check(f"e_id/{name}", ids, (rows,))
        check(f"edge_index/{name}", ids, (2, rows))
        if part_id == CUT:
            pairs = tensors[f"pairs/{name}"].shape[0] if tensors[f"pairs/{name}"].shape else -1
            check(f"pairs/{name}", ids, (pairs, 2))
            check(f"ptr/{name}", ("int64",), (pairs + 1,))
        for key, spec in edge_attrs.get(edge_type, {}).items():
            check(f"edge/{name}/{key}", (spec.dtype,), (rows, *spec.shape))


def check_type_names(roles: Roles) -> None:
    """Names of types can be spelled in tensor names: printable, without ``/``.

    Raises:
        HaspError: one cannot.
    """
    for name in [*roles.nodes, *(part for edge_type in roles.edges for part in edge_type)]:
        if "/" in name or not name.isprintable() or not name:
            raise HaspError(f"names of types are printable and have no '/', got {name!r}; rename the type")


def check_part_id(part_id: int, num_parts: int) -> None:
    """Raise :class:`HaspError` if there is no such part."""
    if not 0 <= part_id < num_parts:
        raise HaspError(f"parts are numbered 0..{num_parts - 1}, got {part_id}; choose one of these")
