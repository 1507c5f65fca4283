"""A frame holds a batch, every attribute of it, or says which it cannot."""

from __future__ import annotations

import pytest
import torch
from load_fakes import same
from torch_geometric.data import HeteroData

from hasp.errors import HaspError
from hasp.load.frames import Frame, decode


def batch() -> HeteroData:
    data = HeteroData()
    data["title"].x = torch.randn(3, 2, 2).to(torch.bfloat16)
    data["title"].num_nodes = 3
    data["title"].empty = torch.empty(0, 5, dtype=torch.int16)
    data["title"].mask = torch.tensor([True, False, True])
    data["title"].scalar = torch.tensor(2.5, dtype=torch.float64)
    data["title", "co", "title"].edge_index = torch.arange(8, dtype=torch.int32).view(4, 2).t()  # not contiguous
    data["title", "co", "title"].name = "wörter"
    data["genre"].num_nodes = 0
    data.part_id = torch.tensor([1, 2])
    data.note = [1, None, [2.5, "x"]]
    return data


def test_a_frame_is_the_batch() -> None:
    frame = Frame(batch(), {"turn": 3})
    torch.manual_seed(0)
    room = torch.full((frame.size,), 7, dtype=torch.uint8)
    frame.write(room)
    found, about = decode(room)
    torch.manual_seed(0)
    want = batch()
    want["title"].x = found["title"].x  # random; compared below
    same(found, want)
    assert about == {"turn": 3}
    again = Frame(found)
    other = torch.empty(again.size, dtype=torch.uint8)
    again.write(other)
    same(decode(other)[0], found)
    for value, what in ((torch.eye(2).to_sparse(), "sparse"), (object(), "object"), ({"a": 1}, "dict"), ([1, [{}]], "dict")):
        bad = batch()
        bad["title"].odd = value
        with pytest.raises(HaspError, match=f"'odd' is .*{what}.*use HASPLoader"):
            Frame(bad)
