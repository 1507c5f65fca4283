"""What is refused before training begins: features that would make every loss NaN."""

from __future__ import annotations

from hasp import HASPData
from hasp.errors import HaspError

__all__ = ["check_features"]


def check_features(parts: HASPData) -> None:
    """Look at the features ``x`` of every node type, a part at a time.

    Raises:
        HaspError: some are NaN or infinite; the type, how many rows, and the first of them are named.
    """
    rows: dict[str, set[int]] = {}
    for part_id in range(parts.num_parts):
        part = parts[part_id]
        for node_type in part.node_types:
            x = part[node_type].get("x")
            if x is not None and x.is_floating_point() and x.numel():
                wrong = ~x.reshape(x.size(0), -1).isfinite().all(dim=1)
                if bool(wrong.any()):
                    rows.setdefault(node_type, set()).update(part[node_type].n_id[wrong].tolist())
    for node_type, wrong_rows in rows.items():
        raise HaspError(
            f"features are finite numbers, but {node_type}.x is NaN or infinite in {len(wrong_rows):,} rows (first: row "
            f"{min(wrong_rows)}); fill them in, or leave x out, and build again"
        )
