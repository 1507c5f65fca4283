"""What the ranks do in test_sending.py."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from train_graphs import EEL, small_loader, small_model, small_parts

from hasp_models.distributed.gradients import Gradients
from hasp_models.distributed.ranks import Ranks
from hasp_models.distributed.sending import Sending, sender_of_run
from hasp_models.objectives import InfoNCE
from hasp_models.train import fit

graph = functools.cache(small_parts)


def train(text: str, checkpoint: str | None = None, warmup: int = 0, free: bool = True, **options: Any) -> dict[str, Any]:
    """A small run with one way of sending."""
    parts = graph()
    model, loader = small_model(parts, free=free, entity_dropout=0.5 if free else 0.0), small_loader(parts, parts_per_step=2)
    sending = Sending.parse(text, warmup_steps=warmup)
    how = {"epochs": 3, "clip": 1.0, "weight_decay": 0.1, "gradients": sending, "progress": False, **options}
    seen: list[int] = []

    def validate(_: nn.Module) -> float:
        seen.append(1)
        return float(len(seen))  # the last is the best

    run = fit(model, loader, InfoNCE(EEL, max_pairs=16), checkpoint=checkpoint, validate=validate, **how)
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    return {"weights": weights.tolist(), "loss": [row["loss"] for row in run.history], "step": run.step}


def ways(texts: list[str], log: str) -> dict[str, Any]:
    return {text: train(text, log=Path(log) / text.replace(":", "-")) for text in texts}


def interrupted(texts: list[str], folder: str) -> dict[str, Any]:
    """Each way to its end, and in two pieces."""
    out = {}
    for i, text in enumerate(texts):
        # In both runs a checkpoint after each step, because local-sgd averages before one is saved.
        whole = train(text, f"{folder}/whole{i}", 1, checkpoint_steps=1)
        train(text, f"{folder}/pieces{i}", 1, checkpoint_steps=1, max_steps=4)
        out[text] = {"whole": whole, "pieces": train(text, f"{folder}/pieces{i}", 1, checkpoint_steps=1)}
    return out


def go_on(text: str, folder: str, steps: int | None = None) -> dict[str, Any]:
    return train(text, folder, max_steps=steps)


def kind_of(key: str) -> torch.dtype:
    return torch.long if key.endswith("step") else torch.float64


def hold_back(text: str, saved: dict[str, Any] | None) -> dict[str, Any]:
    """Some steps that hold back, and what is held in all; or what is held after going on from that."""
    ranks, weight = Ranks(), 5.0
    model = nn.Linear(6, 4).double()
    sender = sender_of_run(Sending.parse(text), model, [], ranks.size, None)
    sums = Gradients(torch.optim.SGD(model.parameters(), lr=0.0), list(model.parameters()), [], ranks, sender)
    came = torch.zeros(28, dtype=torch.float64)
    gone = torch.zeros(28, dtype=torch.float64)
    if saved is None:
        for step in range(5):
            generator = torch.Generator().manual_seed(10 * step + ranks.rank)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
                came[p.numel() % 24 and 24 :][: p.numel()] += p.grad.reshape(-1) / weight
            sums.collect()
            sums.exchange(weight)
            sums.move(weight, None)
            gone += torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
        dist.all_reduce(came)
    else:
        sums.restore({k: torch.tensor(v, dtype=kind_of(k)) for k, v in saved.items()}, 5)
    state = {k: v.tolist() for k, v in sums.state().items()}
    weights = [torch.tensor(v, dtype=torch.float64) for k, v in state.items() if "residual" in k and "weight" in k]
    held = torch.stack(weights).mean(dim=0)
    return {"state": state, "held": held.tolist(), "came": came[:24].tolist(), "gone": gone[:24].tolist()}


def dense_and_all() -> dict[str, Any]:
    return {text: train(text, clip=None) for text in ("dense", "dgc:1")}
