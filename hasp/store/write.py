"""Writer: a build into a folder that appears whole or not at all, and goes on where it was interrupted.

The journal says which files of an unfinished build are durable; the manifest, written last, makes the build exist.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from hasp.config import BuildConfig
from hasp.errors import CorruptPart, HaspError, StaleParts
from hasp.part import CUT, Part
from hasp.schema import EdgeType, Roles
from hasp.store import ids as text
from hasp.store import resume
from hasp.store.disk import Disk
from hasp.store.framing import Spec, chunks, specs
from hasp.store.layout import (
    BUILD_LOG,
    IDS,
    JOURNAL,
    LOCK,
    MANIFEST,
    NODE_PART,
    block_types,
    check_type_names,
    file_name,
    is_data,
    required,
)
from hasp.store.manifest import FORMAT_VERSION, FileEntry, Manifest
from hasp.store.offer import Offer, is_offer

__all__ = ["Writer"]

_ANY_SIZE = 1 << 40
_REBUILD = "use overwrite=True, or another folder"


class Writer:
    """Writes one build into one folder. A context manager: it holds the folder's lock.

    Args:
        root: the folder; created if it is not there.
        fingerprint: of the source graph.
        config: settings of the build, with the partitioner that was taken as ``backend``.
        roles: the resolved schema.
        overwrite: replace a build of another graph or of other settings, and redo a finished one.
        disk: what does the I/O; tests hand in one that fails.

    Raises:
        BuildLocked: (on entering) another process is building there.
        StaleParts: (on entering) the folder holds another build, finished or not.
        HaspError: (on entering) the folder holds files that are not ours, or cannot be written.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        fingerprint: str,
        config: BuildConfig,
        roles: Roles,
        overwrite: bool = False,
        disk: Disk | None = None,
    ) -> None:
        check_type_names(roles)
        self.root = Path(root)
        self.manifest: Manifest | None = None
        self._disk = disk or Disk()
        self._overwrite = overwrite
        self._config, self._roles, self._fingerprint = config, roles, fingerprint
        self._entries: dict[str, FileEntry] = {}
        self.done = ""  # what is done to a folder that holds something of this build, in words
        self._mutex = threading.Lock()  # the journal and the entries: two threads of a builder write parts
        self._handle: int | None = None

    def __enter__(self) -> Writer:
        self._refuse_foreign()  # before the lock file is made: a folder of somebody else stays untouched
        self._disk.make_folder(self.root)
        self._handle = self._disk.lock(self.root / LOCK)
        try:
            self._begin()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if isinstance(error, HaspError) and not self.finished:
                with contextlib.suppress(HaspError):  # the first error is the one to report
                    self._forget()
        finally:
            self._release()

    def _forget(self) -> None:
        """Leave no trace of a build that was refused before it wrote anything, so that the next may have other settings."""
        if not any(is_data(name) or name == MANIFEST for name in self._disk.list(self.root)):
            self._disk.discard(self.root / JOURNAL)

    def _release(self) -> None:
        if self._handle is not None:
            self._disk.unlock(self._handle)
            self._handle = None

    @property
    def finished(self) -> bool:
        """Does the folder hold this very build already, complete? Then there is nothing to do."""
        return self.manifest is not None

    # -- finding out what is there -----------------------------------------------------------------------------------

    def _refuse_foreign(self) -> None:
        names = set(self._disk.list(self.root))
        if names & {MANIFEST, JOURNAL}:
            return
        foreign = sorted(n for n in names if not n.startswith(".") and n not in ("lost+found", JOURNAL + ".tmp"))
        if foreign:
            raise HaspError(
                f"parts go into an empty folder or over parts, but {self.root} holds {', '.join(foreign[:3])}; "
                "choose another folder, or move these files away"
            )

    def _begin(self) -> None:
        self._refuse_foreign()
        names = set(self._disk.list(self.root))
        stored = self._stored_manifest() if MANIFEST in names else None
        header, journal = resume.read(self._disk, self.root / JOURNAL) if JOURNAL in names else (None, {})
        asked = resume.header(FORMAT_VERSION, self._fingerprint, self._config.to_json(), self._roles)
        resumes = header is not None and not resume.differences(asked, header)
        claimed: Mapping[str, tuple[int, str]] = {}
        kept: dict[str, FileEntry] | None = None
        if MANIFEST in names and not self._overwrite:
            differences = resume.differences(asked, _header_of(stored)) if stored is not None else []
            if stored is not None and not differences:
                claimed = {name: (e.bytes, e.blake3) for name, e in stored.files.items()}
                kept = self._verified(claimed)  # hashed, as the input was: to build again is how damage is repaired
                if len(kept) == len(claimed):
                    self.manifest = stored
                    self.done = f"{self.root} already held this build, every file whole by its hash; nothing was done"
                    if JOURNAL in names:
                        self._disk.discard(self.root / JOURNAL)
                    return
            elif not resumes:
                raise StaleParts(f"{self.root} holds parts of another build: {'; '.join(differences)}; {_REBUILD}")
        elif MANIFEST not in names and resumes:
            claimed = journal
        elif MANIFEST not in names and JOURNAL in names and not self._overwrite:
            if header is None:
                raise CorruptPart(f"the first line of {self.root / JOURNAL} is damaged; {_REBUILD}")
            differences = "; ".join(resume.differences(asked, header))  # type: ignore[assignment]
            raise StaleParts(f"{self.root} holds an unfinished build of other parts: {differences}; {_REBUILD}")
        self._entries = self._verified(claimed) if kept is None else kept
        self.done = resume.done(self.root, len(self._entries), sorted(set(claimed) - set(self._entries)), stored is not None)
        # The journal comes before the manifest goes: at no moment is the folder without either, and so taken for a stranger's.
        lines = [json.dumps(asked), *(resume.line(name, entry) for name, entry in self._entries.items())]
        self._disk.put(self.root / JOURNAL, ["".join(line + "\n" for line in lines).encode()])
        if MANIFEST in names:
            self._disk.discard(self.root / MANIFEST)
        for name in names:
            if is_offer(name) or (name.endswith(".tmp") and (is_data(name[:-4]) or name[:-4] in (MANIFEST, BUILD_LOG))):
                self._disk.discard(self.root / name)

    def _stored_manifest(self) -> Manifest | None:
        path = self.root / MANIFEST
        try:
            return Manifest.from_bytes(self._disk.head(path, _ANY_SIZE), str(path))
        except (CorruptPart, StaleParts):
            if not self._overwrite:
                raise
            return None

    def _verified(self, claimed: Mapping[str, tuple[int, str]]) -> dict[str, FileEntry]:
        return resume.verified(self._disk, self.root, claimed, {*required(self._roles, self._config.num_parts), IDS})

    # -- writing -----------------------------------------------------------------------------------------------------

    def has(self, part_id: int) -> bool:
        """Is this part (or block) on disk already, verified by its hash?"""
        with self._mutex:
            return file_name(part_id) in self._entries

    def write(self, part: Part) -> int:
        """Write one part or block, durably. Safe to call from several threads for different parts.

        Returns:
            Bytes of the file.

        Raises:
            HaspError: an attribute that the format cannot hold, a part that this build does not have, or the disk refuses.
        """
        name = file_name(part.part_id)
        if name not in required(self._roles, self._config.num_parts):
            raise HaspError(f"parts are numbered 0..{self._config.num_parts - 1}, got {part.part_id}; raise num_parts")
        nodes, edges = block_types(part.part_id, self._roles)
        if set(part.nodes) != set(nodes) or set(part.edges) != set(edges):
            got = [sorted(part.nodes), sorted(part.edges)]
            raise HaspError(f"{name} holds the types {[sorted(nodes), sorted(edges)]}, got {got}; add empty ones")
        attrs = [*(n.attrs for n in part.nodes.values()), *(e.attrs for e in part.edges.values())]
        for key in (key for names in attrs for key in names):
            if "/" in key or not key:
                raise HaspError(f"attribute names have no '/', got {key!r}; rename it")
        if part.part_id == CUT and any(e.pairs is None or e.ptr is None for e in part.edges.values()):
            raise HaspError("every edge type of the cut has pairs and ptr; give them, with 0 and 1 rows where it is empty")
        return self._save(name, part.to_tensors())

    def save_node_part(self, node_part: Mapping[str, Tensor]) -> None:
        """Write the part of every entity, int32 ``[n]`` per entity type; before the parts, which follow from it.

        Raises:
            StaleParts: the interrupted build that is continued here used other labels.
        """
        if set(node_part) != set(self._roles.entity):
            raise HaspError(f"node_part has labels of {self._roles.entity}, got {list(node_part)}; give each type once")
        stored = self.load_node_part()
        if stored is None:
            self._save(NODE_PART, {f"node_part/{t}": labels for t, labels in node_part.items()})
        elif not all(stored[t].equal(labels) for t, labels in node_part.items()):
            raise StaleParts(f"{self.root} holds an unfinished build with another node_part; {_REBUILD}")

    def load_node_part(self) -> dict[str, Tensor] | None:
        """What :meth:`save_node_part` wrote, before the interruption or now; ``None`` if nothing."""
        with self._mutex:
            known = self._entries if self.manifest is None else self.manifest.files
            if NODE_PART not in known:
                return None
        tensors = self._disk.map(self.root / NODE_PART)
        return {t: tensors[f"node_part/{t}"] for t in self._roles.entity}

    def save_ids(self, ids: Mapping[str, Any], names: Mapping[str, Any]) -> None:
        """Write the user's own ids and readable names, NumPy arrays ``[n]`` per node type, where there are any."""
        tensors = {**text.encode("ids", ids), **text.encode("names", names)}
        for node_type in {**ids, **names}:
            if node_type not in self._roles.nodes:
                raise HaspError(f"ids name the node type {node_type!r}, but the graph has {list(self._roles.nodes)}")
        if tensors:
            self._save(IDS, tensors)

    def adopt(self, offer: Offer) -> None:
        """Give a part that another process wrote (:func:`hasp.store.offer.offer`) its name.

        Raises:
            HaspError: the file is not there, or shorter than was said: the folder is not one that both processes see.
        """
        self._check_open()
        path = self.root / offer.name
        if offer.name not in self._disk.list(self.root) or self._disk.size(path) != offer.num_bytes:
            raise HaspError(
                f"workers write parts into a folder that all machines share, but {path} is not what a worker wrote there; "
                "build into a shared folder"
            )
        self._disk.publish(path, self.root / file_name(offer.part_id))
        self._note(file_name(offer.part_id), FileEntry(offer.num_bytes, offer.blake3, offer.tensors))

    def _check_open(self) -> None:
        if self.manifest is not None:
            raise HaspError(f"{self.root} holds this build, finished; {_REBUILD} to write again")
        if self._handle is None:
            raise HaspError("a Writer holds the folder's lock while it writes; use it in a with block")

    def _save(self, name: str, tensors: Mapping[str, Tensor]) -> int:
        self._check_open()
        shapes = specs(tensors)
        size, digest = self._disk.put(self.root / name, chunks(tensors))
        self._note(name, FileEntry(size, digest, shapes))
        return size

    def _note(self, name: str, entry: FileEntry) -> None:
        """Write down that a file is durable."""
        with self._mutex:
            self._disk.append(self.root / JOURNAL, (resume.line(name, entry) + "\n").encode())
            self._entries[name] = entry

    def finish(
        self,
        *,
        num_nodes: Mapping[str, int],
        num_edges: Mapping[EdgeType, int],
        node_attrs: Mapping[str, Mapping[str, Spec]],
        edge_attrs: Mapping[EdgeType, Mapping[str, Spec]],
        report: Mapping[str, Any],
        build_log: Mapping[str, Any],
    ) -> Manifest:
        """Write the manifest, which makes the build exist, and remove the journal.

        Args:
            num_nodes: nodes per node type of the whole graph.
            num_edges: edges per edge type of the whole graph.
            node_attrs: per node type, attribute -> dtype and trailing shape.
            edge_attrs: per edge type, attribute -> dtype and trailing shape.
            report: JSON that depends on the input and the settings only.
            build_log: JSON of what was measured; goes to ``build.json``, which no hash covers.

        Raises:
            HaspError: a file is missing, or the numbers contradict what was written.
        """
        missing = sorted(set(required(self._roles, self._config.num_parts)) - set(self._entries))
        if missing:
            raise HaspError(f"a build has all its files before it is finished, but {missing[:3]} are missing; write them first")
        from hasp import __version__

        manifest = Manifest(
            format_version=FORMAT_VERSION,
            library=__version__,
            fingerprint=self._fingerprint,
            config=self._config.to_json(),
            roles=self._roles,
            num_nodes={t: int(num_nodes[t]) for t in self._roles.nodes},
            num_edges={e: int(num_edges[e]) for e in self._roles.edges},
            node_attrs=node_attrs,
            edge_attrs=edge_attrs,
            files=self._entries,
            report=report,
        )
        data = manifest.to_bytes()
        manifest = Manifest.from_bytes(data, str(self.root / MANIFEST))  # what no reader would take is not written
        for name in self._disk.list(self.root):  # of a larger build that this one replaces
            if is_offer(name) or (is_data(name) and name not in self._entries):
                self._disk.discard(self.root / name)
        self._disk.put(self.root / BUILD_LOG, [json.dumps(dict(build_log), indent=1).encode() + b"\n"])
        self._disk.put(self.root / MANIFEST, [data])
        self._disk.discard(self.root / JOURNAL)
        self.manifest = manifest
        return manifest


def _header_of(manifest: Manifest) -> dict[str, Any]:
    return resume.header(manifest.format_version, manifest.fingerprint, manifest.config, manifest.roles)
