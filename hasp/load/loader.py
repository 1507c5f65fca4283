"""HASPLoader: a torch DataLoader over parts that obeys PyG's conventions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch_geometric.data import HeteroData
from torch_geometric.loader.mixin import AffinityMixin, LogMemoryMixin, MultithreadingMixin
from torch_geometric.loader.utils import infer_filter_per_worker
from torch_geometric.sampler import NegativeSampling

from hasp.config import switch, whole
from hasp.errors import HaspError
from hasp.load.cache import HaloCache
from hasp.load.halo import HaloCount, Halos
from hasp.load.iteration import Ahead, Iteration
from hasp.load.links import Links
from hasp.load.merge import merge
from hasp.load.sampler import PartDataset, PartSampler, Request, part_sampler
from hasp.load.seeds import Seeds
from hasp.load.store import Store, open_store, part_costs

if TYPE_CHECKING:
    from hasp.data import HASPData

__all__ = ["HASPLoader", "Request"]

_SAME = ("fingerprint", "num_parts", "seed", "batch_size", "shuffle", "drop_last")
_STATE_VERSION = 1


class HASPLoader(DataLoader[Any], AffinityMixin, MultithreadingMixin, LogMemoryMixin):  # type: ignore[misc]
    """Feeds parts to PyG code: each batch is a ``HeteroData`` of ``batch_size`` parts (see :func:`hasp.load.merge.merge`).

    Every batch has the same metadata, dtypes and widths. Under ``torch.distributed`` each rank gets its share of every
    optimizer step, and all ranks get equally many batches; where parts run out, a rank gets *padding*: a batch whose
    ``part_id`` is empty and which holds no entity. It weighs nothing when losses are summed (sum of losses, times world
    size, over the all-reduced count of what was summed); do not skip it, or the other ranks wait for ever.

    After an epoch was exhausted, iterating again yields the next one; after a ``break`` it starts the same epoch again.

    Args:
        parts: a :class:`hasp.HASPData`, a store, or the folder of a finished build.
        batch_size: parts merged into one graph; links between them are restored.
        shuffle: draw a new order of the parts every epoch.
        seed: of the order, the negatives and the disjoint share. (Sampled node types follow the seed of the build.)
        parts_per_step: parts per optimizer step over all ranks, a multiple of ``batch_size``; ``None``: ``batch_size *
            world_size``. Fix it to get the same steps at any world size.
        rank: ``None``: asked of ``torch.distributed`` when an epoch begins.
        world_size: likewise.
        transform: applied to every batch, last.
        filter_per_worker: ``True``: workers merge; ``False``: workers only pass ids on, and the main process merges;
            ``None``: as PyG decides.
        resample: draw the nodes of sampled types anew every epoch; ``False``: as in epoch 0.
        index_dtype: of every ``edge_index``, int64 or int32; ``None``: all ids as stored, see :func:`hasp.load.merge.merge`.
        prefetch: batches that a thread of this process makes while the loop uses the last one (``transform`` too); the same
            batches. For ``num_workers=0``: nothing is sent between processes. 0: none.
        halo: add to every batch the far ends of the cut edges that lead to its entities, read-only, and these edges
            (:class:`hasp.load.halo.Halos`): entities from ``num_owned`` on. They neither supervise nor are seeds. A
            :class:`hasp.HaloCache` also keeps some of them in memory.
        input_nodes: an entity type or ``(entity type, mask | ids | None)``: these nodes come first among their type,
            ``batch_size`` is their number, ``input_id`` their position, as in ``NeighborLoader``.
        edge_label_index: an edge type or ``(edge type, pairs [2, n] | None)`` to supervise, as in ``LinkNeighborLoader``;
            a batch holds the pairs with both ends in it. See :class:`hasp.load.links.Links`.
        edge_label: labels of these pairs.
        neg_sampling: ``"binary"``, ``"triplet"``, a dict or a ``NegativeSampling``. A negative is never a link of the whole
            graph. Fewer than asked for come where there are no more.
        disjoint_train_ratio: share of the links that supervises instead of carrying messages, drawn anew every epoch.
        **kwargs: of ``torch.utils.data.DataLoader``: ``num_workers``, ``persistent_workers``, ``pin_memory``,
            ``drop_last`` (of a last step that is not full)...

    Raises:
        HaspError: arguments that do not fit each other or the parts.
    """

    def __init__(
        self,
        parts: HASPData | Store | str | os.PathLike[str],
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        seed: int = 0,
        parts_per_step: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        filter_per_worker: bool | None = None,
        resample: bool = True,
        index_dtype: torch.dtype | None = torch.int64,
        prefetch: int = 0,
        halo: bool | HaloCache = False,
        input_nodes: Any = None,
        edge_label_index: Any = None,
        edge_label: Tensor | None = None,
        neg_sampling: NegativeSampling | str | dict[str, Any] | None = None,
        disjoint_train_ratio: float = 0.0,
        **kwargs: Any,
    ) -> None:
        # Lightning makes loaders again from their attributes: each argument is kept under its name, and what DataLoader
        # would get twice is dropped.
        batch_size, seed, prefetch = whole("batch_size", batch_size), whole("seed", seed), whole("prefetch", prefetch)
        shuffle = switch("shuffle", shuffle is not None and shuffle)
        halo = halo if isinstance(halo, HaloCache) else switch("halo", halo)
        if transform is not None and not callable(transform):
            raise HaspError(f"transform is a function of a batch, got {transform!r:.80}; give one, or None")
        kwargs.pop("dataset", None)
        kwargs.pop("collate_fn", None)
        sampler, batch_sampler = kwargs.pop("sampler", None), kwargs.pop("batch_sampler", None)
        self.parts = self.data = parts
        self.store = open_store(parts)
        self.num_parts = int(self.store.manifest.config["num_parts"])
        own = part_sampler(sampler, batch_sampler)
        if own is None:
            own = PartSampler(
                self.num_parts,
                part_costs(self.store),
                batch_size=batch_size,
                parts_per_step=parts_per_step,
                shuffle=shuffle,
                seed=seed,
                drop_last=bool(kwargs.get("drop_last", False)),
                rank=rank,
                world_size=world_size,
            )
        # Whether the order is ours; a foreign sampler has no epochs to resume in.
        self._foreign = (sampler is not None or batch_sampler is not None) and part_sampler(sampler, batch_sampler) is None
        self._order = own
        self.shuffle, self.seed = own.shuffle, seed
        self.parts_per_step, self.rank, self.world_size = parts_per_step, rank, world_size
        self.transform, self.resample, self.index_dtype = transform, resample, index_dtype
        self.filter_per_worker = infer_filter_per_worker(parts) if filter_per_worker is None else filter_per_worker
        self.input_nodes, self.edge_label_index, self.edge_label = input_nodes, edge_label_index, edge_label
        self.neg_sampling = _cast(neg_sampling)
        self.disjoint_train_ratio = disjoint_train_ratio
        self._seeds, self._links = self._supervision()
        self.halo, self._halos = halo, self._halos_of(halo)
        if prefetch < 0 or (prefetch and kwargs.get("num_workers")):
            raise HaspError(
                f"prefetch={prefetch} is a number of batches for num_workers=0; workers have prefetch_factor, use that"
            )
        self.prefetch = prefetch
        self._turnstile: AbstractContextManager[Any] = RLock()
        self._turn = 0  # the iteration that counts; older ones are no longer listened to
        self._handed = 0
        if batch_sampler is not None:
            kwargs.pop("drop_last", None)
            super().__init__(PartDataset(self.num_parts), batch_sampler=batch_sampler, collate_fn=self.collate_fn, **kwargs)
        else:
            chosen = own if sampler is None else sampler
            super().__init__(
                PartDataset(self.num_parts), batch_size=batch_size, sampler=chosen, collate_fn=self.collate_fn, **kwargs
            )

    def _supervision(self) -> tuple[Seeds | None, Links | None]:
        if self.edge_label_index is None:
            for name in ("edge_label", "neg_sampling"):
                if getattr(self, name) is not None:
                    raise HaspError(f"{name} belongs to pairs, but there are none; give edge_label_index")
            if self.disjoint_train_ratio:
                raise HaspError(
                    f"disjoint_train_ratio={self.disjoint_train_ratio} splits a supervised edge type; give edge_label_index"
                )
            return (None if self.input_nodes is None else Seeds(self.store, self.input_nodes)), None
        if self.input_nodes is not None:
            raise HaspError("a loader supervises nodes or links, got input_nodes and edge_label_index; use two in a ZipLoader")
        ratio = self.disjoint_train_ratio
        return None, Links(self.store, self.edge_label_index, self.edge_label, self.neg_sampling, ratio, self.seed)

    def _halos_of(self, halo: bool | HaloCache) -> Halos | None:
        if not isinstance(halo, HaloCache):
            return Halos(self.store) if halo else None
        return Halos(self.store, halo, None if self._foreign else self._order)

    # -- batches -----------------------------------------------------------------------------------------------------

    def __call__(self, index: int | Sequence[int] | Tensor) -> HeteroData:
        """Merge the parts ``index`` (a part, or several) into one batch of the current epoch."""
        out = self.collate_fn(index)
        return out if self.filter_per_worker else self.filter_fn(out)

    def collate_fn(self, index: Any) -> Any:
        """Turn part ids, or the items of the sampler, into a batch (``filter_per_worker``) or a :class:`Request` for one."""
        request = Request.of(index, self.epoch)
        return self.filter_fn(request) if self.filter_per_worker else request

    def filter_fn(self, out: Request) -> Any:
        """Merge the parts of a request, add the supervision and then the halo, apply ``transform``."""
        read_ahead = getattr(self.store, "read_ahead", None)
        if read_ahead is not None:
            read_ahead([*out.parts, *out.later])
        with self._turnstile:  # the thread of ``prefetch`` and a caller of ``loader(index)`` share caches
            epoch = out.epoch if self.resample else 0
            batch = merge(self.store, out.parts, epoch=epoch, index_dtype=self.index_dtype)
            if self._seeds is not None:
                batch = self._seeds.apply(batch)
            if self._links is not None:
                batch = self._links.apply(batch, out.epoch)
            if self._halos is not None:
                batch = self._halos.apply(batch, out.epoch)
        return batch if self.transform is None else self.transform(batch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._order.begin()
        self._turn += 1
        self._handed = 0
        inner = super().__iter__()
        return Iteration(self, Ahead(inner, self.prefetch) if self.prefetch else inner, self._turn)

    # -- epochs and resumption ---------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch under way, or the next one."""
        return self._order.epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch, the same on every rank."""
        return self._order.num_steps

    @property
    def halo_count(self) -> HaloCount | None:
        """What the halos of this process have cost so far; ``None``: there are none. Workers count for themselves."""
        return None if self._halos is None else self._halos.count

    def batches_in_step(self, step: int) -> int:
        """Batches that every rank gets in one optimizer step of an epoch, padding included."""
        return self._order.batches(step)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration. The current one again: a point to resume from is kept."""
        if epoch != self.epoch:
            self._turn += 1  # an iteration that is still under way belongs to the other epoch
            self._handed = 0
        self._order.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where training is: plain values, in steps of the global order, so that any world size may resume from it.

        Counts what the loop has got, not what workers have prefetched. A step of which only some batches were got is not
        done, and is repeated whole. After the last batch of an epoch, but before the loop has left it, the state is the end of
        that epoch: resumed, it yields no more batches of it, and the epoch after.
        """
        if self._foreign:
            raise HaspError("state_dict speaks of the loader's own order, but it has a sampler of yours; leave sampler= out")
        order = self._order
        return {
            "version": _STATE_VERSION,
            "epoch": order.epoch,
            "step": order.step_after(self._handed) if self._handed else order.resume or order.start,
            "parts_per_step": order.step_size,
            **self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume where :meth:`state_dict` was taken, at this or another world size, with any number of workers.

        A loader without ``parts_per_step`` takes over that of the state, so that the steps stay the same.

        Raises:
            HaspError: the state is of another graph, of other parts or of other settings.
        """
        missing = sorted({"version", "epoch", "step", "parts_per_step", *_SAME} - set(state))
        if missing or state["version"] != _STATE_VERSION:
            raise HaspError(
                f"a loader's state has version {_STATE_VERSION} and all its keys, got {sorted(state)}; save it again"
            )
        for name, mine in self._identity().items():
            if state[name] != mine:
                raise HaspError(f"the state was saved with {name}={state[name]!r}, this loader has {mine!r}; make them equal")
        order = self._order
        if self.parts_per_step is not None and self.parts_per_step != state["parts_per_step"]:
            raise HaspError(
                f"the state was saved with parts_per_step={state['parts_per_step']}, this loader has {self.parts_per_step}; "
                "give that number, or none"
            )
        order.parts_per_step = int(state["parts_per_step"])
        if not 0 <= state["step"] <= order.num_steps or state["epoch"] < 0:
            raise HaspError(f"a state is within an epoch of {order.num_steps} steps, got step={state['step']}; save it again")
        order.epoch, order.resume, order.start = int(state["epoch"]), int(state["step"]), 0
        self._turn += 1
        self._handed = 0

    def _identity(self) -> dict[str, Any]:
        order = self._order
        values = (self.store.manifest.fingerprint, self.num_parts, order.seed, order.batch_size, order.shuffle, order.drop_last)
        return dict(zip(_SAME, values, strict=True))

    def took(self, turn: int, done: bool = False) -> None:
        """Hear from an iteration that it has handed out a batch, or has no more."""
        if turn == self._turn and done:
            self.set_epoch(self.epoch + 1)
        elif turn == self._turn:
            self._handed += 1

    def __getstate__(self) -> dict[str, Any]:
        # A worker needs the store, which knows how to open itself again, and neither its owner nor other workers.
        return {**self.__dict__, "parts": self.store, "data": self.store, "_iterator": None, "_turnstile": nullcontext()}

    def __repr__(self) -> str:
        order, (rank, world_size) = self._order, self._order.place()
        shape = f"{self.num_parts} parts, batch_size={order.batch_size}, shuffle={order.shuffle}"
        return f"{type(self).__name__}({shape}, rank {rank} of {world_size})"


def _cast(sampling: Any) -> Any:
    try:
        return NegativeSampling.cast(sampling)
    except (TypeError, ValueError) as error:
        known = "'binary', 'triplet', a dict or a NegativeSampling"
        raise HaspError(f"neg_sampling is {known}, got {sampling!r} ({error})") from error
