"""Where an artefact comes from: the version that made it, its own hash, and the hashes of what it was made of.

Parts, pretrained concepts, runs, checkpoints, embeddings and results each say so in a small JSON file of theirs, under
``library`` and ``inputs`` (parts, which need no model, in their manifest). An input is named by the hash of its content, never
by a path: folders move, content does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from hasp import HASPData, __version__
from hasp.config import folder as local
from hasp.errors import CorruptPart, HaspError
from hasp.store.disk import Disk
from hasp.store.framing import parse_json
from hasp_models.events import LOG, read_events
from hasp_models.files import read_json

__all__ = ["Link", "Origin", "link", "origin_of", "own_folder", "parts_input", "stamp"]

_LIMIT = 1 << 30


@dataclass(frozen=True)
class Origin:
    """What an artefact says of itself.

    Attributes:
        folder: where it lies.
        kind: ``parts``, ``concepts``, ``run``, ``unfinished run``, ``checkpoint``, ``embeddings`` or ``results``.
        library: version that made it; ``None``: one so old that it does not say.
        id: hash of its content; ``None`` while there is none.
        inputs: role -> ``{"kind", "id"}`` of what it was made of.
    """

    folder: str
    kind: str
    library: str | None
    id: str | None
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Link:
    """One input of one artefact, and where it is.

    Attributes:
        folder: of the artefact.
        role: of the input.
        kind: of the input.
        id: of the input.
        found: folder of the artefact that it is, or that has it for an input too; ``None``: not among the given ones.
        wrong: folders of this kind among the given ones, if none of them is it.
    """

    folder: str
    role: str
    kind: str
    id: str
    found: str | None
    wrong: Sequence[str] = ()


def stamp(**inputs: Mapping[str, str] | None) -> dict[str, Any]:
    """What every artefact says: ``{"library": version, "inputs": {role: {"kind", "id"}}}``; ``None`` is left out."""
    return {"library": __version__, "inputs": {role: dict(value) for role, value in inputs.items() if value is not None}}


def own_folder(folder: Path, kind: str) -> None:
    """Refuse to write an artefact into a folder that holds one of another kind: nobody could say whose files are whose.

    Raises:
        HaspError: there is one.
    """
    names = Disk().list(folder) if local("out", folder).is_dir() else []
    for name, (other, _) in _KINDS.items():
        if name in names and other != kind:
            raise HaspError(f"{kind}: wants a folder of its own, but {folder} holds {other} ({name}); choose another folder")


def parts_input(parts: HASPData) -> dict[str, str]:
    """Parts as an input: the hash that their manifest has of itself."""
    return {"kind": "parts", "id": _own_hash(parts.manifest.to_bytes())}


def origin_of(folder: str | Path, disk: Disk | None = None) -> Origin:
    """Read what an artefact says of itself.

    Args:
        folder: of parts, pretrained concepts, a run, its checkpoint, embeddings or results.
        disk: what does the I/O.

    Raises:
        HaspError: the folder is none of these.
        CorruptPart: its file is not what was written.
    """
    folder, disk = Path(folder), disk or Disk()
    names = disk.list(folder)
    for name, (kind, own) in _KINDS.items():
        if name in names:
            try:
                return own(folder, kind, folder / name, disk)
            except (KeyError, TypeError, AttributeError) as error:
                raise CorruptPart(f"{folder / name} is not the file that was written ({error!r}); make it again") from error
    begun = [e for e in read_events(folder)[0] if e.event in ("started", "resumed")]
    if LOG in names and begun:
        head = begun[-1].fields
        inputs = {"graph": {"kind": "graph", "id": str(head["fingerprint"])}} if "fingerprint" in head else {}
        return Origin(str(folder), "unfinished run", head.get("library"), None, inputs)
    raise HaspError(
        f"an origin is read from a folder of parts, concepts, a run, embeddings or results, but {folder} is none; "
        "correct the path"
    )


def link(origins: Sequence[Origin]) -> list[Link]:
    """Find the inputs of artefacts among each other.

    Args:
        origins: of artefacts that are thought to belong together.

    Returns:
        A row per input. An input of which no artefact of its kind was given is not wrong, only not found.
    """
    rows = []
    for origin in origins:
        for role, value in origin.inputs.items():
            others = [o for o in origins if o is not origin]
            same = [o.folder for o in others if o.kind == value["kind"] and o.id == value["id"]]
            shared = [o.folder for o in others if value in o.inputs.values()] if value["kind"] == "graph" else []
            known = [o.folder for o in others if o.kind == value["kind"] and o.id is not None]
            if value["kind"] == "graph" and not shared:
                known = [o.folder for o in others if any(v["kind"] == "graph" for v in o.inputs.values())]
            found = [*same, *shared]
            rows.append(
                Link(origin.folder, role, value["kind"], value["id"], found[0] if found else None, () if found else known)
            )
    return rows


def _own_hash(manifest: bytes) -> str:
    return str(parse_json(manifest)["blake3"])


def _of_parts(folder: Path, kind: str, path: Path, disk: Disk) -> Origin:
    data = disk.head(path, _LIMIT)
    meta = parse_json(data)
    return Origin(str(folder), kind, meta["library"], meta["blake3"], {"graph": {"kind": "graph", "id": meta["fingerprint"]}})


def _of_file(*keys: str) -> Callable[[Path, str, Path, Disk], Origin]:
    """Of a JSON file that names its data file and the hash of it under ``keys``."""

    def read(folder: Path, kind: str, path: Path, disk: Disk) -> Origin:
        meta = read_json(path, disk)
        own: Any = meta
        for key in keys:
            own = own.get(key, {})
        inputs = meta.get("inputs")
        if inputs is None:
            known = meta.get("fingerprint") or meta.get("loader", {}).get("fingerprint")
            inputs = {} if known is None else {"graph": {"kind": "graph", "id": str(known)}}
        named = {str(role): {"kind": str(value["kind"]), "id": str(value["id"])} for role, value in dict(inputs).items()}
        return Origin(str(folder), kind, meta.get("library"), own or None, named)

    return read


def _of_results(folder: Path, kind: str, path: Path, disk: Disk) -> Origin:
    meta = read_json(path, disk)
    made = read_json(folder / "origin.json", disk) if "origin.json" in disk.list(folder) else {}
    own = str(blake3(disk.head(path, _LIMIT)).hexdigest())
    return Origin(str(folder), kind, made.get("library"), own, {"data": {"kind": "data", "id": str(meta["data"])}})


_KINDS: dict[str, tuple[str, Callable[[Path, str, Path, Disk], Origin]]] = {
    "manifest.json": ("parts", _of_parts),
    "kg.json": ("concepts", _of_file("file", "blake3")),
    "run.json": ("run", _of_file("file", "blake3")),
    "checkpoint.json": ("checkpoint", _of_file("file", "blake3")),
    "embeddings.json": ("embeddings", _of_file("file", "blake3")),
    "experiment.json": ("results", _of_results),
}
