"""What is refused before anything is written: features that would make every loss NaN, a folder that holds something else."""

from __future__ import annotations

from pathlib import Path

from hasp import HASPData
from hasp.errors import HaspError
from hasp.store.disk import Disk
from hasp_models.origin import origin_of

__all__ = ["check_features", "check_out"]


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


def check_out(out: Path, *kinds: str) -> None:
    """Refuse a folder that holds parts, concepts, a run, embeddings or results of another kind than is to be written.

    Args:
        out: the folder; it need not exist.
        kinds: what it may hold.
    """
    if not out.is_dir() or not Disk().list(out):
        return
    try:
        kind = origin_of(out).kind
    except HaspError:
        return
    if kind not in kinds:
        raise HaspError(f"--out is a new folder or one with {kinds[0]}, but {out} holds {kind}; choose another")
