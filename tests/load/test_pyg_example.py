"""A heterogeneous link-prediction script in PyG's style, with three lines changed: it trains on parts.

The script is the shape of PyG's ``examples/hetero/hetero_link_pred.py``: a SAGE encoder made heterogeneous by ``to_hetero``,
a decoder over pairs, ``RandomLinkSplit`` and ``ToUndirected``. What a user changes is marked.
"""

import torch
import torch.nn.functional as F
from torch_geometric.data import HeteroData
from torch_geometric.nn import SAGEConv, to_hetero
from torch_geometric.transforms import RandomLinkSplit, ToUndirected

from hasp import HASPData, HASPLoader, Schema  # changed: instead of LinkNeighborLoader

EDGE = ("user", "rates", "movie")


class Encoder(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = SAGEConv((-1, -1), channels)
        self.conv2 = SAGEConv((-1, -1), channels)

    def forward(self, x, edge_index):
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


class Model(torch.nn.Module):
    def __init__(self, metadata, channels=32):
        super().__init__()
        self.encoder = to_hetero(Encoder(channels), metadata, aggr="sum")

    def forward(self, x_dict, edge_index_dict, pairs):
        z = self.encoder(x_dict, edge_index_dict)
        return (z["user"][pairs[0]] * z["movie"][pairs[1]]).sum(dim=1)


def ratings():
    """Users and movies of four tastes; a user rates movies of the own taste, mostly."""
    generator = torch.Generator().manual_seed(0)
    taste_u = torch.randint(4, (600,), generator=generator)
    taste_m = torch.randint(4, (400,), generator=generator)
    like = torch.where(taste_u[:, None] == taste_m[None, :], 0.12, 0.002)
    edges = (torch.rand(600, 400, generator=generator) < like).nonzero().T.contiguous()
    data = HeteroData()
    data["user"].x = F.one_hot(taste_u, 4).float() + 0.3 * torch.randn(600, 4, generator=generator)
    data["movie"].x = F.one_hot(taste_m, 4).float() + 0.3 * torch.randn(400, 4, generator=generator)
    data["genre"].x = torch.eye(4)
    data[EDGE].edge_index = edges
    data["movie", "has", "genre"].edge_index = torch.stack([torch.arange(400), taste_m])
    return ToUndirected()(data)


def test_three_lines_changed():
    torch.manual_seed(0)
    split = RandomLinkSplit(num_val=0.1, num_test=0.1, edge_types=[EDGE], rev_edge_types=[("movie", "rev_rates", "user")])
    train_data, val_data, _ = split(ratings())

    parts = HASPData(train_data, Schema(entity=["user", "movie"]), num_parts=8, log=False)  # changed: new
    loader = HASPLoader(  # changed: instead of LinkNeighborLoader(train_data, num_neighbors=..., ...)
        parts, batch_size=2, shuffle=True, edge_label_index=EDGE, neg_sampling="binary", disjoint_train_ratio=0.3
    )

    model = Model(train_data.metadata())
    with torch.no_grad():
        batch = next(iter(loader))
        model(batch.x_dict, batch.edge_index_dict, batch[EDGE].edge_label_index)  # lazy layers see their sizes
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        total = count = 0
        for batch in loader:
            optimizer.zero_grad()
            out = model(batch.x_dict, batch.edge_index_dict, batch[EDGE].edge_label_index)
            loss = F.binary_cross_entropy_with_logits(out, batch[EDGE].edge_label.float())
            loss.backward()
            optimizer.step()
            total, count = total + float(loss.detach()) * out.numel(), count + out.numel()
        losses.append(total / count)
    assert losses[-1] < 0.8 * losses[0]

    with torch.no_grad():
        out = model(val_data.x_dict, val_data.edge_index_dict, val_data[EDGE].edge_label_index)
    label = val_data[EDGE].edge_label.bool()
    auc = (out[label][:, None] > out[~label][None, :]).float().mean()
    assert auc > 0.75
