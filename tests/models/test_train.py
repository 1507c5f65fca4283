"""Training: the global mean at any number of ranks, resumption bit for bit, early stopping, what is refused."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_graphs import EEL, mean_of_means, small_loader, small_model, small_parts, train_many, train_small

import hasp
from hasp.errors import CorruptPart, HaspError
from hasp.store.disk import Disk
from hasp_models.checkpoint import Checkpoint
from hasp_models.kernels import numba_csr, torch_csr
from hasp_models.objectives import InfoNCE, LinkBCE, LossTerm
from hasp_models.semantic_gnn import SemanticGNN
from hasp_models.train import fit

pytestmark = pytest.mark.usefixtures("quick_disk")


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("objective", "lazy"), [("paper", False), ("infonce", False), ("infonce", True)])
def test_two_and_three_ranks_train_as_one(objective: str, lazy: bool, tmp_path: Path) -> None:
    alone = train_small(objective, False, lazy)
    for world_size in (2, 3):
        ranks = train_many(world_size, tmp_path / str(world_size), objective, False, lazy)
        for rank in ranks:
            assert rank["step"] == alone["step"]
            np.testing.assert_allclose(rank["loss"], alone["loss"], rtol=1e-5)
            np.testing.assert_allclose(rank["weights"], alone["weights"], atol=2e-4)
            assert rank["weights"] == ranks[0]["weights"]


def gradients(planted: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of one step over all parts, and the one from the definition: one sum over all, one division."""
    parts = small_parts()
    objective: Any = LinkBCE(EEL)
    taken = []
    for loss in (mean_of_means(objective) if planted else objective, None):
        model, loader = small_model(parts), small_loader(parts, "paper", parts_per_step=6)
        if loss is not None:
            with torch.no_grad():
                before = [p.detach().clone() for p in model.parameters()]
            # One step of plain descent: AdamW would hide the size of the gradient.
            original, torch.optim.AdamW = torch.optim.AdamW, lambda p, lr, **_: torch.optim.SGD(p, lr=lr)
            try:
                fit(model, loader, loss, epochs=1, lr=1.0, progress=False)
            finally:
                torch.optim.AdamW = original
            taken.append(torch.cat([(b - p.detach()).reshape(-1) for b, p in zip(before, model.parameters(), strict=True)]))
        else:
            terms = [objective(model, batch, 0) for batch in loader]
            (sum(t.sum for t in terms) / sum(t.weight for t in terms)).backward()
            found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
            taken.append(torch.cat([g.reshape(-1) for g in found]))
    return taken[0], taken[1]


def test_the_gradient_is_the_global_mean_and_a_mean_of_means_is_not() -> None:
    mine, truth = gradients(planted=False)
    torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-6)
    wrong, truth = gradients(planted=True)
    assert float((wrong - truth).norm() / truth.norm()) > 0.05


@pytest.mark.parametrize("stop", range(0, 7))
def test_resumed_at_any_step_it_ends_with_the_same_bits(stop: int, tmp_path: Path) -> None:
    parts = small_parts()

    def run(folder: Path | None, **options: Any) -> tuple[dict[str, torch.Tensor], Any]:
        model = small_model(parts, free=True, entity_dropout=0.5)
        loader, objective = small_loader(parts), InfoNCE(EEL, max_pairs=16)
        value = lambda m: -float(next(m.parameters()).detach().norm())  # noqa: E731
        run = fit(model, loader, objective, epochs=3, validate=value, checkpoint=folder, progress=False, **options)
        return weights(model), run

    whole, counted = run(None)
    run(tmp_path / "c", max_steps=stop)
    torch.manual_seed(99)  # what the process drew meanwhile does not matter
    resumed, again = run(tmp_path / "c")
    assert counted.step == again.step == 6
    assert same(whole, resumed)
    drop = [{k: v for k, v in row.items() if k != "seconds"} for row in counted.history]
    assert drop == [{k: v for k, v in row.items() if k != "seconds"} for row in again.history]
    assert len(list((tmp_path / "c").iterdir())) == 2  # one JSON, one file of tensors


