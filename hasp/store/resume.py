"""The journal of an unfinished build: what it may claim, what is believed, and when two builds are the same.

``journal.jsonl`` starts with a line that identifies the build; each further line says that one file was durable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from hasp.errors import CorruptPart
from hasp.schema import Roles
from hasp.store.disk import Disk
from hasp.store.framing import MAX_HEADER, parse_header, parse_json
from hasp.store.layout import IDS, NODE_PART
from hasp.store.manifest import FileEntry

__all__ = ["differences", "done", "header", "line", "read", "verified"]

_ANY_SIZE = 1 << 40
_KEYS = ("format_version", "fingerprint", "config", "roles")

Claims = dict[str, tuple[int, str]]
"""File name -> size and blake3."""


def header(format_version: int, fingerprint: str, config: Mapping[str, Any], roles: Roles) -> dict[str, Any]:
    """What identifies a build: two with equal headers end with the same bytes."""
    return dict(zip(_KEYS, (format_version, fingerprint, dict(config), roles.to_json()), strict=True))


def line(name: str, entry: FileEntry) -> str:
    """The journal's line for one durable file, without the line end."""
    return json.dumps({"name": name, "bytes": entry.bytes, "blake3": entry.blake3})


def read(disk: Disk, path: Path) -> tuple[dict[str, Any] | None, Claims]:
    """The header, ``None`` if it cannot be read, and what the other whole lines claim; a torn last line claims nothing."""
    first, *rest = disk.head(path, _ANY_SIZE).split(b"\n")
    found = _json_object(first)
    if found is not None and not set(_KEYS) <= set(found):
        found = None
    claims: Claims = {}
    for text in rest:
        entry = _json_object(text)
        if entry is not None and isinstance(entry.get("name"), str):
            claims[entry["name"]] = (entry.get("bytes", -1), str(entry.get("blake3")))
    return found, claims


def verified(disk: Disk, root: Path, claims: Mapping[str, tuple[int, str]], possible: Set[str]) -> dict[str, FileEntry]:
    """Entries of the claimed files that are still what they were; the others will be written again.

    Args:
        disk: what does the I/O.
        root: the folder.
        claims: of a journal, or of the manifest of a damaged build.
        possible: names that this build can have; a claim of another name is never followed.
    """
    out = {}
    for name in sorted(possible & set(claims)):
        size, digest = claims[name]
        entry = _entry(disk, root / name, size, digest)
        if entry is not None:
            out[name] = entry
    if NODE_PART in claims and NODE_PART not in out:
        # The parts follow from the labels. Without the labels that they were made with, none of them is trusted.
        out = {name: entry for name, entry in out.items() if name == IDS}
    return out


def _entry(disk: Disk, path: Path, size: int, digest: str) -> FileEntry | None:
    try:
        if disk.size(path) != size or disk.hash(path) != digest:
            return None
        length = min(int.from_bytes(disk.head(path, 8), "little"), MAX_HEADER)
        return FileEntry(size, digest, parse_header(disk.head(path, 8 + length), size))
    except CorruptPart:
        return None


def differences(asked: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """What keeps two builds from being the same, each with both values; empty if nothing."""
    pairs = [(key, asked[key], stored.get(key)) for key in ("format_version", "fingerprint")]
    for group, ignored in (("config", ()), ("roles", ("inferred",))):  # why a role was inferred changes no byte of a part
        mine, theirs = asked[group], stored.get(group)
        theirs = theirs if isinstance(theirs, dict) else {}
        keys = [k for k in {**mine, **theirs} if k not in ignored]
        pairs += [(k if group == "config" else f"{group}.{k}", mine.get(k), theirs.get(k)) for k in keys]
    return [f"{key} is {_short(theirs)} there and {_short(mine)} here" for key, mine, theirs in pairs if mine != theirs]


def done(root: Path, kept: int, lost: Sequence[str], finished: bool) -> str:
    """What a build does to a folder that is not complete, in words.

    Args:
        root: the folder.
        kept: files that it found whole, by their hash.
        lost: names of those that it should have found.
        finished: the build had been finished there, else only begun.

    Returns:
        One sentence; empty where there is nothing to build on.
    """
    names = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    if finished and (kept or lost):
        return f"{root} held this build damaged: {names or 'a file'} made anew, {kept} kept, whose hash agreed"
    if kept:
        return f"{root} held this build unfinished: went on with the {kept} files whose hash agreed"
    return ""


def _json_object(text: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(text)
    except CorruptPart:
        return None
    return value if isinstance(value, dict) else None


def _short(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 200 else shown[:197] + "..."
