"""Training: one loop, in sight.

An optimizer step covers ``parts_per_step`` parts of the loader, over all ranks. Its gradient is the sum over all their
batches divided by the sum of their weights: Eq. 4's global mean, whatever the sizes of the parts and however many ranks
share them. (Averaging per-part means, as a usual DDP loop does, weighs small parts more; the tests show by how much.)
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from hasp.console import Bar
from hasp.errors import HaspError
from hasp.load.loader import HASPLoader
from hasp.rng import subkey, word
from hasp.store.disk import Disk
from hasp_models.checkpoint import Checkpoint
from hasp_models.objectives import Objective

__all__ = ["Fit", "fit"]


@dataclass
class Fit:
    """How training went, and all that it counts (so that a checkpoint can hold it).

    Attributes:
        step: optimizer steps taken.
        epoch: epochs done.
        loss_sum, weight: of the epoch under way, over all ranks.
        best: the best value of ``validate``, and ``best_epoch`` its epoch (counting from 1; 0: none).
        stopped: ``patience`` ran out.
        history: one row per epoch: epoch, step, loss, seconds, validation.
    """

    step: int = 0
    epoch: int = 0
    loss_sum: float = 0.0
    weight: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    stopped: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


def fit(
    model: nn.Module,
    loader: HASPLoader,
    objective: Objective,
    *,
    epochs: int,
    lr: float = 0.01,
    weight_decay: float = 0.0,
    clip: float | None = None,
    amp: bool = False,
    seed: int = 0,
    validate: Callable[[nn.Module], float] | None = None,
    patience: int | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    checkpoint_steps: int | None = None,
    max_steps: int | None = None,
    log: str | Path | None = None,
    progress: bool = True,
) -> Fit:
    """Train a model on parts, in one process or, under ``torch.distributed``, in several.

    Args:
        model: ``model(batch)`` gives what the objective reads. Ranks start from the weights of rank 0.
        loader: batches with supervision; the same arguments on every rank.
        objective: ``(model, batch, key) -> LossTerm``; see :mod:`hasp_models.objectives`.
        epochs: passes over all parts, those before a resumption included.
        lr: of AdamW.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        amp: run the forward pass in bfloat16 where torch considers it safe.
        seed: of all that model and objective draw. A batch's draws depend on seed, step and its parts, on nothing else.
        validate: called on rank 0 after every epoch; higher is better. The best weights are put back in the end.
        patience: epochs without a better value after which training ends.
        checkpoint: folder; saved after every epoch, and resumed from if it has one.
        checkpoint_steps: save after so many steps as well.
        max_steps: stop, with a checkpoint if there is one, after so many steps in all.
        log: folder for ``log.jsonl`` and ``log.csv``, a row per epoch.
        progress: a bar on a terminal; elsewhere there is none.

    Returns:
        What was counted. The model holds the best weights (the last, without ``validate``).

    Raises:
        HaspError: settings out of range, nothing that supervises, a loss that is not finite, a checkpoint of another run.
    """
    _check(epochs, lr, clip, patience, validate)
    first = not _many() or dist.get_rank() == 0
    device = next(model.parameters()).device
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    settings = {"lr": lr, "weight_decay": weight_decay, "clip": clip, "amp": amp, "seed": seed, "objective": repr(objective)}
    keeper = Checkpoint.at(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
    run, best = Fit(), {k: v.detach().clone() for k, v in model.state_dict().items()} if validate else {}
    if keeper is not None and keeper.exists():
        counted, best = keeper.load(model, optimizer, loader, settings)
        run = Fit(**counted)
    if _many():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)

    def save() -> None:
        if keeper is not None and first:
            keeper.save(model, optimizer, loader, settings, run.__dict__, best)

    with Bar(quiet=not (progress and first)) as bar:
        while run.epoch < epochs and not run.stopped:
            begin, batches = time.perf_counter(), iter(loader)
            for step in range(loader.state_dict()["step"], loader.steps_per_epoch):
                if max_steps is not None and run.step >= max_steps:
                    save()
                    return run
                model.train()
                optimizer.zero_grad()
                loss, weight = 0.0, 0.0
                for _ in range(loader.batches_in_step(step)):
                    batch = next(batches).to(device)
                    key = _key(seed, run.step, batch)
                    with _drawing(key, device), torch.autocast(device.type, torch.bfloat16) if amp else nullcontext():
                        term = objective(model, batch, key)
                    term.sum.backward()  # type: ignore[no-untyped-call]
                    loss, weight = loss + float(term.sum.detach()), weight + term.weight
                loss, weight = _add_up(parameters, loss, weight)
                if not math.isfinite(loss):
                    raise HaspError(f"the loss of step {run.step} is {loss}; lower lr={lr}, or clip gradients")
                if weight:  # a step of parts without any pair moves nothing, on any rank
                    for p in parameters:
                        p.grad.div_(weight)  # type: ignore[union-attr]
                    if clip is not None:
                        nn.utils.clip_grad_norm_(parameters, clip)
                    optimizer.step()
                run.step, run.loss_sum, run.weight = run.step + 1, run.loss_sum + loss, run.weight + weight
                bar(f"epoch {run.epoch + 1}", step + 1, loader.steps_per_epoch)
                if checkpoint_steps and run.step % checkpoint_steps == 0:
                    save()
            next(batches, None)  # past the last batch, the loader goes on to the next epoch
            if not run.weight:
                raise HaspError("no part supervises a link in a whole epoch; merge parts, or build fewer parts")
            run.epoch += 1
            value = _validated(model, validate, first, device)
            row = {"epoch": run.epoch, "step": run.step, "loss": run.loss_sum / run.weight, "validation": value}
            run.history.append({**row, "seconds": round(time.perf_counter() - begin, 3)})
            run.loss_sum = run.weight = 0.0
            if value is not None and (run.best is None or value > run.best):
                run.best, run.best_epoch = value, run.epoch
                best = {k: v.detach().clone() for k, v in model.state_dict().items()}
            run.stopped = patience is not None and run.epoch - run.best_epoch >= patience
            save()
            if log is not None and first:
                _write_log(Path(log), run.history)
    if best:
        model.load_state_dict(best)
    return run


def _many() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _add_up(parameters: list[nn.Parameter], loss: float, weight: float) -> tuple[float, float]:
    """Sum loss, weight and gradients over all ranks. A parameter without gradient gets zeros, at any world size."""
    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    if not _many():
        return loss, weight
    device = parameters[0].device
    both = torch.tensor([loss, weight], dtype=torch.float64, device=device)
    dist.all_reduce(both)
    for kind in {p.dtype for p in parameters}:
        grads = [p.grad for p in parameters if p.dtype == kind and p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        for grad, total in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
            grad.copy_(total.view_as(grad))
    return float(both[0]), float(both[1])


def _key(seed: int, step: int, batch: Any) -> int:
    """What a batch's draws are made from: the same on whichever rank, and after whichever resumption, it is trained."""
    parts = word(",".join(map(str, batch.part_id.tolist())))
    return int(subkey(seed, step, parts, word("train"))) >> 1