def test_a_cosine_of_lr_depends_on_the_step_alone(tmp_path: Path) -> None:
    parts, seen = small_parts(), []

    def run(folder: Path | None, **options: Any) -> dict[str, torch.Tensor]:
        model, objective = small_model(parts), InfoNCE(EEL, max_pairs=16)
        given = {"epochs": 3, "lr": 0.02, "schedule": "cosine", "progress": False, **options}
        fit(model, small_loader(parts), objective, checkpoint=folder, **given)
        return weights(model)

    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *given: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return real(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        whole = run(None)
    assert seen == pytest.approx([0.01 * (1 + math.cos(math.pi * k / 6)) for k in range(6)])
    assert not same(whole, run(None, schedule="constant"))
    run(tmp_path / "c", max_steps=2)
    with pytest.raises(HaspError, match="was made with epochs=3, this run has 4"):
        run(tmp_path / "c", epochs=4)
    assert same(whole, run(tmp_path / "c"))
    with pytest.raises(HaspError, match="schedule is 'constant' or 'cosine', got 'linear'"):
        run(None, schedule="linear")


def test_a_crash_while_saving_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    parts = small_parts()

    class Failing(Disk):
        renames = 0

        def rename(self, source: Path, target: Path) -> None:
            if source.name.startswith("checkpoint") and self.renames:
                raise OSError(28, "No space left on device")
            self.renames += source.name.startswith("checkpoint")
            super().rename(source, target)

    def run(keeper: Any, **options: Any) -> dict[str, torch.Tensor]:
        model = small_model(parts)
        fit(model, small_loader(parts), InfoNCE(EEL), epochs=2, checkpoint=keeper, progress=False, **options)
        return weights(model)

    with pytest.raises(HaspError, match="free space"):
        run(Checkpoint.at(tmp_path, Failing()), checkpoint_steps=1)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["progress"]["step"] == 1
    assert same(run(Checkpoint.at(tmp_path)), run(None))


def test_another_run_is_refused(tmp_path: Path) -> None:
    parts = small_parts()
    fit(small_model(parts), small_loader(parts), InfoNCE(EEL), epochs=1, checkpoint=tmp_path, progress=False)

    def again(model: Any = None, data: Any = parts, objective: Any = None, **options: Any) -> None:
        model = model or small_model(data)
        before = weights(model)
        try:
            fit(
                model,
                small_loader(data),
                objective or InfoNCE(EEL),
                epochs=2,
                checkpoint=tmp_path,
                progress=False,
                **options,
            )
        finally:
            assert same(before, model.state_dict())

    with pytest.raises(HaspError, match=r"another model \(.*float32 \(.*there and float32 .* here"):
        again(small_model(parts, dim=7))
    with pytest.raises(HaspError, match=r"another model .*absent"):
        again(small_model(parts, free=True))
    with pytest.raises(HaspError, match="saved with fingerprint="):
        again(data=small_parts(seed=1))
    with pytest.raises(HaspError, match=r"lr=0.01, this run has 0.5"):
        again(lr=0.5)
    with pytest.raises(HaspError, match="objective="):
        again(objective=InfoNCE(EEL, temperature=0.2))
    state = next(tmp_path.glob("state-*"))
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptPart, match="not the file that was written"):
        again()
    (tmp_path / "checkpoint.json").write_text("[]")
    with pytest.raises(CorruptPart, match="one object"):
        again()


def test_early_stopping_puts_the_best_weights_back(tmp_path: Path) -> None:
    parts = small_parts()
    model, seen = small_model(parts), []
    values = iter([1.0, 3.0, 2.0, 2.0, 9.0])

    def validate(m: torch.nn.Module) -> float:
        assert not m.training
        seen.append(weights(m))
        return next(values)

    run = fit(model, small_loader(parts), InfoNCE(EEL), epochs=9, validate=validate, patience=2, log=tmp_path, progress=False)
    assert (run.epoch, run.best, run.best_epoch, run.stopped) == (4, 3.0, 2, True)
    assert same(seen[1], weights(model))
    assert not same(seen[3], weights(model))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["validation"] for row in rows if row["event"] == "epoch"] == [1.0, 3.0, 2.0, 2.0]
    assert [row["event"] for row in rows[-2:]] == ["early_stop", "finished"] and rows[-2]["best_epoch"] == 2
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == "epoch,step,loss,validation,seconds"
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5


def test_training_leaves_the_callers_generator_alone() -> None:
    parts = small_parts()
    model = small_model(parts, free=True, entity_dropout=0.5)
    before = torch.get_rng_state()
    # A DataLoader of torch draws a seed for its workers, from this generator if it has one.
    loader = small_loader(parts, generator=torch.Generator())
    fit(model, loader, InfoNCE(EEL), epochs=1, progress=False)
    assert torch.equal(before, torch.get_rng_state())


def test_training_learns() -> None:
    parts = small_parts()
    run = fit(small_model(parts), small_loader(parts), InfoNCE(EEL), epochs=15, progress=False)
    assert run.history[-1]["loss"] < 0.9 * run.history[0]["loss"]


