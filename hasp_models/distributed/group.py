"""The process group of a run that torchrun starts, and starts again when a rank has died.

All ranks of a group find each other through a store, into which each writes where it listens. torchrun keeps one store for
all of its attempts (``torch/distributed/elastic/rendezvous/dynamic_rendezvous.py`` caches it), and torch writes the same keys
in each (``torch/distributed/rendezvous.py`` holds the store to be new): after a restart, the rank that is quicker reads where
a dead one listened, and the attempt is lost ("connectFullMesh failed ... Connection refused"). The number of the restart is no
remedy, because the launchers of several machines count it each for itself (pytorch/pytorch#135712). So the ranks of an attempt
first agree on a name that no other attempt has, and put it before all their keys.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from hasp.errors import HaspError

__all__ = ["TIMEOUT", "hold", "meet", "process_group"]

TIMEOUT = datetime.timedelta(minutes=5)
"""How long a collective may take. Torch's half an hour is how long a hanging rank would go unnoticed."""

_PAUSE = 0.02  # seconds between two looks at the store

_LATEST: deque[object] = deque(maxlen=8)
"""What the last collectives were about. Ending a group joins gloo's threads, in older torch with the GIL held (seen with 2.5;
pytorch/pytorch#154976); a thread that then lets go of the last reference to a tensor waits for the GIL, and all for ever.
So the last references are here.
"""


def hold(tensors: object) -> None:
    """Keep what a collective is about, or a closure over it, until the group has ended or some more collectives have run."""
    _LATEST.append(tensors)


@contextmanager
def process_group(
    backend: str = "gloo", timeout: datetime.timedelta = TIMEOUT, environment: Mapping[str, str] = os.environ
) -> Iterator[None]:
    """A block in the process group that the environment describes, as torchrun sets it; without one, in none.

    Args:
        backend: of the collectives.
        timeout: of the meeting, and of every collective.
        environment: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``, and what torchrun adds.

    Raises:
        HaspError: the environment does not describe one, or the ranks do not all come within the time.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        yield
        return
    rank = int(environment.get("RANK", "-1"))
    if not 0 <= rank < size:
        given = environment.get("RANK", "none")
        raise HaspError(f"RANK lies in 0..{size - 1} for WORLD_SIZE={size}, got {given}; let torchrun set both, or neither")
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, timeout=timeout, wait_for_workers=False)
        room = meet(store, rank, size, timeout.total_seconds())
        dist.init_process_group(backend, store=PrefixStore(room, store), rank=rank, world_size=size, timeout=timeout)
    else:
        try:
            dist.init_process_group(backend, rank=rank, world_size=size, timeout=timeout)
        except ValueError as error:  # MASTER_ADDR or MASTER_PORT is missing
            raise HaspError(
                f"WORLD_SIZE={size} ranks find each other by MASTER_ADDR and MASTER_PORT ({error}); use torchrun"
            ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()
        _LATEST.clear()


def meet(store: Store, rank: int, size: int, seconds: float) -> str:
    """Agree with the other ranks of this attempt on a name that no other attempt has, whatever earlier ones left in the store.

    Each rank leaves a random word. Rank 0 lists the words that it finds, with a name, until every rank has repeated the name;
    a rank repeats it as soon as the list has its own word, which only a rank 0 that lives beside it can have read.

    Args:
        store: shared by all ranks.
        rank: of this process.
        size: number of ranks.
        seconds: after which it is given up.

    Returns:
        The name, the same on every rank.

    Raises:
        HaspError: not all ranks came.
    """
    word, end = os.urandom(8).hex(), time.monotonic() + seconds
    store.set(f"hasp/word/{rank}", word)
    listed: dict[int, str] = {}
    while time.monotonic() < end:
        if rank:
            seen = json.loads(_get(store, "hasp/list") or '{"words": {}}')
            if seen["words"].get(str(rank)) == word:
                store.set(f"hasp/said/{rank}", seen["name"])
                return str(seen["name"])
        else:
            words = {r: found for r in range(size) if (found := _get(store, f"hasp/word/{r}")) is not None}
            if words != listed:
                store.set("hasp/list", json.dumps({"name": word, "words": words}))
                listed = words
            if all(_get(store, f"hasp/said/{r}") == word for r in range(1, size)):
                return word
        time.sleep(_PAUSE)
    raise HaspError(
        f"all {size} ranks meet within {seconds:g} s, but rank {rank} waits in vain; see the output of the others, start again"
    )


def _get(store: Store, key: str) -> str | None:
    return store.get(key).decode() if store.check([key]) else None
