"""How gradients are sent, by name: for the trainer (``fit(..., gradients="dgc:0.01")``) and for a DDP loop of your own.

In a DDP loop, ``sender = attach(ddp, "dgc:0.01")`` before the first step, ``sender.after_step(list(model.parameters()))``
behind every step of the optimizer (local-sgd averages weights there; the others do nothing), and ``sender.state_dict()``, of
every rank, into the checkpoint: tensors that this rank has held back so far.
"""
# No ``from __future__ import annotations`` here: DDP reads the annotations of its hook as objects.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from hasp.errors import HaspError
from hasp_models.distributed.compression import DeepGradientCompression
from hasp_models.distributed.hooks import Cast, LocalSGD, PowerSGD, Sender

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NAMES", "Sending", "attach", "sender_of", "sender_of_run"]

NAMES = ("dense", "fp16", "bf16", "dgc", "powersgd", "local-sgd")
"""The ways of sending."""


@dataclass(frozen=True)
class Sending:
    """A way of sending gradients, and its settings.

    Attributes:
        name: ``dense`` (all-reduce), ``fp16`` and ``bf16`` (in half precision; bf16 needs nccl), ``dgc`` (the largest only,
            :class:`hasp_models.distributed.compression.DeepGradientCompression`), ``powersgd`` (thin matrices), ``local-sgd``
            (own steps, weights averaged now and then).
        ratio: of dgc: share of the entries that is sent.
        momentum: of dgc: momentum correction, for an optimizer without momentum of its own.
        rank: of powersgd: width of the thin matrices.
        period: of local-sgd: steps between two averages.
        tree: of local-sgd: ``((period, ranks of a group), ...)`` up to all ranks, in the place of ``period``.
        warmup_steps: steps at the start in which more is sent: of dgc (25, 6.25, 1.56, 0.39 %), powersgd and local-sgd (all).
    """

    name: str = "dense"
    ratio: float = 0.001
    momentum: float = 0.0
    rank: int = 1
    period: int = 4
    tree: tuple[tuple[int, int], ...] = ()
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise HaspError(f"gradients are sent as one of {', '.join(NAMES)}, got {self.name!r}; choose one")
        if not 0 < self.ratio <= 1 or not 0 <= self.momentum < 1 or self.rank < 1 or self.period < 2 or self.warmup_steps < 0:
            raise HaspError(
                "ratio is in (0, 1], momentum in [0, 1), rank at least 1, period at least 2, warmup_steps at least 0, "
                f"got {self}; correct them"
            )

    @classmethod
    def parse(cls, text: str, warmup_steps: int = 0) -> "Self":
        """From words ``name:setting:warmup_steps``, of which the name is enough: ``dgc:0.01`` (ratio), ``powersgd:2`` (rank),
        ``local-sgd:4`` (period), ``local-sgd:4x2,16x8`` (tree: every 4 steps by twos, every 16 by eights), ``dgc:0.01:200``.

        Raises:
            HaspError: no such name, or a setting that is none.
        """
        name, *more = text.split(":")
        given: dict[str, Any] = {"warmup_steps": warmup_steps}
        try:
            if len(more) > 1:
                given["warmup_steps"] = int(more[1])
            if more and name == "dgc":
                given["ratio"] = float(more[0])
            elif more and name == "powersgd":
                given["rank"] = int(more[0])
            elif more and name == "local-sgd" and "x" not in more[0]:
                given["period"] = int(more[0])
            elif more and name == "local-sgd":
                given["tree"] = tuple((int(p), int(n)) for p, n in (level.split("x") for level in more[0].split(",")))
            elif more and name in NAMES:
                raise ValueError(name)
        except ValueError as error:
            raise HaspError(
                f"gradients are sent as {', '.join(NAMES)}, some with a setting (dgc:0.01, powersgd:2, local-sgd:4, "
                f"local-sgd:4x2,16x8) and the steps of a warm-up (dgc:0.01:200), got {text!r}; correct it"
            ) from error
        return cls(name, **given)


def sender_of(
    sending: Sending,
    parameters: Mapping[str, nn.Parameter],
    clip: float | None = None,
    group: dist.ProcessGroup | None = None,
) -> Sender:
    """The hook of this rank.

    Args:
        sending: which one.
        parameters: all that go through it, by name.
        clip: of dgc, which clips before it sends.
        group: of the ranks; ``None``: the default one.

    Raises:
        HaspError: there is no process group, or this way does not work on its backend.
    """
    if sending.name == "dgc":
        return DeepGradientCompression(
            parameters,
            sending.ratio,
            momentum=sending.momentum,
            clip=clip,
            warmup_steps=sending.warmup_steps,
            group=group,
        )
    if sending.name == "powersgd":
        return PowerSGD(sending.rank, sending.warmup_steps, group)
    if sending.name == "local-sgd":
        return LocalSGD(sending.period, sending.tree, sending.warmup_steps, group)
    kinds = {"dense": None, "fp16": torch.float16, "bf16": torch.bfloat16}
    return Cast(kinds[sending.name], group)


def sender_of_run(
    sending: Sending, model: nn.Module, tables: Sequence[nn.Parameter], size: int, clip: float | None
) -> Sender | None:
    """The hook of a training run; ``None`` where a plain all-reduce does, or one process has nothing to send.

    One process alone still gets a hook that may hold gradients back: if it goes on from several, these must not be lost.

    Args:
        sending: which one.
        model: what is trained.
        tables: its parameters that do not go through the hook.
        size: number of ranks.
        clip: see :func:`sender_of`.
    """
    if sending.name == "dense" or (size == 1 and sending.name not in ("dgc", "powersgd")):
        return None
    apart = {id(table) for table in tables}
    return sender_of(sending, {n: p for n, p in model.named_parameters() if p.requires_grad and id(p) not in apart}, clip)


def attach(
    model: DistributedDataParallel,
    sending: Sending | str,
    *,
    clip: float | None = None,
    group: dist.ProcessGroup | None = None,
) -> Sender:
    """Let a DDP model send its gradients this way.

    Args:
        model: before its first backward pass.
        sending: a :class:`Sending`, or words that it parses.
        clip: see :func:`sender_of`.
        group: of the model, if it is not the default one.

    Returns:
        The hook, whose ``after_step`` belongs behind every step of the optimizer.
    """
    chosen = Sending.parse(sending) if isinstance(sending, str) else sending
    sender = sender_of(chosen, {n: p for n, p in model.module.named_parameters() if p.requires_grad}, clip, group)
    model.register_comm_hook(sender, _hook)
    return sender


# Annotations of this file are not postponed: older torch compares those of a hook with the classes themselves.
def _hook(sender: Sender, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    return sender(bucket)
