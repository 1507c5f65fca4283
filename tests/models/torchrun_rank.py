"""``hasp-models train`` as torchrun starts it, with ranks that die: ``torchrun torchrun_rank.py RANK:CALL,... PARTS ...``.

In its n-th attempt, rank RANK of the n-th pair ends with signal 9 in its CALL-th batch; later attempts are left alone.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from hasp_models.cli import main
from hasp_models.neighbor_softmax import NeighborSoftmax


def die_in(call: int) -> None:
    """Let this process end in the ``call``-th batch, counting from 1."""
    inner, calls = NeighborSoftmax.__call__, iter(range(1, 1 << 30))

    def deadly(self: NeighborSoftmax, *arguments: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(self, *arguments)

    setattr(NeighborSoftmax, "__call__", deadly)  # noqa: B010 - a method is no attribute to mypy


if __name__ == "__main__":
    deaths = [[int(n) for n in pair.split(":")] for pair in sys.argv[1].split(",")]
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if attempt < len(deaths) and int(os.environ["RANK"]) == deaths[attempt][0]:
        die_in(deaths[attempt][1])
    main(["train", *sys.argv[2:]])
