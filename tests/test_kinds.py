"""A setting of a wrong kind is named with its value and a remedy; no TypeError from the depths, no text that counts as true."""

import numpy as np
import pytest
import torch

from hasp import HASPData, HASPLoader, Schema, open_source, partition
from hasp.errors import HaspError


@pytest.fixture(scope="module")
def graph():
    return open_source("synthetic:120:1")


@pytest.fixture(scope="module")
def parts(graph):
    return HASPData(graph, num_parts=4, log=False)


BUILD = {
    "num_parts": ["4", 2.5, True, [4]],
    "seed": ["a", None, 1.5],
    "imbalance": ["a", None, [1], True, float("nan")],
    "backend": [3, None, ["metis"]],
    "balance": [3, None, ["nodes"]],
    "weight": [3, None],
    "gpus": ["a", None, 1.5],
    "threads": ["a", None, -1],
    "node_part": [3, "a", [1, 2]],
    "reverse": ["no", None, 1],
    "overwrite": ["no", None, 1],
    "out_of_core": ["no", 1],
    "root": [3],
    "progress": [3],
    "schema": [3, "title", {"entity": "title"}],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in BUILD.items() for value in values])
def test_a_build_names_a_setting_of_a_wrong_kind(graph, name, value):
    with pytest.raises(HaspError, match=name):
        HASPData(graph, **{"num_parts": 4, "log": False, name: value})


LOAD = {
    "batch_size": ["a", None, 1.5, True],
    "seed": ["a", None, 1.5],
    "parts_per_step": ["a", 1.5],
    "prefetch": ["a", None, 1.5],
    "transform": [3],
    "shuffle": ["a", 3],
    "halo": ["a", 3, None],
    "input_nodes": [3, ("title", "a"), ("title", torch.tensor([0.5]))],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in LOAD.items() for value in values])
def test_a_loader_names_a_setting_of_a_wrong_kind(parts, name, value):
    with pytest.raises(HaspError, match=name):
        HASPLoader(parts, **{name: value})


def test_a_source_is_a_path():
    for wrong in (3, None, ["a"]):
        with pytest.raises(HaspError, match="a folder, a file or a URL; a HeteroData goes to HASPData itself"):
            open_source(wrong)


@pytest.mark.parametrize("rank, world_size", [("a", 2), (0, "a"), (0.5, 2), (True, 2)])
def test_ranks_are_whole_numbers(parts, rank, world_size):
    with pytest.raises(HaspError, match="a whole number"):
        HASPLoader(parts, rank=rank, world_size=world_size)


MASKS = [torch.tensor([True, False, True, False]), np.array([True, False, False, False]), [False, True], True]


@pytest.mark.parametrize("index", MASKS)
def test_a_mask_is_not_read_as_part_ids(parts, index):
    with pytest.raises(HaspError, match=r"a part or several, as whole numbers, got (True|False); give mask.nonzero\(\)"):
        HASPLoader(parts)(index)


@pytest.mark.parametrize("index", ["a", None, 1.5, [1.5], ["a"], slice(1, 3), [[0, 1]], torch.tensor([0.5]), np.array([1.0])])
def test_a_loader_is_called_with_part_ids(parts, index):
    with pytest.raises(HaspError, match="a part or several, as whole numbers"):
        HASPLoader(parts)(index)


@pytest.mark.parametrize(
    "index",
    [2, np.int64(2), torch.tensor(2), [2], (2,), torch.tensor([2]), np.array([[2]]), range(2, 3), torch.tensor([2]).int()],
)
def test_part_ids_of_any_integer_type(parts, index):
    assert HASPLoader(parts)(index)["title"].n_id.equal(parts[2]["title"].n_id)


@pytest.mark.parametrize("index", ["a", None, 1.5, slice(1, 3), [1, 2], True])
def test_parts_are_read_one_by_one(parts, index):
    for read in (parts.__getitem__, parts.part):
        with pytest.raises(HaspError, match=r"parts are read one by one|a whole number"):
            read(index)
    with pytest.raises(IndexError):  # what ends an iteration over a sequence
        parts[4]


@pytest.mark.parametrize("rows", [3, [3, 4, 5, 6], {0: "a", 1: "b", 2: "c", 3: "d"}])
def test_rows_that_go_back_are_tensors(parts, rows):
    with pytest.raises(HaspError, match=r"rows of every part|rows of a part are a tensor"):
        parts.scatter_back("title", rows)
    with pytest.raises(HaspError, match="node types are"):
        parts.ids("no such type")
    with pytest.raises(HaspError, match="root=3: a path"):
        HASPData.open(3)


CUT = {
    "num_parts": ["a", 1.5, None],
    "imbalance": ["a", None, [1], True],
    "seed": ["a", None],
    "backend": [3, None, [1]],
    "threads": ["a", None, -1],
    "node_weight": ["a", [1.5, 2.0]],
    "edge_weight": ["a", [1, "b"]],
    "indptr": [None, "ab", [[1], [2, 3]], [0.5, 1.0]],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in CUT.items() for value in values])
def test_partition_names_a_setting_of_a_wrong_kind(name, value):
    with pytest.raises(HaspError, match=name):
        partition(**{"indptr": [0, 1, 2], "indices": [1, 0], "num_parts": 1, name: value})


@pytest.mark.parametrize(
    "given, match",
    [
        ({"entity": 3}, "node types are named by text"),
        ({"entity": [3]}, "node types are named by text"),
        ({"semantic": 3}, "node types are named by text"),
        ({"eel": 3}, "eel is a list of edge types"),
        ({"eel": "a"}, "eel is a list of edge types"),
        ({"sample": 3}, "sample is a quota per node type"),
        ({"sample": ["tone"]}, "sample is a quota per node type"),
        ({"sample": {"tone": "x"}}, "a number of nodes"),
    ],
)
def test_a_schema_names_a_setting_of_a_wrong_kind(given, match):
    with pytest.raises(HaspError, match=match):
        Schema(**given)
