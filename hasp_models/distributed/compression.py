"""Deep gradient compression (Lin, Han, Mao, Wang, Dally: ICLR 2018): only the largest entries of a gradient are sent.

What is not sent stays with its rank, is added up, and is sent once it is large enough:

    u <- m u + g,   v <- v + u,   send the k largest of |v|,   set u and v to zero where they were sent

(Algorithm 4; m is the momentum, which moves from the optimizer to here so that what waits is not only old gradients: their
"momentum correction"; zeroing u is their "momentum factor masking".) k depends on shapes and on the step alone, so all ranks
send equally much, in one all-gather of values and places.

Two things are this module's own. The sampled threshold only sorts out what cannot be among the k largest, so the result is
that of a full sort, whatever was sampled. And a tensor of which k entries would cost more bytes than all of it (k places and
values from each of W ranks, against a ring's two passes over n values: k W >= n at 4 bytes each) is summed as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hasp.errors import HaspError
from hasp_models.distributed.group import hold
from hasp_models.distributed.hooks import Bucket, Future, Sender, group_of

__all__ = ["DeepGradientCompression", "ratio_at", "top_k"]

_STAGES = (0.25, 0.0625, 0.015625, 0.00390625)  # what is sent in the paper's warm-up: sparsity 75, 93.75, 98.4, 99.6 %
_SMALL = 1 << 14  # below, a full selection costs no more than a sample


def top_k(values: Tensor, k: int) -> Tensor:
    """The places of the ``k`` largest magnitudes; of equal ones the first; NaN counts as infinite, as it must not stay.

    A threshold is estimated from a strided sample, and only what passes it is selected from (the paper's hierarchical
    selection). If fewer than ``k`` pass, the sample misled, and everything is selected from: the result is always exact.

    Args:
        values: floating ``[n]``.
        k: from 0 to n.

    Returns:
        int64 ``[k]``, ascending.
    """
    count = values.numel()
    if k >= count:
        return torch.arange(count, device=values.device)
    size = values.abs().nan_to_num_(nan=math.inf, posinf=math.inf)
    if count <= _SMALL or not k:
        return _largest(size, k)
    wanted = max(count // 100, min(count // 2, 16 * count // k))
    sample = size[:: max(1, count // wanted) | 1]  # an odd stride, lest it walk down one column of a matrix
    expected = sample.numel() * k / count
    rank = min(sample.numel(), math.ceil(expected + 3 * math.sqrt(expected) + 1))
    passed = (size >= torch.topk(sample, rank, sorted=False).values.min()).nonzero()[:, 0]
    if passed.numel() < k:
        return _largest(size, k)
    return passed[_largest(size[passed], k)]


def _largest(size: Tensor, k: int) -> Tensor:
    if not k:
        return torch.empty(0, dtype=torch.long, device=size.device)
    least = torch.topk(size, k, sorted=False).values.min()
    above = (size > least).nonzero()[:, 0]
    equal = (size == least).nonzero()[: k - above.numel(), 0]
    return torch.cat([above, equal]).sort().values


def ratio_at(step: int, ratio: float, warmup_steps: int) -> float:
    """The share of entries sent in a step: 25, 6.25, 1.56, 0.39 % in equal stages of the warm-up, then ``ratio``.

    Stages that would send less than ``ratio`` are left out.
    """
    stages = [s for s in _STAGES if s > ratio]
    if step >= warmup_steps or not stages:
        return ratio
    return stages[step * len(stages) // warmup_steps]


class DeepGradientCompression(Sender):
    """The state of the compression on one rank; a communication hook of DDP (:func:`hasp_models.distributed.sending.attach`).

    Called with a bucket, it gives the mean over ranks of what they sent, as the hooks of torch do.

    Args:
        parameters: name -> parameter, of all that are trained; their order does not matter.
        ratio: share of the entries of a tensor that is sent, at least one; in (0, 1].
        momentum: of the optimizer, which then must have none itself; in [0, 1). Leave it 0 for Adam and its kin: what they
            are handed is the gradient, late but whole.
        nesterov: the look-ahead form of momentum.
        masking: set the momentum of what was sent to zero.
        clip: largest norm of the mean gradient. Each rank clips what it adds, to ``clip / sqrt(W)`` of the sum (section 3.2
            of the paper), and each bucket by the square root of its share of all entries.
        warmup_steps: steps before ``ratio`` holds; see :func:`ratio_at`.
        group: of the ranks; ``None``: the default one.

    Attributes:
        step: steps done.
        velocity, residual: name -> u and v, ``[n]``; absent until needed.
        sent: bytes handed to collectives.

    Raises:
        HaspError: a setting out of its range.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        ratio: float = 0.001,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        masking: bool = True,
        clip: float | None = None,
        warmup_steps: int = 0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if not 0 < ratio <= 1:
            raise HaspError(f"ratio is the share of a gradient that is sent, in (0, 1], got {ratio}; 0.01 is 1 %")
        if not 0 <= momentum < 1 or warmup_steps < 0 or (clip is not None and not clip > 0):
            raise HaspError(
                f"momentum is in [0, 1), warmup_steps at least 0, clip above 0, got momentum={momentum}, "
                f"warmup_steps={warmup_steps}, clip={clip}; correct them"
            )
        self.parameters = dict(parameters)
        self._name = {id(p): name for name, p in self.parameters.items()}
        self.ratio, self.momentum, self.nesterov, self.masking = ratio, momentum, nesterov, masking
        self.clip, self.warmup_steps, self.group = clip, warmup_steps, group
        super().__init__()
        self.step = 0
        self.velocity: dict[str, Tensor] = {}
        self.residual: dict[str, Tensor] = {}
        self._total = sum(p.numel() for p in self.parameters.values())

    # -- one rank's share ----------------------------------------------------------------------------------------------

    def accumulate(self, name: str, grad: Tensor, scale: float = 1.0) -> Tensor:
        """Add a gradient ``[n]`` to what waits: Algorithm 4, lines 6 to 12. Returns what waits now, ``[n]``, not a copy."""
        waits = self.residual.setdefault(name, torch.zeros_like(grad))
        grad = grad if scale == 1.0 else grad * scale
        if not self.momentum:
            return waits.add_(grad)
        moves = self.velocity.setdefault(name, torch.zeros_like(grad))
        if self.nesterov:
            moves.add_(grad).mul_(self.momentum)
            return waits.add_(moves).add_(grad)
        return waits.add_(moves.mul_(self.momentum).add_(grad))

    def take(self, name: str, k: int) -> tuple[Tensor, Tensor]:
        """Take the ``k`` largest of what waits away: their places, int64 ``[k]`` ascending, and values ``[k]``."""
        waits = self.residual[name]
        places = top_k(waits, k)
        values = waits[places]
        waits[places] = 0
        if self.masking and name in self.velocity:
            self.velocity[name][places] = 0
        return places, values

    def count(self, entries: int) -> int:
        """How many of a tensor's entries are sent in this step: at least one, if it has any."""
        return min(entries, max(1, math.ceil(entries * ratio_at(self.step, self.ratio, self.warmup_steps))))

    @staticmethod
    def whole(entries: int, k: int, size: int) -> bool:
        """Whether sending all of a tensor costs no more bytes than its ``k`` largest entries, among ``size`` ranks."""
        return k * size >= entries

    # -- all ranks -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(self, bucket: Bucket) -> Future[Tensor]:
        """Exchange a bucket: two collectives at most, one of whole tensors and one of values and places."""
        group = group_of(self.group)
        size, buffer, last = group.size(), bucket.buffer(), bucket.is_last()
        names = [self._name_of(p) for p in bucket.parameters()]
        starts, scale = _starts(bucket.parameters()), self._scale(buffer, size)
        whole: list[tuple[int, Tensor]] = []
        places, values = [], []
        for name, start, grad in zip(names, starts, bucket.gradients(), strict=True):
            flat = grad.reshape(-1)
            waits, k = self.accumulate(name, flat, scale), self.count(flat.numel())
            if self.whole(flat.numel(), k, size):  # nothing of it was held back, so its momentum goes on
                whole.append((start, waits.div(size)))
                waits.zero_()
            else:
                mine = self.take(name, k)
                places.append(mine[0] + start)
                values.append(mine[1])
        work: list[Future[Tensor]] = []
        total = buffer.new_empty(0)
        if whole:
            total = torch.cat([v for _, v in whole])
            self.sent += total.numel() * total.element_size()
            hold(total)
            work.append(dist.all_reduce(total, group=group, async_op=True).get_future())
        rows: list[Tensor] = []
        if places:
            packed = _pack(torch.cat(places), torch.cat(values), buffer.numel())
            self.sent += packed.numel()
            rows = [torch.empty_like(packed) for _ in range(size)]
            hold((rows, packed))
            work.append(dist.all_gather(rows, packed, group=group, async_op=True).get_future())
        self.step += last

        def unpack(done: Future[list[Future[Tensor]]]) -> Tensor:
            buffer.zero_()
            for row in rows:  # one rank after the other: no place occurs twice in a row, so the sum has one order
                at, what = _unpack(row, buffer)
                buffer.index_add_(0, at, what.div_(size))
            for (start, _), summed in zip(whole, torch.split(total, [v.numel() for _, v in whole]), strict=True):
                buffer[start : start + summed.numel()] = summed
            return buffer

        out: Future[Tensor] = torch.futures.collect_all(work).then(unpack)
        return out

    def _name_of(self, parameter: Tensor) -> str:
        found = self._name.get(id(parameter))
        if found is None:
            raise HaspError(
                f"a bucket holds a parameter of shape {tuple(parameter.shape)} that the compression was not given; "
                "give it all named parameters of the model"
            )
        return found

    def _scale(self, buffer: Tensor, size: int) -> float:
        """What this rank's gradient is multiplied with. The buffer is W times its share of the sum, which is clipped."""
        if self.clip is None:
            return 1.0
        limit = self.clip * math.sqrt(size) * math.sqrt(buffer.numel() / max(self._total, 1))
        norm = float(torch.linalg.vector_norm(buffer))
        return limit / norm if norm > limit else 1.0

    @property
    def clips(self) -> bool:  # type: ignore[override]
        """Whether ``clip`` is set."""
        return self.clip is not None

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def begin(self, step: int) -> None:
        """As :class:`Sender`."""
        self.step = step

    def waiting(self, bucket: Bucket) -> Tensor | None:
        """As :class:`Sender`."""
        held = [self.residual.get(self._name_of(p)) for p in bucket.parameters()]
        if all(v is None for v in held):
            return None
        pairs = zip(held, bucket.parameters(), strict=True)
        return torch.cat([torch.zeros_like(p).reshape(-1) if v is None else v for v, p in pairs])

    def state_dict(self) -> dict[str, Tensor]:
        """All that a run needs to go on bit for bit, of this rank: the step, and u and v by name."""
        state = {"step": torch.tensor(self.step)}
        for kind, held in (("velocity", self.velocity), ("residual", self.residual)):
            state |= {f"{kind}/{name}": value.clone() for name, value in held.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            HaspError: it is of other parameters; nothing has been changed then.
        """
        held: dict[str, dict[str, Tensor]] = {"velocity": {}, "residual": {}}
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind == "step":
                continue
            known = self.parameters.get(name)
            if kind not in held or known is None or known.numel() != value.numel():
                raise HaspError(f"the compression has no {key} with {value.numel()} entries; load the state of this model")
            held[kind][name] = value.clone().to(known.device)
        self.step = int(state["step"])
        self.velocity, self.residual = held["velocity"], held["residual"]


def _starts(parameters: Sequence[Tensor]) -> list[int]:
    """Where each parameter begins in the buffer of its bucket."""
    ends = torch.tensor([0, *(p.numel() for p in parameters)]).cumsum(0)
    return [int(e) for e in ends[:-1]]


def _index_type(count: int) -> torch.dtype:
    return torch.int32 if count < 2**31 else torch.int64


def _pack(places: Tensor, values: Tensor, count: int) -> Tensor:
    """Places and values as bytes, so that one collective carries both: uint8 ``[k * (4 + itemsize)]``."""
    return torch.cat([values.contiguous().view(torch.uint8), places.to(_index_type(count)).view(torch.uint8)])


def _unpack(row: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    kind = _index_type(buffer.numel())
    count = row.numel() // (buffer.element_size() + kind.itemsize)
    cut = count * buffer.element_size()
    # copies, so that both begin where their type may begin
    return row[cut:].clone().view(kind).long(), row[:cut].clone().view(buffer.dtype)
