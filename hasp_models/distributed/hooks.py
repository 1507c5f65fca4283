"""Communication hooks with a state that can be saved, and bytes that are counted: one interface over torch's hooks and ours.

A hook takes a bucket of gradients and gives their mean over the ranks, as DDP asks for it. Our trainer hands over buckets of
its own (:class:`FlatBucket`), so every hook serves both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.algorithms.model_averaging.hierarchical_model_averager import HierarchicalModelAverager

from hasp.errors import HaspError

__all__ = ["Bucket", "Cast", "FlatBucket", "Future", "LocalSGD", "PowerSGD", "Sender", "group_of"]

Future = torch.futures.Future
Group = dist.ProcessGroup


class Bucket(Protocol):
    """Gradients that are exchanged together, as ``torch.distributed.GradBucket`` has them."""

    def index(self) -> int:
        """Which bucket of the step."""

    def buffer(self) -> Tensor:
        """All gradients one after the other, ``[n]``."""

    def gradients(self) -> list[Tensor]:
        """The same memory, a tensor per parameter."""

    def parameters(self) -> list[Tensor]:
        """The parameters, in this order."""

    def is_last(self) -> bool:
        """Whether the step ends with it."""


class FlatBucket:
    """A bucket outside of DDP; see :class:`Bucket`.

    Args:
        index: of the bucket.
        buffer: ``[n]``.
        parameters: whose gradients it holds, in their order.
        last: whether the step ends with it.
    """

    def __init__(self, index: int, buffer: Tensor, parameters: Sequence[Tensor], last: bool) -> None:
        self._index, self._buffer, self._parameters, self._last = index, buffer, list(parameters), last

    def index(self) -> int:
        """Which bucket of the step."""
        return self._index

    def buffer(self) -> Tensor:
        """All gradients one after the other, ``[n]``."""
        return self._buffer

    def gradients(self) -> list[Tensor]:
        """The same memory, a tensor per parameter; a scalar as a vector of one, because hooks make matrices of them."""
        pieces = torch.split(self._buffer, [p.numel() for p in self._parameters])
        return [v.view(p.shape or (1,)) for v, p in zip(pieces, self._parameters, strict=True)]

    def parameters(self) -> list[Tensor]:
        """The parameters, in this order."""
        return self._parameters

    def is_last(self) -> bool:
        """Whether the step ends with it."""
        return self._last


class Sender(ABC):
    """How gradients get from rank to rank: a hook with a state.

    Attributes:
        sent: bytes that this rank has handed to collectives.
        drifts: the ranks' weights differ between two averages.
        clips: the hook clips gradients itself, before it sends them.
    """

    drifts = False
    clips = False

    def __init__(self) -> None:
        self.sent = 0

    @abstractmethod
    def __call__(self, bucket: Bucket) -> Future[Tensor]:
        """Exchange a bucket; gives the mean over the ranks, in the bucket's memory. Every rank calls it alike."""

    def after_step(self, parameters: Sequence[Tensor]) -> None:
        """Call after every step of the optimizer, with the parameters whose gradients go through the hook."""
        return

    def begin(self, step: int) -> None:
        """Go on at a step, without the state of the steps before."""
        return

    def state_dict(self) -> dict[str, Tensor]:
        """All that a run needs to go on bit for bit, of this rank."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state_dict`."""
        return

    def waiting(self, bucket: Bucket) -> Tensor | None:
        """What of a bucket's gradients has been held back so far, ``[n]``, in units of the mean; ``None``: nothing."""
        return None


class Cast(Sender):
    """torch's all-reduce in the dtype of the gradients, or in half precision: ``dense``, ``fp16``, ``bf16``.

    fp16 holds numbers up to 65,504; a gradient beyond them becomes infinite.

    Args:
        kind: ``None``: as it is.
        group: of the ranks; ``None``: the default one.

    Raises:
        HaspError: bfloat16 on gloo, which cannot sum it.
    """

    def __init__(self, kind: torch.dtype | None = None, group: Group | None = None) -> None:
        super().__init__()
        if kind == torch.bfloat16 and dist.get_backend(group) != "nccl":
            raise HaspError(f"bf16 gradients need nccl, this group is {dist.get_backend(group)}; take fp16, or run on GPUs")
        hooks: dict[torch.dtype | None, Callable[..., Any]] = {
            None: default_hooks.allreduce_hook,
            torch.float16: default_hooks.fp16_compress_hook,
            torch.bfloat16: default_hooks.bf16_compress_hook,
        }
        self.kind, self.group, self._hook = kind, group_of(group), hooks[kind]

    def __call__(self, bucket: Bucket) -> Future[Tensor]:
        """As :class:`Sender`."""
        buffer = bucket.buffer()
        self.sent += buffer.numel() * (self.kind or buffer.dtype).itemsize
        return self._hook(self.group, bucket)  # type: ignore[no-any-return]


