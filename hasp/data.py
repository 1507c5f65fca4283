"""HASPData: a graph in parts. Builds them, or opens parts that were built before."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from hasp.config import BuildConfig, folder, parse_bytes, switch, whole
from hasp.errors import HaspError
from hasp.graph import Graph, HaspWarning
from hasp.parallel import writers
from hasp.part import Part
from hasp.report import Report
from hasp.schema import EdgeType, Roles, Schema
from hasp.store.manifest import Manifest
from hasp.store.memory import MemoryStore
from hasp.store.read import FolderStore
from hasp.text import format_bytes

__all__ = ["HASPData"]


class HASPData:
    """One heterogeneous graph, cut into parts (HASP, section 5.2 of the SemanticGNN paper).

    ``HASPData(data, schema, num_parts=64, root="parts/")`` builds; ``HASPData.open("parts/")`` opens what was built. Both
    give a sequence of parts: ``len(parts)``, ``parts[3]`` (a ``HeteroData``), and what :class:`hasp.HASPLoader` reads.

    Args:
        data: a ``torch_geometric.data.HeteroData`` or a :class:`hasp.Graph`; read without copying, never homogenised.
        schema: the roles of its types; ``None`` infers all of them. What was inferred is in :attr:`roles`.
        num_parts: number of parts; leave it out to have it chosen from a budget (:func:`hasp.plan.plan`).
        max_part_bytes: the most bytes a loaded part may take (``"2GB"``); the smallest sufficient ``num_parts`` is chosen.
        gpu_memory: memory of one GPU (``"40GB"``) that a training step must fit into; likewise.
        probe: measured cost of a training step of your model (:func:`hasp.probe.probe`), which makes ``gpu_memory`` exact.
        seed: equal seeds give equal bytes, at any number of threads and after any interruption.
        root: folder for the parts; ``None`` keeps them in memory. A finished build of the same graph and settings is opened
            instead of built again; an interrupted one is continued.
        balance: what the entities without links even out: ``"nodes"`` (the paper), ``"edges"`` or ``"bytes"``.
        imbalance: how much above the mean the partitioner may load a part.
        backend: ``"auto"``, METIS or ``multilevel`` by the size and the degrees of the graph (the plan, the report and the
            manifest say which), or a name in ``hasp.cut.BACKENDS``.
        weight: edge attribute of the EELs that the partitioner uses as edge weight.
        node_part: a partition made elsewhere: per entity type, one part per entity. Turns ``backend`` off.
        gpus: a ``num_parts`` chosen from a budget is a multiple of this.
        reverse: add reverse edge types first (:func:`hasp.sources.reverse.add_reverse`), as PyG's ``ToUndirected``.
        threads: threads of the build; 0: one per core. Never changes the result.
        overwrite: replace what ``root`` holds.
        out_of_core: keep arrays that are as long as the edges in nameless scratch files beside ``root``; the parts are the
            same. ``None``: where the plan says that memory would not do.
        log: write the inferred roles and the plan to the error stream before work starts.
        progress: a function of (stage, done, total) that is told of every step.

    Raises:
        HaspError: bad input or settings (see its subclasses); nothing has been written then.

    Warns:
        HaspWarning: NaN in an attribute, or a part above ``max_part_bytes`` (sizes are predicted from means).
    """

    def __init__(
        self,
        data: Any,
        schema: Schema | None = None,
        *,
        num_parts: int | None = None,
        max_part_bytes: int | str | None = None,
        gpu_memory: int | str | None = None,
        probe: Any = None,
        seed: int = 0,
        root: str | Path | None = None,
        balance: str = "nodes",
        imbalance: float = 0.03,
        backend: str = "auto",
        weight: str = "",
        node_part: Mapping[str, Any] | None = None,
        gpus: int = 1,
        reverse: bool = False,
        threads: int = 0,
        overwrite: bool = False,
        out_of_core: bool | None = None,
        log: bool = True,
        progress: Any = None,
    ) -> None:
        # Imported here: opening parts must not compile anything (design, section 3).
        from hasp.build import build
        from hasp.plan import plan as make_plan

        # What needs no graph comes first: a large one takes a while to look at.
        backend = "given" if node_part is not None else backend
        how: dict[str, Any] = {"balance": balance, "imbalance": imbalance, "backend": backend, "weight": weight}
        config = BuildConfig(seed=seed, threads=threads, **how)
        reverse, overwrite = switch("reverse", reverse), switch("overwrite", overwrite)
        out_of_core = None if out_of_core is None else switch("out_of_core", out_of_core)
        root = None if root is None else folder("root", root)
        if not isinstance(schema, (Schema, type(None))):
            raise HaspError(f"schema is a hasp.Schema, or None to infer all roles, got {schema!r:.80}; make one of it")
        if progress is not None and not callable(progress):
            raise HaspError(f"progress is a function of (stage, done, total), got {progress!r:.80}; give one, or None")
        graph = data if isinstance(data, Graph) else Graph.from_hetero_data(data)
        if reverse:
            from hasp.sources.reverse import add_reverse

            graph = add_reverse(graph)
        roles = (schema or Schema()).resolve(graph.num_nodes, graph.edges)
        plan = make_plan(
            graph,
            roles,
            num_parts=num_parts,
            max_part_bytes=max_part_bytes,
            gpu_memory=gpu_memory,
            gpus=gpus,
            probe=probe,
            **how,
        )
        if root is None or out_of_core is not None:
            plan = dataclasses.replace(plan, out_of_core=bool(out_of_core) and root is not None)
        if log:
            sys.stderr.write((roles.explain() + "\n" if roles.inferred else "") + plan.explain() + "\n")
        plan.check(threads=writers(config.threads), root=root)
        config = dataclasses.replace(config, num_parts=plan.num_parts)
        self.store: FolderStore | MemoryStore = build(
            graph, roles, config, root=root, node_part=node_part, plan=plan, overwrite=overwrite, progress=progress
        )
        largest = max(self.report().loaded_bytes, default=0)
        if max_part_bytes is not None and largest > parse_bytes(max_part_bytes):
            more = plan.num_parts + max(gpus, plan.num_parts // 8)
            warnings.warn(
                f"the largest part takes {format_bytes(largest)} when loaded, above max_part_bytes={max_part_bytes}: "
                f"its entities have more links than most; build with num_parts={more}",
                HaspWarning,
                stacklevel=2,
            )

    @classmethod
    def open(cls, root: str | Path, verify: str = "first") -> HASPData:
        """Open a finished build.

        Args:
            root: the folder.
            verify: ``"size"`` compares file sizes only, ``"first"`` hashes each file when it is first read, ``"always"``
                at every read.

        Raises:
            HaspError: there is no finished build in ``root``.
            CorruptPart: a file is not what the manifest says.
            StaleParts: the format is newer than this library.
        """
        return cls.of(FolderStore.open(folder("root", root), verify=verify))

    @classmethod
    def of(cls, store: FolderStore | MemoryStore) -> HASPData:
        """Wrap a store that is open already."""
        self = object.__new__(cls)
        self.store = store
        return self

    @property
    def manifest(self) -> Manifest:
        """What the build recorded: roles, counts, settings, fingerprint, files."""
        return self.store.manifest

    @property
    def roles(self) -> Roles:
        """The role of every node and edge type."""
        return self.manifest.roles

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return int(self.manifest.config["num_parts"])

    @property
    def num_nodes(self) -> Mapping[str, int]:
        """Nodes per node type, in the whole graph."""
        return self.manifest.num_nodes

    @property
    def num_edges(self) -> Mapping[EdgeType, int]:
        """Edges per edge type, in the whole graph."""
        return self.manifest.num_edges

    @property
    def node_types(self) -> list[str]:
        """Node types, in the source's order."""
        return list(self.manifest.num_nodes)

    @property
    def edge_types(self) -> list[EdgeType]:
        """Edge types, in the source's order."""
        return list(self.manifest.num_edges)

    def metadata(self) -> tuple[list[str], list[EdgeType]]:
        """``(node_types, edge_types)``, as ``HeteroData.metadata()``: the same for every batch."""
        return self.node_types, self.edge_types

    def __len__(self) -> int:
        return self.num_parts

    def __getitem__(self, part_id: int) -> Any:
        """One part as a ``HeteroData``; sampled types as in epoch 0."""
        from hasp.load.merge import merge

        part_id = _one(part_id)
        if not -len(self) <= part_id < len(self):
            raise IndexError(f"parts are numbered 0..{len(self) - 1}, got {part_id}")
        return merge(self.store, [part_id % len(self)])

    def part(self, part_id: int) -> Part:
        """What one part owns, as stored."""
        return self.store.part(_one(part_id))

    def report(self) -> Report:
        """What the build did to the graph: cut, kept edges, balance, replication, bytes."""
        log = self.store.build_log
        return Report.from_json(self.manifest.report, measured=log or None)

    def node_part(self, node_type: str) -> Tensor:
        """The part of every entity of a type, int32 ``[n]``.

        Raises:
            HaspError: the type is not partitioned.
        """
        if node_type not in self.roles.entity:
            raise HaspError(
                f"node_part is known for the entity types {self.roles.entity}, got {node_type!r}; name one of these"
            )
        return self.store.node_part()[node_type]

    def scatter_back(self, node_type: str, per_part: Mapping[int, Tensor] | Sequence[Tensor]) -> Tensor:
        """Put rows that were computed part by part into the source's order, each entity once.

        Args:
            node_type: an entity type.
            per_part: part -> ``[m, ...]`` with ``m >=`` the entities the part owns; its first rows are theirs, in the order
                of the part's ``n_id`` (the order of every batch). A sequence is read as parts 0, 1, 2...

        Returns:
            ``[n, ...]``, dtype and device of the rows.

        Raises:
            HaspError: a part is missing, has too few rows, or rows of another shape or dtype.
        """
        labels = self.node_part(node_type)
        if not isinstance(per_part, (Mapping, Sequence)):
            raise HaspError(f"scatter_back takes the rows of every part, got {type(per_part).__name__}; give a list of tensors")
        given = dict(per_part) if isinstance(per_part, Mapping) else dict(enumerate(per_part))
        if (bad := next((v for v in given.values() if not isinstance(v, Tensor)), None)) is not None:
            raise HaspError(f"the rows of a part are a tensor, got {type(bad).__name__}; use torch.as_tensor")
        if sorted(given) != list(range(self.num_parts)):
            missing = sorted(set(range(self.num_parts)) - set(given))[:5]
            raise HaspError(
                f"scatter_back needs rows of all {self.num_parts} parts, got {len(given)} (missing {missing}); visit every part"
            )
        first = given[0]
        out = first.new_empty((labels.numel(), *first.shape[1:]))
        for part_id in range(self.num_parts):
            n_id = self.store.part(part_id).nodes[node_type].n_id
            rows = given[part_id]
            if n_id is None or rows.size(0) < n_id.numel() or rows.shape[1:] != first.shape[1:] or rows.dtype != first.dtype:
                own = 0 if n_id is None else n_id.numel()
                raise HaspError(
                    f"part {part_id} owns {own} of {node_type!r} and needs as many rows of shape {tuple(first.shape[1:])} and "
                    f"{first.dtype}, got {tuple(rows.shape)} {rows.dtype}; pass out[:batch[{node_type!r}].batch_size]"
                )
            out[n_id.long().to(out.device)] = rows[: n_id.numel()].to(out.device)
        return out

    def ids(self, node_type: str) -> npt.NDArray[Any]:
        """The user's own ids of a node type ``[n]``; ``0..n-1`` where the source has none."""
        if node_type not in self.num_nodes:
            raise HaspError(f"the node types are {self.node_types}, got {node_type!r}; name one of these")
        own = self.store.ids(node_type)
        return np.arange(self.num_nodes[node_type]) if own is None else own

    def names(self, node_type: str) -> npt.NDArray[Any] | None:
        """Readable names of a node type ``[n]``, or ``None``."""
        return self.store.names(node_type)

    def verify(self, source: Any = None, *, reverse: bool = False) -> list[str]:
        """Check every file and every invariant; see :func:`hasp.verify.verify`. An empty list: nothing is wrong.

        Args:
            source: the ``HeteroData`` or :class:`hasp.Graph` that the parts were made of; ``None``: check them by themselves.
            reverse: the parts were built with ``reverse=True``.
        """
        from hasp.verify import verify

        graph = source if source is None or isinstance(source, Graph) else Graph.from_hetero_data(source)
        if graph is not None and reverse:
            from hasp.sources.reverse import add_reverse

            graph = add_reverse(graph)
        return verify(self.store, graph)

    def __repr__(self) -> str:
        entities = sum(self.num_nodes[t] for t in self.roles.entity)
        where = getattr(self.store, "root", None)
        return f"HASPData({self.num_parts} parts, {entities:,} entities of {self.roles.entity}, {where or 'in memory'})"


def _one(part_id: Any) -> int:
    """A part's number; a slice or a list is the loader's business."""
    if isinstance(part_id, (slice, list, tuple)):
        raise HaspError(
            f"parts are read one by one, got {part_id!r:.80}; HASPLoader(parts)([0, 1]) merges several into one graph"
        )
    return whole("part", part_id)
