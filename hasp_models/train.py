"""Training: one loop, in sight.

An optimizer step covers ``parts_per_step`` parts of the loader, over all ranks. Its gradient is the sum over all their
batches divided by the sum of their weights: Eq. 4's global mean, whatever the sizes of the parts and however many ranks
share them. (Averaging per-part means, as a usual DDP loop does, weighs small parts more; the tests show by how much.)

What fails on one rank (a corrupt part, a dead worker, memory, ``validate``) is raised on every rank within seconds; see
:mod:`hasp_models.distributed.ranks`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hasp import __version__, memory
from hasp.console import Bar
from hasp.errors import HaspError
from hasp.load.loader import HASPLoader
from hasp.rng import subkey, word
from hasp_models.checkpoint import Checkpoint, signature, weights_of
from hasp_models.distributed.gradients import Gradients, entity_tables
from hasp_models.distributed.ranks import Ranks
from hasp_models.distributed.rows import LazyAdamW
from hasp_models.distributed.sending import Sending, sender_of_run
from hasp_models.objectives import Objective
from hasp_models.run_log import RunLog, refusing

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

    def place(self) -> dict[str, int]:
        """Where it is, for a log."""
        return {"epoch": self.epoch, "step": self.step}

    def end(self, value: float | None, seconds: float, patience: int | None) -> bool:
        """Close an epoch: count it, add its row, decide whether to stop. Returns whether it is the best so far."""
        self.epoch += 1
        row = {"epoch": self.epoch, "step": self.step, "loss": self.loss_sum / self.weight, "validation": value}
        self.history.append({**row, "seconds": seconds})
        self.loss_sum = self.weight = 0.0
        better = value is not None and (self.best is None or value > self.best)
        if better:
            self.best, self.best_epoch = value, self.epoch
        self.stopped = patience is not None and self.epoch - self.best_epoch >= patience
        return better


def fit(
    model: nn.Module,
    loader: HASPLoader,
    objective: Objective,
    *,
    epochs: int,
    lr: float = 0.01,
    weight_decay: float = 0.0,
    schedule: str = "constant",
    clip: float | None = None,
    lazy_rows: bool = False,
    gradients: str | Sending = "dense",
    amp: bool = False,
    seed: int = 0,
    validate: Callable[[nn.Module], float] | None = None,
    patience: int | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    checkpoint_steps: int | None = None,
    max_steps: int | None = None,
    log: str | Path | None = None,
    tensorboard: bool = False,
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
        schedule: of ``lr``: ``constant``, or ``cosine``: half a cosine from ``lr`` to 0 over all steps of ``epochs``.
        clip: largest norm of the gradient.
        lazy_rows: free vectors of entities move only in steps in which they got a gradient (see
            :class:`hasp_models.distributed.rows.LazyAdamW`); AdamW moves all of them in every step, by momentum.
        gradients: how several ranks send them: ``dense``, ``fp16``, ``dgc:0.01``, ``powersgd:2``, ``local-sgd:4`` or a
            :class:`hasp_models.distributed.sending.Sending`. With dgc and local-sgd, ``clip`` is each rank's own.
        amp: run the model's forward pass in bfloat16 where torch considers it safe; the objective gets float32.
        seed: of all that model and objective draw. A batch's draws depend on seed, step and its parts, on nothing else.
        validate: called on rank 0 after every epoch; higher is better. The best weights are put back in the end.
        patience: epochs without a better value after which training ends.
        checkpoint: folder; saved after every epoch, and resumed from if it has one.
        checkpoint_steps: save after so many steps as well.
        max_steps: stop, with a checkpoint if there is one, after so many steps in all.
        log: folder for ``log.jsonl`` (events as they happen), ``log.csv`` (a row per epoch) and ``metrics.json``; see
            :class:`hasp_models.run_log.RunLog`.
        tensorboard: TensorBoard's events as well, in ``log/tensorboard``.
        progress: a bar on a terminal; elsewhere there is none.

    Returns:
        What was counted. The model holds the best weights (the last, without ``validate``).

    Raises:
        HaspError: settings out of range, nothing that supervises, a loss that is not finite, a checkpoint of another run.
    """
    ranks = Ranks()
    with refusing(log, ranks.rank), ranks.together("setting up"):
        _check(epochs, lr, schedule, clip, patience, validate, tensorboard and log is None)
        device = next(model.parameters()).device
        parameters = [p for p in model.parameters() if p.requires_grad]
        tables = entity_tables(model)
        moves: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        optimizer = LazyAdamW(parameters, tables, **moves) if lazy_rows else _adam_w(parameters, device, **moves)
        sending = Sending.parse(gradients) if isinstance(gradients, str) else gradients
        sums = Gradients(optimizer, parameters, tables, ranks, sender_of_run(sending, model, tables, ranks.size, clip))
        said = _said(objective, schedule, epochs, sending)
        settings = {**moves, "clip": clip, "amp": amp, "seed": seed, "lazy_rows": lazy_rows, **said}
        keeper = Checkpoint.at(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
        run, best = Fit(), weights_of(model) if validate else {}
        if keeper is not None and keeper.exists():
            counted, best = keeper.load(model, optimizer, loader, settings, epochs)
            run = Fit(**counted)
            sums.restore(keeper.gradients(), run.step)
        logger = RunLog(log, tensorboard, run.epoch, rank=ranks.rank)
        plan = (epochs, patience, checkpoint_steps, max_steps, validate is None, keeper is None, log is None)
        mine = {"model": signature(model), "settings": settings, "parts": loader.state_dict(), "plan": plan}
    with refusing(log, ranks.rank):
        ranks.same({"checkpoint": (run.epoch, run.step), **mine})
        ranks.copy_first("copying weights", list(model.state_dict().values()))

    def save() -> None:
        if keeper is not None:
            task = partial(keeper.save, model, optimizer, loader, settings, run.__dict__, best, sums.state())
            ranks.on_first("saving the checkpoint", logger.saving(task, run.epoch, run.step, within=run.weight > 0))

    logger.begin(ranks, run.step, epoch=run.epoch, epochs=epochs, **_about(model, loader, settings, ranks, device))
    with ranks.noting_signals(), logger.telling(run.place), Bar(quiet=not progress or ranks.rank > 0) as bar:
        while run.epoch < epochs and not run.stopped:
            begin = time.perf_counter()
            with ranks.together(f"opening epoch {run.epoch + 1}"):
                batches = iter(loader)
            for step in range(loader.state_dict()["step"], loader.steps_per_epoch):
                if max_steps is not None and run.step >= max_steps:
                    save()
                    ranks.on_first("writing the log", partial(logger.say, "paused", epoch=run.epoch, step=run.step))
                    return run
                # Every rank comes to the end of this block, whatever happens in it: no gradient is summed by some only.
                with ranks.together(f"step {run.step}", 2) as total:
                    model.train()
                    _ready(optimizer, lr * _share(schedule, run.step, epochs * loader.steps_per_epoch))
                    for _ in range(loader.batches_in_step(step)):
                        batch = next(batches).to(device)
                        key = _key(seed, run.step, batch)
                        with _drawing(key, device):
                            term = objective(_Half(model, device) if amp else model, batch, key)
                        term.sum.backward()  # type: ignore[no-untyped-call]
                        total[0], total[1] = total[0] + float(term.sum.detach()), total[1] + term.weight
                    sums.collect()
                loss, weight = total
                if not math.isfinite(loss):
                    raise HaspError(f"the loss of step {run.step} is {loss}; lower lr={lr}, or clip gradients")
                sums.exchange(weight)
                with ranks.noting():
                    sums.move(weight, clip)
                    logger.often("step", epoch=run.epoch + 1, step=run.step + 1, done=step + 1, loss=loss / (weight or 1.0))
                sums.average()
                run.step, run.loss_sum, run.weight = run.step + 1, run.loss_sum + loss, run.weight + weight
                bar(f"epoch {run.epoch + 1}", step + 1, loader.steps_per_epoch)
                if checkpoint_steps and run.step % checkpoint_steps == 0:
                    save()
            with ranks.together(f"closing epoch {run.epoch + 1}"):
                next(batches, None)  # past the last batch, the loader goes on to the next epoch
            if not run.weight:
                raise HaspError("no part supervises a link in a whole epoch; merge parts, or build fewer parts")
            sums.settle()
            value = None if validate is None else _validated(model, validate, ranks)
            if run.end(value, round(time.perf_counter() - begin, 3), patience):
                best = weights_of(model)
            metrics = _metrics(run, ranks, loader, settings, device)
            ranks.on_first("writing the log", partial(logger.write, run.history, metrics))
            save()
        ranks.on_first("writing the log", partial(logger.end, run.__dict__))
    if best:
        model.load_state_dict(best)
    return run


def _adam_w(parameters: list[nn.Parameter], device: torch.device, **moves: Any) -> torch.optim.Optimizer:
    """AdamW, fused where torch can: one pass over all weights, not ten over each tensor."""
    return torch.optim.AdamW(parameters, **moves, fused=device.type in ("cpu", "cuda"))


def _key(seed: int, step: int, batch: Any) -> int:
    """What a batch's draws are made from: the same on whichever rank, and after whichever resumption, it is trained."""
    parts = word(",".join(map(str, batch.part_id.tolist())))
    return int(subkey(seed, step, parts, word("train"))) >> 1


class _drawing:
    """Seeds torch for one batch, and leaves the caller's generators as they were."""

    def __init__(self, key: int, device: torch.device) -> None:
        self.on_host = device.type == "cpu"
        self.key, self.fork = key, torch.random.fork_rng([device] if device.type == "cuda" else [])

    def __enter__(self) -> None:
        self.fork.__enter__()
        if self.on_host:
            torch.default_generator.manual_seed(self.key)  # torch.manual_seed formats a stack for each kind of device
        else:
            torch.manual_seed(self.key)

    def __exit__(self, *error: Any) -> None:
        self.fork.__exit__(*error)


def _about(
    model: nn.Module, loader: HASPLoader, settings: dict[str, Any], ranks: Ranks, device: torch.device
) -> dict[str, Any]:
    """What is trained, on what and how: the head of a log."""
    return {
        "run": "train",
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "fingerprint": loader.state_dict()["fingerprint"],
        "num_parts": loader.num_parts,
        "steps_per_epoch": loader.steps_per_epoch,
        "parts_per_step": loader.state_dict()["parts_per_step"],
        "world_size": ranks.size,
        "device": str(device),
        "settings": settings,
    }


def _metrics(run: Fit, ranks: Ranks, loader: HASPLoader, settings: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """How the run stands, in plain values; bytes are those of this process."""
    seconds = sum(row["seconds"] for row in run.history)
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {
        "library": __version__,
        "torch": torch.__version__,
        "fingerprint": loader.state_dict()["fingerprint"],
        "settings": settings,
        "world_size": ranks.size,
        "device": str(device),
        "epoch": run.epoch,
        "step": run.step,
        "seconds": round(seconds, 3),
        "steps_per_second": round(run.step / seconds, 3) if seconds else None,
        "loss": run.history[-1]["loss"],
        "best": run.best,
        "best_epoch": run.best_epoch,
        "stopped": run.stopped,
        "peak_bytes": memory.peak_bytes(),
        "peak_device_bytes": on_device,
        "sent_bytes": ranks.sent,
    }


class _Half:
    """A model whose forward pass runs under autocast and hands out float32: no loss is computed in half precision."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model, self._device = model, device

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with torch.autocast(self._device.type, torch.bfloat16):
            out = self._model(*arguments, **options)
        return {k: v.float() for k, v in out.items()} if isinstance(out, dict) else out.float()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _validated(model: nn.Module, validate: Callable[[nn.Module], float], ranks: Ranks) -> float:
    def run() -> float:
        model.eval()
        with torch.no_grad():
            return float(validate(model))

    found = ranks.on_first("validate", run)
    if not math.isfinite(found):
        raise HaspError(f"validate returns a finite number, got {found}; check that its truth has queries")
    return found


def _said(objective: Objective, schedule: str, epochs: int, sending: Sending) -> dict[str, Any]:
    """Settings as a checkpoint names them; what is as usual goes without, so that older checkpoints stay readable."""
    out: dict[str, Any] = {"objective": repr(objective)}
    out |= {} if schedule == "constant" else {"schedule": schedule, "epochs": epochs}
    return out if sending.name == "dense" else {**out, "gradients": repr(sending)}


def _share(schedule: str, step: int, steps: int) -> float:
    """Of lr, for a step: it depends on the step alone, so that a resumption goes on as if nothing had been."""
    return 1.0 if schedule == "constant" else 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _ready(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """For a step: its lr, and no gradient yet."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()


def _check(epochs: int, lr: float, schedule: str, clip: float | None, patience: int | None, validate: Any, lost: bool) -> None:
    if schedule not in ("constant", "cosine"):
        raise HaspError(f"schedule is 'constant' or 'cosine', got {schedule!r}; choose one")
    if epochs < 1 or not lr > 0 or (clip is not None and not clip > 0):
        raise HaspError(f"epochs is at least 1, lr and clip above 0, got epochs={epochs}, lr={lr}, clip={clip}; correct them")
    if patience is not None and (validate is None or patience < 1):
        raise HaspError(f"patience is at least 1 and needs validate=, got {patience}; give validate, or leave patience out")
    if lost:
        raise HaspError("tensorboard=True writes into the folder of log=, got none; give log=")


if __name__ == "__main__":  # python -m hasp_models.train, which is what torchrun -m starts
    from hasp_models.cli import main

    main(["train", *sys.argv[1:]])
