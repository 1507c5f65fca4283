"""A catalogue read a block of rows at a time into files is the one that is read into memory; pairs beside naive twins."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hasp.errors import InvalidGraph
from hasp.scratch import MEMORY, Scratch
from hasp.sources import columns, pairs, spool, stream
from hasp.sources.catalogue import read_catalogue


@pytest.fixture
def tiny(monkeypatch):
    """Blocks of a few rows, and files for arrays of any size."""
    monkeypatch.setattr(columns, "_BLOCK", 5)
    for module in (spool, stream, pairs):
        monkeypatch.setattr(module, "_ROWS", 12)
    monkeypatch.setattr(pairs, "_SORTED", 9)
    monkeypatch.setattr("hasp.scratch._LEAST", 1)


ends = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)


@pytest.mark.usefixtures("tiny")
@given(ends)
@settings(max_examples=60, deadline=None)
def test_pairs_stand_once_and_in_both_directions(tmp_path_factory, given_pairs):
    a, b = (torch.tensor([p[side] for p in given_pairs], dtype=torch.int64) for side in (0, 1))
    weight = torch.arange(a.numel(), dtype=torch.float32).view(-1, 1)
    for scratch in (MEMORY, Scratch(tmp_path_factory.mktemp("pairs"))):
        seen, want = set(), []
        for pair in given_pairs:
            want.append(frozenset(pair) not in seen)
            seen.add(frozenset(pair))
        first, count = pairs.distinct(a, b, scratch)
        assert first.tolist() == want and count == sum(want)
        ((one, two, own),) = pairs.parted([a, b, weight], ~first, [count], scratch)
        kept = [pair for pair, is_first in zip(given_pairs, want, strict=True) if is_first]
        assert list(zip(one.tolist(), two.tolist(), strict=True)) == kept
        source, destination, (value,) = pairs.doubled(one, two, [own], scratch)
        both = [*kept, *((y, x) for x, y in kept if x != y)]
        assert list(zip(source.tolist(), destination.tolist(), strict=True)) == both
        of = dict(zip(kept, own.view(-1).tolist(), strict=True))
        assert value.view(-1).tolist() == [of.get(p, of.get((p[1], p[0]))) for p in both]


def catalogue(folder, seed, format):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    names = [f"m{v * 7919}" for v in range(30)] if seed % 2 else rng.permutation(90)[:30].tolist()
    concepts = (rng.permutation(50)[:20] + 1000).tolist()
    links, links_of = rng.integers(0, 30, 80), rng.integers(0, 20, 80)
    one, two = rng.integers(0, 30, 70), rng.integers(0, 30, 70)
    tables = {
        "entities": {"id": names, "title": [f"title {i}" for i in range(30)]},
        "concepts": {"id": concepts, "category": [f"kind{i % 3}" for i in range(20)], "name": [f"c{i}" for i in range(20)]},
        "entity_concept": {
            "entity": [names[i] for i in links],
            "concept": [concepts[i] for i in links_of],
            "weight": (links / 4).tolist(),
        },
        "co_engaged": {"a": [names[i] for i in one], "b": [names[i] for i in two], "count": one.tolist()},
    }
    for name, cells in tables.items():
        if format == "parquet":
            pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            pq.write_table(pa.table(cells), folder / f"{name}.parquet", row_group_size=7)
        else:
            rows = [",".join(cells), *(",".join(map(str, row)) for row in zip(*cells.values(), strict=True))]
            (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.usefixtures("tiny")
@pytest.mark.filterwarnings("ignore:.*each pair stands once")
@pytest.mark.parametrize("format", ["csv", "parquet"])
@pytest.mark.parametrize("seed", range(4))
def test_a_catalogue_in_files_is_the_one_in_memory(tmp_path, seed, format):
    folder = catalogue(tmp_path / "shop", seed, format)
    scratch = Scratch(tmp_path)
    plain = read_catalogue(folder, ["kind1"], scratch=MEMORY)
    filed = read_catalogue(folder, ["kind1"], scratch=scratch)
    filed.check()
    assert plain.fingerprint() == filed.fingerprint() and list(plain.edges) == list(filed.edges)
    assert set(plain.num_nodes) == {"title", "kind0", "kind2"}
    assert scratch.num_bytes > sum(end.nbytes for ends in filed.edges.values() for end in ends)
    for node_type in plain.num_nodes:
        assert (plain.ids[node_type] == filed.ids[node_type]).all()
        assert (plain.names[node_type] == filed.names[node_type]).all()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    "name, row, match",
    [
        ("entity_concept", "nobody,1000,1\n", r"entity_concept\.csv, column 'entity'.* 1 of 81 do not \(row 80: 'nobody'\)"),
        ("co_engaged", "1,2\n", r"co_engaged\.csv, line 72: every row has 3 cells, got 2"),
        ("entity_concept", ",1000,1\n", r"entity_concept\.csv: every row has an id in column 'entity', got none in row 80"),
    ],
)
def test_a_broken_table_of_a_catalogue_is_named_with_its_row(tmp_path, name, row, match):
    folder = catalogue(tmp_path / "shop", 1, "csv")
    with (folder / f"{name}.csv").open("a") as file:
        file.write(row)
    for scratch in (MEMORY, Scratch(tmp_path)):
        with pytest.raises(InvalidGraph, match=match):
            read_catalogue(folder, scratch=scratch)
