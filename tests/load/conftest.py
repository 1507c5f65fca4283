"""PyG's own imports warn on some versions of torch; that is not ours to fail on."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_geometric.loader  # noqa: F401
