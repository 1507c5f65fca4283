"""KGEmbedding: pretrained vectors with the score they were trained for, their export, and filtered ranking."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from blake3 import blake3
from torch import Tensor

from hasp import __version__
from hasp.errors import CorruptPart, HaspError
from hasp.schema import EdgeType, edge_name, parse_edge_name
from hasp.store.disk import Disk
from hasp.store.framing import chunks
from hasp_models.files import read_json, write_json
from hasp_models.triples import Triples, batches

__all__ = ["KGEmbedding", "KGMethod", "Ranking", "filtered_ranking"]

KGMethod = Literal["transe", "distmult", "complex", "rotate"]
_META, _VERSION = "kg.json", 2
_NAME = re.compile(r"kg-[0-9a-f]{16}\.safetensors")


@dataclass(frozen=True)
class KGEmbedding:
    """Vectors of nodes and relations.

    Attributes:
        method: which score: ``transe`` is ``-||h + r - t||_p``, ``distmult`` ``<h, r, t>``, ``complex`` the real part of
            ``<h, r, conj t>``, ``rotate`` ``-||h * e^{ir} - t||_2``. Complex vectors stand as ``[real | imaginary]``.
        nodes: float32 ``[n, d]`` over all types, as they are scored (of TransE: rows of length 1).
        relations: float32 ``[R, d]`` (of ``rotate``: phases).
        offsets: node type -> ``(first, last + 1)``.
        relation_types: the edge type of each relation.
        p: the norm of TransE.
        inputs: what it was made of (see :mod:`hasp_models.origin`).
    """

    method: KGMethod
    nodes: Tensor
    relations: Tensor
    offsets: Mapping[str, tuple[int, int]]
    relation_types: Sequence[EdgeType]
    p: int = 2
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def features(self, node_type: str, *, rms: bool = False) -> Tensor:
        """The vectors of one type, float32 ``[N, d]``.

        Args:
            node_type: a type with semantic edges.
            rms: rescale all types by one number, so that the root mean square of the values is 1, the scale that layers expect.
        """
        if node_type not in self.offsets:
            raise HaspError(f"the embedding has the node types {list(self.offsets)}, got {node_type!r}; correct the name")
        first, last = self.offsets[node_type]
        scale = 1.0 / float(self.nodes.double().pow(2).mean().sqrt().clamp_min(1e-12)) if rms else 1.0
        return self.nodes[first:last] * scale

    def relation(self, edge_type: EdgeType) -> Tensor:
        """The vector of one relation, float32 ``[d]``."""
        if edge_type not in self.relation_types:
            raise HaspError(f"the embedding has the relations {list(self.relation_types)}, got {edge_type}; correct the name")
        return self.relations[list(self.relation_types).index(edge_type)]

    def score(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        """Plausibility of facts, float64 ``[B]``; higher is more plausible."""
        return self._against(self._tail_query(head, relation), self.nodes[tail].double().unsqueeze(1))[:, 0]

    def tail_scores(self, head: Tensor, relation: Tensor) -> Tensor:
        """Scores of every node as the tail, float32 ``[B, n]``."""
        return self._against(self._tail_query(head, relation), self.nodes.double()).float()

    def head_scores(self, relation: Tensor, tail: Tensor) -> Tensor:
        """Scores of every node as the head, float32 ``[B, n]``."""
        return self._against(self._head_query(relation, tail), self.nodes.double()).float()

    def save(self, folder: str | Path, disk: Disk | None = None) -> None:
        """Write into a folder, which is made if need be: the vectors, and then ``kg.json``, which names them and their hash.

        Whatever is interrupted, the folder holds the older vectors or the newer ones, whole.

        Raises:
            HaspError: the system refused an operation.
        """
        folder, disk = Path(folder), disk or Disk()
        data = b"".join(bytes(c) for c in chunks({"nodes": self.nodes.contiguous(), "relations": self.relations.contiguous()}))
        name = f"kg-{blake3(data).hexdigest()[:16]}.safetensors"
        disk.make_folder(folder)
        size, digest = disk.put(folder / name, [data])
        meta = {
            "format_version": _VERSION,
            "library": __version__,
            "inputs": {role: dict(value) for role, value in self.inputs.items()},
            "method": self.method,
            "p": self.p,
            "file": {"name": name, "bytes": size, "blake3": digest},
            "offsets": {t: list(span) for t, span in self.offsets.items()},
            "relations": [edge_name(e) for e in self.relation_types],
        }
        write_json(folder / _META, meta, disk)
        for other in disk.list(folder):
            if _NAME.fullmatch(other) and other != name:
                disk.discard(folder / other)

    @classmethod
    def load(cls, folder: str | Path, disk: Disk | None = None) -> KGEmbedding:
        """Read what :meth:`save` wrote.

        Raises:
            HaspError: nothing finished is there, or it is of another version.
            CorruptPart: a file is not what was written.
        """
        folder, disk = Path(folder), disk or Disk()
        if _META not in disk.list(folder):
            raise HaspError(f"{folder} holds no finished vectors ({_META} is missing); run `hasp-models pretrain` into it")
        meta = read_json(folder / _META, disk)
        if meta.get("format_version") != _VERSION:
            raise HaspError(
                f"{folder}: format_version {_VERSION} is read here, got {meta.get('format_version')}; pretrain again"
            )
        try:
            name, size, digest = (meta["file"][key] for key in ("name", "bytes", "blake3"))
            offsets = {str(t): (int(a), int(b)) for t, (a, b) in meta["offsets"].items()}
            types = [parse_edge_name(r) for r in meta["relations"]]
            method, p = meta["method"], int(meta["p"])
            inputs = {str(role): dict(value) for role, value in meta.get("inputs", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptPart(f"{folder / _META} is not what was written ({error}); pretrain again") from error
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise CorruptPart(f"{folder / _META} names the file {name!r}, which is none of its own; pretrain again")
        path = folder / name
        if disk.size(path) != size or disk.hash(path) != digest:
            raise CorruptPart(f"{path} is not the file that was written; pretrain again")
        tensors = disk.map(path)
        return cls(method, tensors["nodes"].clone(), tensors["relations"].clone(), offsets, types, p, inputs)

    def _against(self, query: Tensor, nodes: Tensor) -> Tensor:
        """Queries ``[B, d]`` against nodes ``[n, d]`` or, one each, ``[B, 1, d]``."""
        query = query.unsqueeze(1)
        if self.method in ("distmult", "complex"):
            return (query @ nodes.transpose(-1, -2)).squeeze(1)
        mode = "donot_use_mm_for_euclid_dist"  # the product form loses the digits that tell near ties apart
        nodes = nodes if nodes.dim() == 3 else nodes.unsqueeze(0)
        if nodes.size(0) == 1:
            return -torch.cdist(query[:, 0], nodes[0], p=float(self.p), compute_mode=mode)
        return -torch.cdist(query, nodes, p=float(self.p), compute_mode=mode).squeeze(1)

    def _tail_query(self, head: Tensor, relation: Tensor) -> Tensor:
        h, r = self.nodes[head].double(), self.relations[relation].double()
        if self.method == "transe":
            return h + r
        if self.method == "distmult":
            return h * r
        return _times(h, torch.cat([r.cos(), r.sin()], 1) if self.method == "rotate" else r)

    def _head_query(self, relation: Tensor, tail: Tensor) -> Tensor:
        t, r = self.nodes[tail].double(), self.relations[relation].double()
        if self.method == "transe":
            return t - r
        if self.method == "distmult":
            return t * r
        # Rotations keep lengths, and <h, r, conj t> = <h, conj(conj(r) t)>: both multiply the tail by conj(r).
        r = torch.cat([r.cos(), r.sin()], 1) if self.method == "rotate" else r
        return _times(t, _conjugate(r))


@dataclass(frozen=True)
class Ranking:
    """Ranks of held-out facts, filtered, ties at their mean rank.

    Attributes:
        head, tail: float64 ``[T]``, rank of the true head and of the true tail, from 1.
    """

    head: npt.NDArray[np.float64]
    tail: npt.NDArray[np.float64]

    @property
    def ranks(self) -> npt.NDArray[np.float64]:
        """Both sides, float64 ``[2 T]``."""
        return np.concatenate([self.head, self.tail])

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank."""
        return float((1.0 / self.ranks).mean())

    @property
    def mean_rank(self) -> float:
        """Mean rank."""
        return float(self.ranks.mean())

    def hits(self, k: int) -> float:
        """``hits@k``: share of ranks up to k."""
        return float((self.ranks <= k).mean())

    def to_json(self) -> dict[str, float]:
        """The usual five numbers."""
        return {"mrr": self.mrr, "mean_rank": self.mean_rank, **{f"hits@{k}": self.hits(k) for k in (1, 3, 10)}}


