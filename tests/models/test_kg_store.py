"""Pretrained vectors on disk: whole or not at all, older or newer, and read from parts as from the source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from train_graphs import small_parts

from hasp.errors import CorruptPart, HaspError
from hasp.graph import Graph
from hasp.store.disk import Disk
from hasp_models.kg_embedding import KGEmbedding
from hasp_models.tasks import pretrain_concepts
from hasp_models.triples import Triples

HAS = ("title", "has", "genre")


def embedding(seed: int) -> KGEmbedding:
    generator = torch.Generator().manual_seed(seed)
    nodes, relations = (torch.randn(n, 4, generator=generator) for n in (7, 1))
    return KGEmbedding("transe", nodes, relations, {"title": (0, 5), "genre": (5, 7)}, [HAS], 1)


def same(a: KGEmbedding, b: KGEmbedding) -> bool:
    return torch.equal(a.nodes, b.nodes) and torch.equal(a.relations, b.relations)


class Refusing(Disk):
    """A full disk from the n-th operation on that changes something."""

    def __init__(self, operations: int) -> None:
        self.left = operations

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")

    def create(self, path: Path) -> int:
        self._count()
        return super().create(path)

    def write(self, handle: int, data: memoryview) -> int:
        self._count()
        return super().write(handle, data)

    def rename(self, source: Path, target: Path) -> None:
        self._count()
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._count()
        super().remove(path)


def test_interrupted_anywhere_the_older_or_the_newer_vectors_are_there(tmp_path: Path) -> None:
    old, new = embedding(0), embedding(1)
    kept = []
    for operations in range(20):
        folder = tmp_path / str(operations)
        old.save(folder)
        try:
            new.save(folder, Refusing(operations))
        except HaspError as error:
            assert "free space" in str(error)
            found = KGEmbedding.load(folder)
            kept.append(same(found, old))
            assert kept[-1] or same(found, new)
        else:
            break
    assert kept == sorted(kept, reverse=True) and True in kept and False in kept
    assert same(KGEmbedding.load(folder), new)
    assert len(list(folder.iterdir())) == 2  # the older file is gone


def test_first_vectors_that_were_interrupted_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HaspError, match="free space"):
        embedding(0).save(tmp_path, Refusing(3))  # after the vectors, before kg.json
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]
    with pytest.raises(HaspError, match="holds no finished vectors"):
        KGEmbedding.load(tmp_path)


def test_what_was_changed_is_refused(tmp_path: Path) -> None:
    embedding(0).save(tmp_path)
    (vectors,) = tmp_path.glob("*.safetensors")
    data, meta = vectors.read_bytes(), (tmp_path / "kg.json").read_text()
    for changed in (data[:-1], data[:-1] + b"\x01"):
        vectors.write_bytes(changed)
        with pytest.raises(CorruptPart, match="not the file that was written"):
            KGEmbedding.load(tmp_path)
    vectors.unlink()
    with pytest.raises(CorruptPart, match="is missing"):
        KGEmbedding.load(tmp_path)
    vectors.write_bytes(data)
    for key, value, text in (
        ("format_version", 1, "format_version 2 is read here, got 1"),
        ("file", {"name": "../kg-0123456789abcdef.safetensors", "bytes": 1, "blake3": ""}, "none of its own"),
        ("offsets", {"title": 3}, "not what was written"),
    ):
        (tmp_path / "kg.json").write_text(json.dumps({**json.loads(meta), key: value}))
        with pytest.raises(HaspError, match=text):
            KGEmbedding.load(tmp_path)
    (tmp_path / "kg.json").write_text(meta)
    assert same(KGEmbedding.load(tmp_path), embedding(0))


def test_facts_of_parts_are_those_of_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from a folder of parts (with reverse edge types) as from the graph that it was built from."""
    made: list[Graph] = []
    init = Graph.__init__

    def keep(self: Graph, *arguments: object, **options: object) -> None:
        init(self, *arguments, **options)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(Graph, "__init__", keep)
    small_parts(root=tmp_path / "parts")
    source, seen = Triples.from_graph(made[0]), []
    monkeypatch.setattr("hasp_models.tasks.pretrain", lambda triples, **_: seen.append(triples) or embedding(0))
    done = pretrain_concepts(str(tmp_path / "parts"), tmp_path / "kg", quiet=True)
    (facts,) = seen
    assert done["triples"] == len(facts) == len(source) and facts.relations == source.relations == [HAS]
    assert facts.offsets == source.offsets

    def rows(t: Triples) -> list[list[int]]:
        return sorted(torch.stack([t.head, t.relation, t.tail], 1).tolist())

    assert rows(facts) == rows(source)
