"""What is refused before training begins: features that would make every loss NaN."""

from __future__ import annotations

from hasp import HASPData
from hasp.errors import HaspError

__all__ = ["check_features"]


def check_features(parts: HASPData) -> None:
    """Refuse features ``x`` that are not finite, by what the build has counted: nothing is read.

    Raises:
        HaspError: some are; the type and how many values are NaN and infinite are named.
    """
    counted = parts.report().not_finite
    for node_type in parts.node_types:
        nan, infinite = counted.get(f"{node_type}.x", (0, 0))
        if nan or infinite:
            raise HaspError(
                f"features are finite numbers, but {node_type}.x holds {nan:,} NaN and {infinite:,} infinite values; fill them "
                "in, or leave x out, and build again"
            )