def filtered_ranking(
    embedding: KGEmbedding,
    facts: Triples,
    *known: Triples,
    candidates: Literal["pool", "type"] = "pool",
    batch_size: int = 256,
) -> Ranking:
    """Rank the true head and the true tail of each fact among all nodes, other known answers left out.

    Args:
        embedding: what scores.
        facts: to be ranked.
        known: further facts (training, validation) that are no wrong answers; ``facts`` themselves always count as known.
        candidates: ``pool``: every node; ``type``: nodes of the right type, the harder and the more telling question.
        batch_size: facts scored at a time. Never changes the result.

    Returns:
        ranks ``1 + greater + equal / 2`` over the candidates that remain ("realistic").
    """
    if not len(facts):
        raise HaspError("a ranking needs at least one held-out fact, got none; hold some out")
    heads, tails = facts.ranges()
    everything = [facts, *known]
    sides: tuple[tuple[Tensor, Tensor, Tensor, Callable[[Tensor, Tensor], Tensor], list[tuple[Tensor, Tensor]]], ...] = (
        (facts.head, facts.tail, heads, lambda f, r: embedding.head_scores(r, f), [(k.head, k.tail) for k in everything]),
        (facts.tail, facts.head, tails, embedding.tail_scores, [(k.tail, k.head) for k in everything]),
    )
    ranks = []
    for wanted, fixed, ranges, score, others in sides:
        # Answers that are known, grouped by (relation, fixed end).
        keys = [k.relation * k.num_nodes + o[1] for k, o in zip(everything, others, strict=True)]
        group, answer = torch.cat(keys), torch.cat([o[0] for o in others])
        order = torch.argsort(group, stable=True)
        group, answer = group[order], answer[order]
        found = []
        for rows in batches(torch.arange(len(facts)), batch_size):
            scores = score(fixed[rows], facts.relation[rows])
            true = scores.gather(1, wanted[rows, None])
            key = facts.relation[rows] * facts.num_nodes + fixed[rows]
            first = torch.searchsorted(group, key)
            count = torch.searchsorted(group, key, right=True) - first
            row = torch.repeat_interleave(torch.arange(rows.numel()), count)
            step = torch.arange(row.numel()) - torch.repeat_interleave(count.cumsum(0) - count, count)
            scores[row, answer[first[row] + step]] = -torch.inf
            if candidates == "type":
                span, node = ranges[facts.relation[rows]], torch.arange(facts.num_nodes)
                scores[(node < span[:, :1]) | (node >= span[:, 1:])] = -torch.inf
            found.append(1.0 + (scores > true).sum(1).double() + (scores == true).sum(1).double() / 2)
        ranks.append(torch.cat(found).numpy())
    return Ranking(*ranks)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """Complex product of rows ``[real | imaginary]``."""
    (ar, ai), (br, bi) = a.chunk(2, dim=1), b.chunk(2, dim=1)
    return torch.cat([ar * br - ai * bi, ar * bi + ai * br], dim=1)


def _conjugate(a: Tensor) -> Tensor:
    real, imaginary = a.chunk(2, dim=1)
    return torch.cat([real, -imaginary], dim=1)
