"""What the ranks do in test_compression.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hasp.errors import HaspError
from hasp_models.distributed.compression import DeepGradientCompression
from hasp_models.distributed.hooks import FlatBucket, Sender
from hasp_models.distributed.sending import Sending, attach, sender_of

SHAPES = [(7, 9), (3,), (40,), (), (20, 5)]


def parameters(dtype: torch.dtype = torch.float64) -> dict[str, nn.Parameter]:
    return {f"p{i}": nn.Parameter(torch.zeros(shape, dtype=dtype)) for i, shape in enumerate(SHAPES)}


def gradients(step: int, rank: int) -> list[np.ndarray[Any, Any]]:
    """Small whole numbers, so that sums are exact in any order, with ties and zeros."""
    generator = np.random.default_rng([step, rank])
    return [generator.integers(-9, 10, int(np.prod(shape))).astype(float) * 12 for shape in SHAPES]


def exchanged(sender: Sender, mine: dict[str, nn.Parameter], step: int, split: int = 0) -> torch.Tensor:
    """One step in one bucket, or in two cut before the parameter ``split``."""
    every = list(mine.values())
    each = [torch.from_numpy(g).to(every[0].dtype) for g in gradients(step, dist.get_rank())]
    cuts = [(0, len(every))] if not split else [(0, split), (split, len(every))]
    out = []
    for i, (a, b) in enumerate(cuts):
        bucket = FlatBucket(i, torch.cat(each[a:b]), every[a:b], i == len(cuts) - 1)
        out.append(sender(bucket).wait())
    return torch.cat(out)


def follow(options: dict[str, Any], steps: int) -> dict[str, Any]:
    """A few steps of the compression: what each gave, and what waits in the end."""
    mine = parameters()
    sender = DeepGradientCompression(mine, **options)
    means = [exchanged(sender, mine, step, split=step % 3).tolist() for step in range(steps)]
    held = {name: value.tolist() for name, value in sender.residual.items()}
    return {"means": means, "residual": held, "sent": sender.sent}


def dense_or_not(sparse: bool) -> dict[str, Any]:
    """With ratio 1 beside the all-reduce of torch; ``sparse``: through values and places, all the same."""
    if sparse:
        DeepGradientCompression.whole = staticmethod(lambda entries, k, size: False)  # type: ignore[method-assign]
    found: dict[str, Any] = {"equal": True}
    for dtype in (torch.float64, torch.float32):
        mine = parameters(dtype)
        ours, plain = DeepGradientCompression(mine, 1.0), sender_of(Sending("dense"), mine)
        for step in range(4):
            a, b = exchanged(ours, mine, step), exchanged(plain, mine, step)
            found["equal"] &= bool(torch.allclose(a, b, rtol=1e-6, atol=0)) if sparse else torch.equal(a, b)
        found["waiting"] = max(float(v.abs().max()) for v in ours.residual.values())
    return found


def resumed(text: str, steps: int, stop: int) -> dict[str, Any]:
    """Steps without a break, and with a new sender that goes on from the state of the old one."""

    def run(break_at: int | None) -> list[Any]:
        torch.manual_seed(0)
        mine = parameters(torch.float32)
        sending = Sending.parse(text, warmup_steps=2)
        sender, out = sender_of(sending, mine), []
        for step in range(steps):
            if step == break_at:
                state = sender.state_dict()
                sender = sender_of(sending, mine)
                sender.load_state_dict(state)
            out.append(exchanged(sender, mine, step).tolist())
        return out

    return {"whole": run(None), "broken": run(stop)}


def ddp(text: str, steps: int = 6) -> dict[str, Any]:
    """A DDP model of several buckets, trained with a hook; and beside it, by hand, with plain means."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 5))
    wrapped = DistributedDataParallel(model, bucket_cap_mb=0.0005)
    sender = attach(wrapped, text)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(7)
    x, y = (torch.randn(dist.get_world_size(), 30, n, generator=generator) for n in (6, 5))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(wrapped(x[dist.get_rank()]), y[dist.get_rank()])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        sender.after_step(list(model.parameters()))
        losses.append(float(loss.detach()))
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).tolist()
    state = {k: list(v.shape) for k, v in sender.state_dict().items()}
    return {"weights": weights, "losses": losses, "sent": sender.sent, "state": state}


def several(texts: list[str], steps: int = 6) -> dict[str, Any]:
    return {text: ddp(text, steps) for text in texts}


def refused() -> list[str]:
    """Ways of sending that this group cannot go."""
    unknown = FlatBucket(0, torch.zeros(3), [torch.zeros(3)], True)
    asks: list[Callable[[], Any]] = [
        lambda: sender_of(Sending("bf16"), {}),
        lambda: sender_of(Sending("local-sgd", tree=((2, 3),)), {}),
        lambda: sender_of(Sending("local-sgd", tree=((4, 2), (2, 4))), {}),
        lambda: DeepGradientCompression({})(unknown),
    ]
    return [said(ask) for ask in asks]


def said(ask: Callable[[], Any]) -> str:
    try:
        ask()
    except HaspError as error:
        return str(error)
    return ""
