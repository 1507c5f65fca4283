"""The catalogue layout, on a catalogue of four titles and on the real ones."""

import csv
import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hasp.errors import InvalidGraph
from hasp.graph import HaspWarning
from hasp.sources import open_source
from hasp.sources.catalogue import read_catalogue

EEL = ("title", "co_engaged", "title")
FILES = {
    "entities.csv": "id,title,year,note\n10,Ten,2001,p\n5,Five,1999,q\n7,Seven,1998,r\n1,One,,s\n",
    "concepts.csv": "id,category,name\n100,genre,Drama\n7,era,1990s\n101,genre,Crime\n",
    "entity_concept.csv": "entity,concept,weight\n5,101,0.5\n10,100,1.5\n7,7,2.5\n5,100,3.5\n",
    "co_engaged.csv": "a,b,count\n10,5,3\n7,1,4\n",
}


def lay(folder: Path, **changes: str | None) -> Path:
    for name, text in {**FILES, **{f"{key}.csv": value for key, value in changes.items()}}.items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


def test_types_ids_names_and_both_directions(tmp_path: Path) -> None:
    graph = read_catalogue(lay(tmp_path))
    graph.check()
    assert graph.num_nodes == {"title": 4, "era": 1, "genre": 2}
    assert list(graph.edges) == [("title", "has_era", "era"), ("title", "has_genre", "genre"), EEL]
    assert graph.ids["title"].tolist() == [10, 5, 7, 1] and graph.names["title"].tolist() == ["Ten", "Five", "Seven", "One"]
    assert graph.ids["genre"].tolist() == [100, 101] and graph.names["genre"].tolist() == ["Drama", "Crime"]
    assert [e.tolist() for e in graph.edges["title", "has_genre", "genre"]] == [[1, 0, 1], [1, 0, 0]]
    assert graph.edge_attrs["title", "has_genre", "genre"]["weight"].tolist() == [0.5, 1.5, 3.5]
    assert [e.tolist() for e in graph.edges[EEL]] == [[0, 2, 1, 3], [1, 3, 0, 2]]
    assert graph.edge_attrs[EEL]["count"].tolist() == [3, 4, 3, 4]
    assert graph.node_attrs["title"] == {}


def test_options(tmp_path: Path) -> None:
    graph = read_catalogue(lay(tmp_path, co_engaged=None), exclude_categories=["genre"], entity="film", keep=["year"])
    assert graph.num_nodes == {"film": 4, "era": 1} and list(graph.edges) == [("film", "has_era", "era")]
    assert graph.node_attrs["film"]["year"].tolist()[:3] == [2001, 1999, 1998]
    assert set(open_source(tmp_path, exclude=["era"], reverse=True).edges) == {
        ("title", "has_genre", "genre"),
        ("genre", "rev_has_genre", "title"),
    }


def test_copies_of_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    lay(tmp_path, co_engaged="a,b\n10,5\n5,10\n7,1\n10,5\n1,1\n")
    with pytest.warns(HaspWarning, match="2 of 5 are copies"):
        graph = read_catalogue(tmp_path)
    assert [e.tolist() for e in graph.edges[EEL]] == [[0, 2, 3, 1, 3], [1, 3, 3, 0, 2]]


@pytest.mark.parametrize(
    ("changes", "exclude", "message"),
    [
        ({"entity_concept": None}, (), r"has the table 'entity_concept' \(entity_concept.parquet or"),
        ({"concepts": "id,name\n1,a\n"}, (), r"has a column 'category', got \['id', 'name'\]"),
        ({"concepts": "id,category,name\n1,title,a\n"}, (), "without '__', other than 'title', got 'title'"),
        ({"concepts": "id,category,name\n1,a__b,a\n"}, (), "without '__', other than 'title', got 'a__b'"),
        ({"concepts": "id,category,name\n1,x,a\n1,y,b\n"}, (), "'concept' has its own id, got 1 in rows 0 and 1"),
        ({"co_engaged": "a,b\n10,6\n"}, (), r"co_engaged.csv, column 'b': .* 1 of 1 do not \(row 0: 6\)"),
        ({"entity_concept": "entity,concept\n10,1\n"}, (), r"entity_concept.csv, column 'concept': .*\(row 0: 1\)"),
        ({}, ("author",), r"category 'author' to leave out is not among \['era', 'genre'\]"),
    ],
)
def test_what_broken_catalogues_get(tmp_path: Path, changes, exclude, message: str) -> None:
    with pytest.raises(InvalidGraph, match=message):
        read_catalogue(lay(tmp_path, **changes), exclude)


def rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    ("name", "entities", "concepts", "categories", "links", "pairs"),
    [("books", 10_000, 2_674, 9, 73_919, 16_119), ("movies", 86_537, 23_252, 12, 575_879, 46_248)],
)
def test_real_catalogues(request, name, entities, concepts, categories, links, pairs) -> None:
    folder = request.getfixturevalue(name)
    graph = open_source(folder)
    graph.check()
    kinds = [t for t in graph.num_nodes if t != "title"]
    assert graph.num_nodes["title"] == entities and len(kinds) == categories
    assert sum(graph.num_nodes[t] for t in kinds) == concepts
    assert sum(graph.num_edges(e) for e in graph.edges if e != EEL) == links
    assert graph.num_edges(EEL) == 2 * pairs
    # A naive recount, by the publisher's own ids.
    category = {row["id"]: row["category"] for row in rows(folder / "concepts.csv.gz")}
    expected = Counter((row["entity"], row["concept"]) for row in rows(folder / "entity_concept.csv.gz"))
    found: Counter[tuple[str, str]] = Counter()
    for edge_type, (source, concept) in graph.edges.items():
        if edge_type != EEL:
            ends = graph.ids["title"][source.numpy()].astype(str), graph.ids[edge_type[2]][concept.numpy()].astype(str)
            found.update(zip(*(e.tolist() for e in ends), strict=True))
            assert {category[c] for c in np.unique(ends[1]).tolist()} == {edge_type[2]}
    assert found == expected