def test_metrics_of_a_run(tmp_path: Path) -> None:
    parts = small_parts()
    loader = small_loader(parts)
    run = fit(small_model(parts), loader, InfoNCE(EEL), epochs=2, log=tmp_path, progress=False)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert (found["epoch"], found["step"], found["loss"]) == (2, run.step, run.history[-1]["loss"])
    assert found["fingerprint"] == parts.manifest.fingerprint and found["library"] == hasp.__version__
    assert found["settings"]["lr"] == 0.01 and found["world_size"] == 1 and found["sent_bytes"] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv", "log.jsonl", "metrics.json"]


def test_events_for_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert folder == str(tmp_path / "log" / "tensorboard")
            events.append(("purge", purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            events.append((name, step))

        def flush(self) -> None:
            events.append(("flush", 0))

        def close(self) -> None:
            events.append(("close", 0))

    parts = small_parts()
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    for epochs in (1, 3):  # the second run goes on where the first ended
        options: dict[str, Any] = {"checkpoint": tmp_path / "c", "log": tmp_path / "log", "tensorboard": True}
        fit(small_model(parts), small_loader(parts), InfoNCE(EEL), epochs=epochs, progress=False, **options)
    rows = [[("step", e), ("loss", e), ("seconds", e), ("flush", 0)] for e in (1, 2, 3)]
    assert events == [("purge", 1), *rows[0], ("close", 0), ("purge", 2), *rows[1], *rows[2], ("close", 0)]

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(HaspError, match=r"pip install 'hasp-pyg\[tensorboard\]'"):
        fit(small_model(parts), small_loader(parts), InfoNCE(EEL), epochs=1, log=tmp_path / "no", tensorboard=True)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("backend", "heads"), [("torch", 1), ("torch", 2), ("numba", 1)])
def test_half_precision_stays_close_and_softmax_is_float32(backend: str, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, losses = small_parts(), {}
    seen: list[torch.dtype] = []
    linear = torch.nn.functional.linear

    def watch(*arguments: Any) -> torch.Tensor:
        out = linear(*arguments)
        seen.append(out.dtype)
        return out

    softmax, packed = torch_csr.segment_softmax, numba_csr.packed_attention
    logits: list[torch.dtype] = []
    monkeypatch.setattr(torch_csr, "segment_softmax", lambda x, *rest: logits.append(x.dtype) or softmax(x, *rest))
    monkeypatch.setattr(numba_csr, "packed_attention", lambda x, *rest: logits.append(x.dtype) or packed(x, *rest))
    monkeypatch.setattr(torch.nn.functional, "linear", watch)

    def objective(model: Any, batch: Any, key: int) -> LossTerm:
        assert not torch.is_autocast_enabled("cpu")
        term = InfoNCE(EEL)(model, batch, key)
        assert term.sum.dtype == torch.float32 and model.training
        return term

    for amp in (False, True):
        torch.manual_seed(3)
        model = SemanticGNN.from_data(parts, dim=6, layers=2, backend=backend, heads=heads, free=True)
        seen.clear()
        run = fit(model, small_loader(parts), objective, epochs=4, amp=amp, progress=False)
        losses[amp] = [row["loss"] for row in run.history]
        assert (torch.bfloat16 in seen) == amp
        assert logits and set(logits) == {torch.float32}
        assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in model.parameters())
    np.testing.assert_allclose(losses[True], losses[False], rtol=0.01)
    assert losses[True] != losses[False]


def test_what_cannot_be_trained_is_said() -> None:
    nothing = small_parts(sizes=[1] * 8)
    with pytest.raises(HaspError, match="no part supervises a link"):
        fit(small_model(nothing), small_loader(nothing, parts_per_step=8), InfoNCE(EEL), epochs=1, progress=False)
    parts = small_parts()
    for options, text in (
        ({"epochs": 0}, "epochs is at least 1"),
        ({"epochs": 1, "lr": 0.0}, "lr and clip above 0"),
        ({"epochs": 1, "patience": 1}, "needs validate="),
        ({"epochs": 1, "tensorboard": True}, "give log="),
        ({"epochs": 1, "validate": lambda m: float("nan")}, "finite number, got nan"),
    ):
        with pytest.raises(HaspError, match=text):
            fit(small_model(parts), small_loader(parts), InfoNCE(EEL), progress=False, **options)

    def broken(model: Any, batch: Any, key: int) -> LossTerm:
        return LossTerm(next(model.parameters()).sum() * float("nan"), 1.0)

    with pytest.raises(HaspError, match="loss of step 0 is nan"):
        fit(small_model(parts), small_loader(parts), broken, epochs=1, progress=False)
