"""Settings that no build can follow are refused before the folder is touched."""

from pathlib import Path

import pytest
import torch
from torch_geometric.data import HeteroData

from hasp import HASPData, HaspError


def _graph(weight: torch.Tensor) -> HeteroData:
    data = HeteroData()
    data["title"].num_nodes = 12
    index = torch.arange(11)
    data["title", "like", "title"].edge_index = torch.stack([index, index + 1])
    data["title", "like", "title"].w = weight
    return data


def _files(root: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(root.iterdir())} if root.exists() else {}


@pytest.mark.filterwarnings("ignore:.* infinite values:hasp.graph.HaspWarning")
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("weight", "settings", "rule"),
    [
        (torch.ones(11), {"weight": "none"}, "weight='none': one number per EEL"),
        (torch.full((11,), float("inf")), {"weight": "w"}, "EEL weights are finite"),
        (torch.ones(11), {"backend": "none"}, "backend='none' is not one of"),
        (torch.ones(11), {"backend": "given"}, "backend='given' is not one of those"),
        (torch.ones(11, dtype=torch.complex64), {}, "torch.view_as_real"),
    ],
)
def test_nothing_is_written_and_nothing_lost(tmp_path, there, weight, settings, rule):
    root = tmp_path / "parts"
    if there:
        HASPData(_graph(torch.ones(11)), num_parts=2, root=root, log=False)
    before = _files(root)
    with pytest.raises(HaspError, match=rule):
        HASPData(_graph(weight), num_parts=3, root=root, overwrite=there, log=False, **settings)
    assert _files(root) == before and root.exists() == there
