"""One door for every layout, and no door for a file that could run code."""

import pickle
from pathlib import Path

import pytest
import torch
from torch_geometric.data import HeteroData

from hasp.errors import HaspError, InvalidGraph
from hasp.sources import open_source
from hasp.sources.synthetic import generate
from hasp.sources.tables import write_tables


def hetero() -> HeteroData:
    data = HeteroData()
    data["title"].x = torch.rand(3, 2)
    data["genre"].num_nodes = 2
    data["title", "has", "genre"].edge_index = torch.tensor([[0, 2], [1, 0]])
    data["title", "has", "genre"].edge_attr = torch.rand(2, 1)
    return data


def test_a_spec_is_a_made_up_catalogue() -> None:
    assert open_source("synthetic:200").fingerprint() == generate(200, 0).graph.fingerprint()
    assert open_source("synthetic:2_00:7").fingerprint() == generate(200, 7).graph.fingerprint()
    assert open_source("synthetic:50", kind="synthetic").num_nodes["title"] == 50
    for spec in ("synthetic:", "synthetic:many", "synthetic:10:1:1", "synthetic:-5"):
        with pytest.raises(HaspError, match="is synthetic:<titles> or synthetic:<titles>:<seed>, got"):
            open_source(spec)


def test_tables_are_recognised_excluded_and_reversed(tmp_path: Path) -> None:
    write_tables(open_source("synthetic:60"), tmp_path)
    graph = open_source(tmp_path, exclude=["genre"], reverse=True)
    assert "genre" not in graph.num_nodes and "genre" not in graph.names
    assert ("decade", "rev_has_decade", "title") in graph.edges
    assert not any("genre" in (e[0], e[2]) for e in graph.edges)
    with pytest.raises(HaspError, match="exclude names the node type 'actor', but the graph has"):
        open_source(tmp_path, exclude=["actor"])


def test_a_saved_hetero_data(tmp_path: Path) -> None:
    data, path = hetero(), tmp_path / "graph.pt"
    torch.save(data, path)
    graph = open_source(path)
    assert torch.equal(graph.node_attrs["title"]["x"], data["title"].x)
    assert torch.equal(graph.edges["title", "has", "genre"][1], torch.tensor([1, 0]))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InvalidGraph, match=r"graph\.pt: not a whole file of torch.save"):
        open_source(path)


class Evil:
    """Creates a file when it is unpickled by a reader that trusts it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("how", ["torch", "pickle", "inside"])
def test_a_file_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, how: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "graph.pt"
    if how == "torch":
        torch.save(Evil(marker), path)
    elif how == "inside":
        data = hetero()
        data["title"].note = Evil(marker)
        torch.save(data, path)
    else:
        path.write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(InvalidGraph, match="holds something else, which is not loaded because it could run code") as error:
        open_source(path)
    assert not marker.exists() and "\n" not in str(error.value)


def test_a_saved_thing_that_is_no_graph(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(InvalidGraph, match="cuts a HeteroData, got dict"):
        open_source(tmp_path / "x.pt")


def test_what_is_not_a_source(tmp_path: Path) -> None:
    with pytest.raises(HaspError, match="does not exist; give a folder"):
        open_source(tmp_path / "none")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(HaspError, match=r"looked for edges/ or nodes/ .*entities.* and movies.* found a\.txt; see"):
        open_source(tmp_path)
    with pytest.raises(HaspError, match=r"a source is a folder, .* got the file"):
        open_source(tmp_path / "a.txt")
    with pytest.raises(HaspError, match=r"kind is one of auto, tables, .* got 'neo4j'"):
        open_source(tmp_path, kind="neo4j")  # type: ignore[arg-type]
