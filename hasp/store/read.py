"""FolderStore: a finished build on disk, from which a loader reads parts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, Literal, cast

import numpy.typing as npt
from torch import Tensor

from hasp.errors import CorruptPart, HaspError, StaleParts
from hasp.memory import available_bytes
from hasp.part import CUT, SAMPLED, SHARED, Part
from hasp.store import ids as text
from hasp.store.disk import Disk, Progress, failing
from hasp.store.framing import MAX_HEADER, Spec, header, parse_header, parse_json
from hasp.store.layout import BUILD_LOG, IDS, JOURNAL, MANIFEST, NODE_PART, block_types, check_part_id, file_name, tensor_order
from hasp.store.manifest import Manifest

__all__ = ["FolderStore", "Verify"]

Verify = Literal["size", "first", "always"]

_ANY_SIZE = 1 << 40
_RESTORE = "restore the file, or run the same build again, which makes it anew"


class FolderStore:
    """A finished build in a folder, memory-mapped: a part costs memory only where it is touched.

    Use :meth:`open`. Pickling carries the path and the identity of the build, so that worker processes open it again.

    Attributes:
        root: the folder, absolute.
        manifest: what it says about itself.
        verify: when files are hashed.
    """

    def __init__(self, root: str | Path, verify: str = "first", disk: Disk | None = None) -> None:
        if verify not in ("size", "first", "always"):
            raise HaspError(f"verify={verify!r}: 'size', 'first' or 'always'; 'first' hashes each file once per process")
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links and change the user's path
        self.verify = cast(Verify, verify)
        self._disk = disk or Disk()
        self._blocks: dict[int, Part] = {}
        self._hashed: set[str] = set()
        self._names_of: dict[int, tuple[list[str], list[str]]] = {}
        self._headers: dict[str, bytes | None] = {}
        self._data, self._identity = self._read_manifest()
        self.manifest = Manifest.from_bytes(self._data, str(self.root / MANIFEST))
        try:
            for name in self.manifest.files:
                self._check_size(name)
        finally:
            self._check_same_build()  # files of another size may be those of a rebuild that has just begun

    @classmethod
    def open(cls, root: str | Path, verify: str = "first", disk: Disk | None = None) -> FolderStore:
        """Open a finished build.

        Args:
            root: the folder.
            verify: ``"size"`` compares sizes only; ``"first"`` also hashes each file when this process first maps it;
                ``"always"`` at every mapping.
            disk: what does the I/O.

        Raises:
            HaspError: nothing was built here, or the build is unfinished.
            StaleParts: the format is newer than this library.
            CorruptPart: the manifest or a file is not what it should be.
        """
        return cls(root, verify, disk)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.root), self.verify, self._data)

    def __repr__(self) -> str:
        return f"FolderStore({str(self.root)!r}, verify={self.verify!r}, {self.manifest.num_parts} parts)"

    # -- the interface of a store ------------------------------------------------------------------------------------

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return self.manifest.num_parts

    def part(self, part_id: int) -> Part:
        """Map one part.

        Raises:
            HaspError: there is no such part.
            CorruptPart: its file is not what the manifest says.
            StaleParts: the folder was rebuilt since it was opened.
        """
        check_part_id(part_id, self.num_parts)
        return self._block(part_id)

    def read_ahead(self, part_ids: Iterable[int]) -> None:
        """Have the system read parts that will be asked for soon; returns at once. A wish, so that nothing of it can fail."""
        cold = []
        for part_id in part_ids:
            path = self.root / file_name(part_id)
            with contextlib.suppress(OSError):
                if hasattr(os, "posix_fadvise") and not self._disk.resident(path):
                    cold.append(path)
        if cold:
            # A thread of its own: a large file fills the device's queue, and the call then waits for room in it.
            Thread(target=self._wish, args=(cold,), daemon=True, name="hasp-read-ahead").start()

    def _wish(self, paths: Sequence[Path]) -> None:
        # No more than a quarter of the memory: what is read too early drives out what is in use.
        left = available_bytes() // 4 or _ANY_SIZE
        for path in paths:
            with contextlib.suppress(OSError):
                left -= self._disk.ahead(path, left)

    @property
    def shared(self) -> Part:
        """Semantic nodes and the edges among them."""
        return self._kept(SHARED)

    @property
    def sampled(self) -> Part:
        """Nodes of the sampled types and their edges without an entity end; empty if there are no such types."""
        return self._kept(SAMPLED) if self.manifest.roles.sampled else Part(SAMPLED, {}, {})

    @property
    def cut(self) -> Part:
        """The entity-entity edges between two parts."""
        return self._kept(CUT)

    def node_part(self) -> dict[str, Tensor]:
        """The part of every entity, int32 ``[n]`` per entity type."""
        tensors = self._map(NODE_PART)
        return {t: tensors[f"node_part/{t}"] for t in self.manifest.roles.entity}

    def ids(self, node_type: str) -> npt.NDArray[Any] | None:
        """The user's own ids of a type ``[n]``, or ``None``."""
        return self._text("ids", node_type)

    def names(self, node_type: str) -> npt.NDArray[Any] | None:
        """Readable names of a type ``[n]``, or ``None``."""
        return self._text("names", node_type)

    @property
    def build_log(self) -> dict[str, Any]:
        """What the build measured (seconds, memory); empty if it was not kept. No hash covers it."""
        if BUILD_LOG not in self._disk.list(self.root):
            return {}
        try:
            value = parse_json(self._disk.head(self.root / BUILD_LOG, _ANY_SIZE))
        except CorruptPart:
            value = {}  # informational: a damaged log is no reason to refuse good parts
        return value if isinstance(value, dict) else {}

    def check_files(self, progress: Progress | None = None) -> list[str]:
        """Hash every file again.

        Args:
            progress: called with a file name and the bytes of it that were just read.

        Returns:
            One line per problem, which names the file; empty if there is none.
        """
        problems = []
        for name in self.manifest.files:
            try:
                self._check_size(name)
                self._check_hash(name, progress)
                self._check_header(name)
            except HaspError as error:  # noqa: PERF203 - the next file is checked all the same
                problems.append(str(error))
        return problems

    # -- reading -----------------------------------------------------------------------------------------------------

    def _read_manifest(self) -> tuple[bytes, tuple[int, int, int]]:
        path, names = self.root / MANIFEST, self._disk.list(self.root)
        if MANIFEST not in names and JOURNAL in names:
            raise HaspError(f"the build in {self.root} is unfinished; run the same build again to resume it")
        if MANIFEST not in names:
            raise HaspError(f"there are no parts in {self.root} (no {MANIFEST}); build them first, or correct the path")
        try:
            self._disk.size(path)  # a regular file, and not outside the folder
            with failing("read", path):
                found = self._stat()
            return self._disk.head(path, _ANY_SIZE), found
        except HaspError:
            if MANIFEST in self._disk.list(self.root):
                raise
            raise StaleParts(f"{self.root} is being rebuilt; open it again when that is done") from None

    def _stat(self) -> tuple[int, int, int]:
        found = self._disk.stat(self.root / MANIFEST)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _check_same_build(self) -> None:
        """A rebuild under an open reader must not mix two builds: parts mapped before stay, new ones are refused."""
        try:
            if self._stat() == self._identity:
                return
            data, identity = self._read_manifest()
        except (OSError, HaspError):
            data, identity = b"", self._identity
        if data != self._data:
            raise StaleParts(f"{self.root} is being rebuilt, or was since it was opened; open it again")
        self._identity = identity  # only touched or copied

    def _check_size(self, name: str) -> None:
        size, expected = self._disk.size(self.root / name), self.manifest.files[name].bytes
        if size != expected:
            raise CorruptPart(f"{self.root / name} has {expected:,} bytes, found {size:,}; {_RESTORE}")

    def _check_hash(self, name: str, progress: Progress | None = None) -> None:
        found, expected = self._disk.hash(self.root / name, progress), self.manifest.files[name].blake3
        if found != expected:
            raise CorruptPart(f"{self.root / name} has the blake3 {expected}, found {found}; {_RESTORE}")
        self._hashed.add(name)

    def _check_header(self, name: str) -> tuple[Mapping[str, Spec] | None, int]:
        """Compare a file's header with the manifest.

        Returns:
            The tensors in the order of the file and where they start; ``None`` and 0 if another writer spelled the header.
        """
        path, entry = self.root / name, self.manifest.files[name]
        if name not in self._headers:
            # Our writer lists tensors as they lie in the file.
            spelled = header(entry.tensors)
            fills = len(spelled) + sum(spec.num_bytes for spec in entry.tensors.values()) == entry.bytes
            self._headers[name] = spelled if fills else None
        expected = self._headers[name]
        if expected is not None and self._disk.head(path, len(expected)) == expected:
            return entry.tensors, len(expected)
        length = int.from_bytes(self._disk.head(path, 8), "little")
        try:
            found = parse_header(self._disk.head(path, 8 + min(length, MAX_HEADER)), entry.bytes)
        except CorruptPart as error:
            raise CorruptPart(f"{path}: {error}; {_RESTORE}") from error
        if found != dict(entry.tensors):
            odd = sorted(k for k in {*found, *entry.tensors} if found.get(k) != entry.tensors.get(k))
            raise CorruptPart(f"{path} holds the tensors of the manifest, but {odd[:3]} differ; {_RESTORE}")
        return None, 0

    def _map(self, name: str) -> dict[str, Tensor]:
        self._check_same_build()
        try:
            self._check_size(name)
            if self.verify == "always" or (self.verify == "first" and name not in self._hashed):
                self._check_hash(name)
            return self._disk.map(self.root / name, *self._check_header(name))
        finally:
            # A rebuild removes the manifest before it touches a file. If one began while we looked, what was mapped may be a
            # new file, and what seemed damage may be none.
            self._check_same_build()

    def _kept(self, block: int) -> Part:
        if block not in self._blocks or self.verify == "always":
            self._blocks[block] = self._block(block)
        return self._blocks[block]

    def _block(self, block: int) -> Part:
        m, tensors = self.manifest, self._map(file_name(block))
        kind = min(block, 0)  # all parts have the same names
        if kind not in self._names_of:
            self._names_of[kind] = tensor_order(block, m.roles, m.node_attrs, m.edge_attrs), block_types(block, m.roles)[0]
        names, nodes = self._names_of[kind]
        # In the order of the source graph: the file itself orders tensors by element size.
        ordered = {name: tensors[name] for name in names}
        return Part.from_tensors(block, ordered, {t: m.num_nodes[t] for t in nodes})

    def _text(self, kind: str, node_type: str) -> npt.NDArray[Any] | None:
        if IDS not in self.manifest.files:
            return None
        found = text.decode(kind, node_type, self._map(IDS))
        expected = self.manifest.num_nodes.get(node_type)
        if found is not None and len(found) != expected:
            raise CorruptPart(f"{kind} of {node_type!r} are one per node ({expected}), got {len(found)}; {_RESTORE}")
        return found


def _reopen(root: str, verify: str, data: bytes) -> FolderStore:
    store = FolderStore.open(root, verify)
    if store._data != data:
        raise StaleParts(f"{root} was rebuilt since it was opened; open it again")
    return store
