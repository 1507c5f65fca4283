"""Small graphs of three node types, and the graph baselines of Table 1 on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from train_graphs import EEL

from hasp_models.zoo.gat import HeteroGAT
from hasp_models.zoo.gcn import GCN
from hasp_models.zoo.hgt import HGT
from hasp_models.zoo.sage import HeteroSAGE

MODELS: list[type[Any]] = [HeteroSAGE, HeteroGAT, HGT, GCN]
ALL = pytest.mark.parametrize("kind", MODELS)
TYPES = [
    EEL,
    ("title", "has", "genre"),
    ("genre", "rev_has", "title"),
    ("title", "by", "author"),
    ("author", "rev_by", "title"),
    ("genre", "under", "genre"),
]
NODES = ["title", "genre", "author"]


def graph(seed: int = 0, titles: int = 9, genres: int = 3, authors: int = 2, most: int = 25) -> HeteroData:
    """A multigraph: loops, parallel edges, a hub, nodes and whole types without edges."""
    generator = torch.Generator().manual_seed(seed)
    data, count = HeteroData(), {"title": titles, "genre": genres, "author": authors}
    for node_type, n in count.items():
        data[node_type].num_nodes = n
    for i, (source, relation, destination) in enumerate(TYPES):
        number = 0 if (seed + i) % 4 == 3 else int(torch.randint(most + 1, (1,), generator=generator))
        number = number if count[source] and count[destination] else 0
        a = torch.randint(max(count[source], 1), (number,), generator=generator)
        b = torch.randint(max(count[destination], 1), (number,), generator=generator)
        b[: number // 3] = 0
        data[source, relation, destination].edge_index = torch.stack([a, b])
    return data


def model_of(kind: type[Any], data: HeteroData, dim: int = 4, layers: int = 1, seed: int = 0, **options: Any) -> Any:
    """In float64, with a vector per node of every type unless ``embed`` says otherwise."""
    torch.manual_seed(seed)
    options = {"embed": {t: int(data[t].num_nodes) for t in NODES}, **options}
    return kind((NODES, TYPES), dim=dim, layers=layers, **options).double()


def inputs_of(model: Any) -> dict[str, Tensor]:
    """What the first layer of a ``model_of`` gets."""
    return {t: model.inputs.own[t] for t in NODES}