class PowerSGD(Sender):
    """torch's PowerSGD (Vogels et al., 2019): a matrix goes as two thin ones; what that loses waits for the next step.

    Args:
        rank: width of the thin matrices.
        warmup_steps: steps with a dense sum before it; at least 2, as torch demands.
        group: of the ranks; ``None``: the default one.
    """

    def __init__(self, rank: int = 1, warmup_steps: int = 2, group: Group | None = None) -> None:
        super().__init__()
        start = max(2, warmup_steps)
        # The epsilon keeps a matrix without any gradient from becoming 0 / 0.
        self._state = PowerSGDState(group, rank, start, orthogonalization_epsilon=1e-8)  # type: ignore[no-untyped-call]

    def __call__(self, bucket: Bucket) -> Future[Tensor]:
        """As :class:`Sender`."""
        state, buffer = self._state, bucket.buffer()
        if state.iter < state.start_powerSGD_iter:
            self.sent += buffer.numel() * buffer.element_size()
            return powerSGD_hook(state, bucket)  # type: ignore[arg-type]
        before = state.total_numel_after_compression
        # torch's hook starts collectives from the callbacks of others. On gloo those of two buckets overtake each other, in
        # another order on each rank, and the group hangs; so one bucket ends before the next begins.
        mean = powerSGD_hook(state, bucket).wait()  # type: ignore[arg-type]
        self.sent += (state.total_numel_after_compression - before) * buffer.element_size()
        out: Future[Tensor] = torch.futures.Future()
        out.set_result(mean)
        return out

    def begin(self, step: int) -> None:
        """As :class:`Sender`."""
        self._state.iter = step

    def state_dict(self) -> dict[str, Tensor]:
        """The step, what waits, and the thin matrices that the next step starts from."""
        state = {"step": torch.tensor(self._state.iter)}
        for kind in ("error_dict", "p_memory_dict", "q_memory_dict"):
            state |= {f"{kind}/{index}": value.clone() for index, value in getattr(self._state, kind).items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """As :class:`Sender`. torch draws the first thin matrices only, so its generator needs no state."""
        self._state.iter = int(state["step"])
        for key, value in state.items():
            if key != "step":
                kind, _, index = key.partition("/")
                getattr(self._state, kind)[int(index)] = value.clone()

    def waiting(self, bucket: Bucket) -> Tensor | None:
        """As :class:`Sender`."""
        return self._state.error_dict.get(bucket.index())


class LocalSGD(Sender):
    """torch's post-local SGD (Lin et al., 2020): ranks step on their own, and average their weights now and then.

    For ``warmup_steps`` gradients are summed as usual. After that each rank moves by its own gradient, and the weights are
    averaged every ``period`` steps, over all ranks or along a tree: within small groups often, over all ranks rarely.

    Args:
        period: steps between two averages.
        tree: ``((period, ranks of a group), ...)``, both rising, the last group being all ranks; replaces ``period``.
        warmup_steps: see above.
        group: of the ranks; ``None``: the default one.

    Raises:
        HaspError: a period below 2, or a tree that does not rise to all ranks.
    """

    drifts = True

    def __init__(
        self,
        period: int = 4,
        tree: Sequence[tuple[int, int]] = (),
        warmup_steps: int = 0,
        group: Group | None = None,
    ) -> None:
        super().__init__()
        group = group_of(group)
        self._periods, self._start = [p for p, _ in tree] or [period], warmup_steps
        _check_tree(self._periods, [n for _, n in tree], group.size())
        self._state = PostLocalSGDState(group, None, warmup_steps, post_local_gradient_allreduce=False)  # type: ignore[no-untyped-call]
        self._averager: PeriodicModelAverager | HierarchicalModelAverager
        if tree:
            levels = OrderedDict(tree)
            self._averager = HierarchicalModelAverager(levels, warmup_steps, group)  # type: ignore[no-untyped-call]
        else:
            self._averager = PeriodicModelAverager(period, warmup_steps, group)  # type: ignore[no-untyped-call]
        self._from = 0 if tree else warmup_steps  # where torch counts the periods from

    def __call__(self, bucket: Bucket) -> Future[Tensor]:
        """As :class:`Sender`; after the warm-up, what it gives is this rank's own gradient."""
        if self._state.iter < self._state.start_localSGD_iter:
            self.sent += bucket.buffer().numel() * bucket.buffer().element_size()
        return post_localSGD_hook(self._state, bucket)  # type: ignore[arg-type]

    def after_step(self, parameters: Sequence[Tensor]) -> None:
        """Average the weights, if it is time."""
        step = self._averager.step
        if step >= self._start and any((step - self._from) % p == 0 for p in self._periods):
            self.sent += sum(p.numel() * p.element_size() for p in parameters)
        self._averager.average_parameters(parameters)  # type: ignore[no-untyped-call, arg-type]

    def begin(self, step: int) -> None:
        """As :class:`Sender`."""
        self._state.iter = min(step, self._start)
        self._averager.step = step

    def state_dict(self) -> dict[str, Tensor]:
        """The step."""
        return {"step": torch.tensor(self._averager.step)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """As :class:`Sender`."""
        self.begin(int(state["step"]))


def group_of(group: Group | None) -> Group:
    """The group, or the default one.

    Raises:
        HaspError: there is none.
    """
    group = group or (dist.group.WORLD if dist.is_initialized() else None)
    if group is None:
        raise HaspError("gradients are sent within a process group, but there is none; start with torchrun")
    return group


def _check_tree(periods: Sequence[int], sizes: Sequence[int], world_size: int) -> None:
    rising = all(a < b for row in (periods, sizes) for a, b in pairwise(row))
    divides = all(b % a == 0 for a, b in pairwise(sizes))
    if periods[0] < 2 or not rising:
        raise HaspError(f"periods of local-sgd are at least 2 and rise, got {list(periods)}; 4 is usual, dense is period 1")
    if sizes and (not divides or sizes[-1] != world_size or sizes[0] < 2):
        raise HaspError(
            f"groups of a tree begin with 2 ranks or more, divide each other and end with all {world_size}, got {list(sizes)}; "
            "correct the tree"
        )