class _drawing:
    """Seeds torch for one batch, and leaves the caller's generators as they were."""

    def __init__(self, key: int, device: torch.device) -> None:
        self.key, self.fork = key, torch.random.fork_rng([device] if device.type == "cuda" else [])

    def __enter__(self) -> None:
        self.fork.__enter__()
        torch.manual_seed(self.key)

    def __exit__(self, *error: Any) -> None:
        self.fork.__exit__(*error)


def _validated(
    model: nn.Module, validate: Callable[[nn.Module], float] | None, first: bool, device: torch.device
) -> float | None:
    if validate is None:
        return None
    model.eval()
    value = torch.zeros(1, dtype=torch.float64, device=device)
    if first:
        with torch.no_grad():
            value.fill_(validate(model))
    if _many():
        dist.broadcast(value, 0)
    found = float(value)
    if not math.isfinite(found):
        raise HaspError(f"validate returns a finite number, got {found}; check that its truth has queries")
    return found


def _write_log(folder: Path, history: list[dict[str, Any]]) -> None:
    disk = Disk()
    disk.make_folder(folder)
    disk.put(folder / "log.jsonl", ["".join(json.dumps(row) + "\n" for row in history).encode()])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    disk.put(folder / "log.csv", [text.getvalue().encode()])


def _check(epochs: int, lr: float, clip: float | None, patience: int | None, validate: Any) -> None:
    if epochs < 1 or not lr > 0 or (clip is not None and not clip > 0):
        raise HaspError(f"epochs is at least 1, lr and clip above 0, got epochs={epochs}, lr={lr}, clip={clip}; correct them")
    if patience is not None and (validate is None or patience < 1):
        raise HaspError(f"patience is at least 1 and needs validate=, got {patience}; give validate, or leave patience out")
