"""Manifest: what a finished parts folder says about itself, and the checks that make it safe to believe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from hasp.errors import CorruptPart, HaspError, StaleParts
from hasp.schema import EdgeType, Roles, edge_name, parse_edge_name
from hasp.store.framing import DTYPES, Spec, parse_json
from hasp.store.layout import IDS, NODE_PART, check_block, check_type_names, is_data, required

__all__ = ["FORMAT_VERSION", "FileEntry", "Manifest", "Spec"]

FORMAT_VERSION = 1
_HEAD = b'{\n"blake3": "'  # a manifest starts so; 64 hex digits follow
_ZEROS = b"0" * 64
_LIMIT = 1 << 63
_EDGE_ROLES = ("eel", "entity-entity", "entity-semantic", "semantic-semantic", "sampled")


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of one file.

    Attributes:
        bytes: its size.
        blake3: its hash, 64 hex digits.
        tensors: name -> dtype and full shape.
    """

    bytes: int
    blake3: str
    tensors: Mapping[str, Spec]

    def to_json(self) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` turns back into an equal object."""
        tensors = {name: [spec.dtype, list(spec.shape)] for name, spec in self.tensors.items()}
        return {"bytes": self.bytes, "blake3": self.blake3, "tensors": tensors}

    @classmethod
    def from_json(cls, name: str, value: Any) -> FileEntry:
        """Rebuild from :meth:`to_json`. Raises :class:`CorruptPart` for anything that cannot be a file of ours."""
        _need(is_data(name), f"files have fixed names without a folder, got {name!r}")
        entry = _object(value, f"the entry of {name}", ("bytes", "blake3", "tensors"))
        size = _natural(entry["bytes"], f"bytes of {name}")
        digest = entry["blake3"]
        ok = isinstance(digest, str) and len(digest) == 64 and set(digest) <= set("0123456789abcdef")
        _need(ok, f"blake3 of {name} is 64 hex digits, got {str(digest)[:80]!r}")
        _need(isinstance(entry["tensors"], dict), f"tensors of {name} is an object, got {str(entry['tensors'])[:80]}")
        tensors = {key: _spec(spec, f"{key!r} of {name}") for key, spec in entry["tensors"].items()}
        total = sum(spec.num_bytes for spec in tensors.values())
        _need(total < size, f"tensors of {name} fit its {size:,} bytes, but they take {total:,}")
        return cls(size, digest, tensors)


@dataclass(frozen=True)
class Manifest:
    """What one build is and holds.

    Attributes:
        format_version: version of the layout of files and bytes (``docs/format.md``).
        library: version of the library that wrote it.
        fingerprint: of the source graph.
        config: ``BuildConfig.to_json()``.
        roles: the resolved schema; its order of types is the source's.
        num_nodes: nodes per node type of the whole graph.
        num_edges: edges per edge type of the whole graph.
        node_attrs: per node type, attribute -> dtype and trailing shape.
        edge_attrs: per edge type, attribute -> dtype and trailing shape.
        files: file name -> entry; empty for parts that are kept in memory.
        report: ``Report.to_json()``, the part of it that every build of the same input repeats.
    """

    format_version: int
    library: str
    fingerprint: str
    config: Mapping[str, Any]
    roles: Roles
    num_nodes: Mapping[str, int]
    num_edges: Mapping[EdgeType, int]
    node_attrs: Mapping[str, Mapping[str, Spec]]
    edge_attrs: Mapping[EdgeType, Mapping[str, Spec]]
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return int(self.config["num_parts"])

    def to_json(self) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` turns back into an equal object."""

        def attrs(value: Mapping[str, Spec]) -> dict[str, Any]:
            return {key: [spec.dtype, list(spec.shape)] for key, spec in value.items()}

        return {
            "format_version": self.format_version,
            "library": self.library,
            "fingerprint": self.fingerprint,
            "config": dict(self.config),
            "roles": self.roles.to_json(),
            "num_nodes": dict(self.num_nodes),
            "num_edges": {edge_name(e): n for e, n in self.num_edges.items()},
            "node_attrs": {t: attrs(self.node_attrs.get(t, {})) for t in self.roles.nodes},
            "edge_attrs": {edge_name(e): attrs(self.edge_attrs.get(e, {})) for e in self.roles.edges},
            "report": dict(self.report),
            "files": {name: self.files[name].to_json() for name in sorted(self.files)},
        }

    @classmethod
    def from_json(cls, value: Any) -> Manifest:
        """Rebuild from :meth:`to_json`, believing nothing.

        Raises:
            StaleParts: the format is newer than this library.
            CorruptPart: a value that no build writes; the message names the key, the rule and the value.
        """
        _need(isinstance(value, dict), f"a manifest is an object, got {type(value).__name__}")
        version = value.get("format_version")
        _need(type(version) is int and version >= 1, f"format_version is a whole number from 1, got {version!r}")
        if version > FORMAT_VERSION:
            raise StaleParts(
                f"this library reads format_version up to {FORMAT_VERSION}, but the parts have {version}; "
                "upgrade it (pip install -U hasp-pyg), or rebuild the parts with overwrite=True"
            )
        keys = ("format_version", "library", "fingerprint", "config", "roles", "num_nodes", "num_edges")
        _object(value, "a manifest", (*keys, "node_attrs", "edge_attrs", "report", "files"))
        for key in ("library", "fingerprint"):
            _need(isinstance(value[key], str) and value[key] != "", f"{key} is a text, got {str(value[key])[:80]!r}")
        for key in ("config", "roles", "num_nodes", "num_edges", "node_attrs", "edge_attrs", "report", "files"):
            _need(isinstance(value[key], dict), f"{key} is an object, got {str(value[key])[:80]}")
        num_parts = value["config"].get("num_parts")
        _need(type(num_parts) is int and 1 <= num_parts < 2**15, f"config.num_parts is 1..32767, got {num_parts!r}")
        num_nodes = {t: _natural(n, f"num_nodes of {t!r}") for t, n in value["num_nodes"].items()}
        roles = _roles(value["roles"])
        names = [edge_name(e) for e in roles.edges]
        for key, types in (
            ("num_nodes", list(roles.nodes)),
            ("node_attrs", list(roles.nodes)),
            ("num_edges", names),
            ("edge_attrs", names),
        ):
            _need(list(value[key]) == types, f"{key} lists the types of roles, in order: {types}, got {list(value[key])}")
        out = cls(
            format_version=version,
            library=value["library"],
            fingerprint=value["fingerprint"],
            config=value["config"],
            roles=roles,
            num_nodes=num_nodes,
            num_edges={
                e: _natural(n, f"num_edges of {e}") for e, n in zip(roles.edges, value["num_edges"].values(), strict=True)
            },
            node_attrs={t: _attrs(a, t) for t, a in value["node_attrs"].items()},
            edge_attrs={e: _attrs(a, edge_name(e)) for e, a in zip(roles.edges, value["edge_attrs"].values(), strict=True)},
            files={name: FileEntry.from_json(name, entry) for name, entry in value["files"].items()},
            report=value["report"],
        )
        out._check_files()
        return out

    def _check_files(self) -> None:
        """Exactly the files of a finished build, each with the tensors of its block."""
        needed = required(self.roles, self.num_parts)
        odd = set(needed) ^ (set(self.files) - {IDS})
        _need(not odd, f"files of {self.num_parts} parts are complete, but {sorted(odd)[:3]} are missing or too many")
        for name, block in needed.items():
            if block is not None:
                tensors = self.files[name].tensors
                check_block(block, tensors, self.roles, self.num_nodes, self.node_attrs, self.edge_attrs)
        labels = {f"node_part/{t}": Spec("int32", (self.num_nodes[t],)) for t in self.roles.entity}
        found = dict(self.files[NODE_PART].tensors)
        _need(found == labels, f"{NODE_PART} holds {labels}, got {found}")

    @property
    def origin(self) -> str:
        """Who made the parts, and of what, for the reader of a page."""
        return f"Parts made by hasp {self.library}, of the graph {self.fingerprint}."

    def to_bytes(self) -> bytes:
        """The file ``manifest.json``: its own blake3 first, taken while the digits are zeros; one file entry a line."""

        def text(value: Any) -> str:
            return json.dumps(value, allow_nan=False)

        value = self.to_json()
        files = value.pop("files")
        try:
            lines = [f'"{key}": {text(part)}' for key, part in value.items()]
            entries = ",\n".join(f" {text(name)}: {text(entry)}" for name, entry in files.items())
        except (TypeError, ValueError) as error:
            raise HaspError(f"a manifest holds finite numbers, text, lists and objects: {error}; convert it first") from error
        body = '",\n' + ",\n".join([*lines, f'"files": {{\n{entries}\n}}']) + "\n}\n"
        tail = body.encode("ascii")
        digest = blake3(_HEAD + _ZEROS + tail).hexdigest()
        return _HEAD + digest.encode() + tail

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "manifest.json") -> Manifest:
        """Read :meth:`to_bytes` and check its own hash. Raises as :meth:`from_json`, naming the file ``where``."""
        try:
            value = parse_json(data)
            if isinstance(value, dict) and type(value.get("format_version")) is int:
                newer = value["format_version"] > FORMAT_VERSION  # a newer format may keep its hash elsewhere
            else:
                newer = False
            start, end = len(_HEAD), len(_HEAD) + 64
            found = blake3(data[:start] + _ZEROS + data[end:]).hexdigest()
            if not newer:
                stated = data[start:end].decode("ascii", "replace")
                _need(data.startswith(_HEAD) and stated == found, f"its blake3 is {stated}, found {found}")
                value.pop("blake3")
            return cls.from_json(value)
        except (CorruptPart, StaleParts) as error:
            remedy = "" if isinstance(error, StaleParts) else "; restore the file, or rebuild the parts with overwrite=True"
            raise type(error)(f"{where}: {error}{remedy}") from error


def _need(ok: bool, rule: str) -> None:
    if not ok:
        raise CorruptPart(rule)


def _object(value: Any, what: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(keys):
        got = sorted(value) if isinstance(value, dict) else str(value)
        raise CorruptPart(f"{what} has the keys {', '.join(keys)}, got {str(got)[:200]}")
    return value


def _natural(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < _LIMIT:
        raise CorruptPart(f"{what} is a whole number from 0, got {str(value)[:80]}")
    return value


def _spec(value: Any, what: str) -> Spec:
    # The messages are only put together when there is something to say: a manifest has thousands of specs.
    ok = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], list)
    if not (ok and value[0] in DTYPES and len(value[1]) <= 64):
        raise CorruptPart(f"{what} is [dtype, shape], got {str(value)[:80]}")
    if not all(type(n) is int and 0 <= n < _LIMIT for n in value[1]):
        for n in value[1]:
            _natural(n, f"the shape of {what}")
    spec = Spec(value[0], tuple(value[1]))
    if spec.num_bytes >= _LIMIT:
        raise CorruptPart(f"{what} fits a file, but its shape is {list(spec.shape)}")
    return spec


def _attrs(value: Any, owner: str) -> dict[str, Spec]:
    _need(isinstance(value, dict), f"attributes of {owner} are an object, got {str(value)[:80]}")
    for key in value:
        _need(key != "" and "/" not in key, f"attribute names have no '/', got {key!r}")
    return {key: _spec(spec, f"{owner}.{key}") for key, spec in value.items()}


def _roles(value: Any) -> Roles:
    _object(value, "roles", ("nodes", "edges", "quota", "inferred"))
    for key in value:
        _need(isinstance(value[key], dict), f"roles.{key} is an object, got {str(value[key])[:80]}")
    for node_type, role in value["nodes"].items():
        _need(
            role in ("entity", "semantic", "sampled"), f"the role of {node_type!r} is entity, semantic or sampled, got {role!r}"
        )
    sampled = {t for t, role in value["nodes"].items() if role == "sampled"}
    _need(set(value["quota"]) == sampled, f"quotas are those of {sorted(sampled)}, got {sorted(value['quota'])}")
    for node_type, quota in value["quota"].items():
        _natural(quota, f"quota of {node_type!r}")
    for name, role in value["edges"].items():
        _need(role in _EDGE_ROLES, f"the role of {name!r} is one of {_EDGE_ROLES}, got {role!r}")
    try:
        for name in value["edges"]:
            ends = parse_edge_name(name)[::2]
            _need(set(ends) <= set(value["nodes"]), f"both ends of {name!r} are among {list(value['nodes'])}")
        roles = Roles.from_json(value)
        check_type_names(roles)
    except CorruptPart:
        raise
    except HaspError as error:
        raise CorruptPart(str(error)) from error
    return roles
