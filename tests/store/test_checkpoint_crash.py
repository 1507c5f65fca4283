"""Checkpoints under what the parts were put under: a full disk, a power loss, damage and hostile bytes, at every place."""

from __future__ import annotations

import errno
import json
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from store_build import Quick
from store_crash import Failing, Recording, restore
from test_machine import damaged

from hasp.errors import CorruptPart, HaspError
from hasp_models.checkpoint import Checkpoint

SAVES = 3


class Loader:
    """The two methods of a loader that a checkpoint calls."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"epoch": 0, "step": 0}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = dict(state)


def values(step: int) -> tuple[torch.nn.Linear, Any, Loader]:
    """Model, optimizer and loader as they are after so many steps, by definition."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for i, p in enumerate(model.parameters()):
        p.data.fill_(100.0 * step + i)
        p.grad = torch.full_like(p, float(step))
    if step:
        optimizer.step()
    loader = Loader()
    loader.state = {"epoch": 0, "step": step}
    return model, optimizer, loader


def save(folder: Path, disk: Any, step: int) -> None:
    model, optimizer, loader = values(step)
    Checkpoint.at(folder, disk).save(model, optimizer, loader, {"lr": 0.1}, {"step": step})


def plain(optimizer: Any) -> list[str]:
    state = optimizer.state_dict()
    return [json.dumps(state["param_groups"]), *(str(sorted(s.items())) for s in state["state"].values())]


def load(folder: Path) -> int:
    """The step of the checkpoint, all of whose values must be those of that step; 0 if there is none."""
    keeper = Checkpoint.at(folder, Quick())
    if not keeper.exists():
        return 0
    model, optimizer, loader = values(0)
    progress, _ = keeper.load(model, optimizer, loader, {"lr": 0.1})
    step = int(progress["step"])
    truth, moved, place = values(step)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), truth.state_dict().values(), strict=True))
    assert plain(optimizer) == plain(moved)
    assert loader.state == place.state
    return step


def power_loss(folder: Path, disk_type: type[Recording] = Recording) -> tuple[int, set[int]]:
    """Save a few times, and load every image that a power loss may leave; (images, steps found)."""
    root = folder / "checkpoint"
    root.mkdir(parents=True)
    disk = disk_type()
    durable = {0: 0}  # operations so far -> the step that was saved by then
    for step in range(1, SAVES + 1):
        save(root, disk, step)
        durable[disk.operations] = step
    steps = set()
    for number, (image, when) in enumerate(disk.images.items()):
        copy = folder / str(number)
        restore(image, copy)
        found = load(copy)
        promised = max(step for at, step in durable.items() if at < when)
        assert promised <= found <= promised + 1, f"{promised} was saved, {found} is found"
        steps.add(found)
        shutil.rmtree(copy)
    return len(disk.images), steps


def test_power_loss_after_every_operation_of_three_saves(tmp_path: Path) -> None:
    images, steps = power_loss(tmp_path / "a")
    assert images > 40 and steps == {0, 1, 2, 3}


class NoSync(Recording):
    def sync(self, handle: int) -> None:
        self._keep()


class NoSyncOfNames(Recording):
    def sync_dir(self, path: Path) -> None:
        self._keep()


class InPlace(Recording):
    def create(self, path: Path) -> int:
        return super().create(path.with_name(path.name.removesuffix(".tmp")))

    def rename(self, source: Path, target: Path) -> None:
        """Nothing: the file has its name already."""


@pytest.mark.parametrize("bug", [NoSync, NoSyncOfNames, InPlace])
def test_the_power_loss_test_notices(bug: type[Recording], tmp_path: Path) -> None:
    with pytest.raises((AssertionError, HaspError)):
        power_loss(tmp_path / "a", bug)


def test_every_operation_of_a_save_refused_once(tmp_path: Path) -> None:
    refused = 0
    for n in range(1, 200):
        root = tmp_path / str(n)
        save(root, Quick(), 1)
        code = (errno.ENOSPC, errno.EIO, errno.EDQUOT)[n % 3]
        disk = Failing(n, code, lasting=code == errno.ENOSPC)
        try:
            save(root, disk, 2)
        except HaspError as error:
            refused += 1
            assert str(root) in str(error) and ";" in str(error)
            assert load(root) in (1, 2)
        else:
            assert load(root) == 2
            if not disk.failed:
                break
        save(root, Quick(), 3)
        assert load(root) == 3
    assert refused >= 10


def test_damage_anywhere_in_a_checkpoint_is_named(tmp_path: Path) -> None:
    draw = random.Random(1)
    save(tmp_path, Quick(), 2)
    whole = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    assert len(whole) == 2
    found = 0
    for how in ("flip", "hole", "cut", "more", "empty"):
        for name, data in whole.items():
            for _ in range(30):
                (tmp_path / name).write_bytes(damaged(data, how, draw))
                try:
                    load(tmp_path)
                except CorruptPart as error:
                    assert name in str(error)
                    found += 1
                else:  # what was damaged says the same: a space, or the line end
                    assert json.loads((tmp_path / name).read_bytes()) == json.loads(data)
                (tmp_path / name).write_bytes(data)
    (tmp_path / "state-0000000002.safetensors").unlink()
    with pytest.raises(CorruptPart, match="is missing"):
        load(tmp_path)
    assert found >= 250


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def test_a_pickle_in_place_of_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    marker, root = tmp_path / "ran", tmp_path / "checkpoint"
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists()
    marker.unlink()
    torch.save(Evil(marker), tmp_path / "torch")
    np.save(tmp_path / "numpy.npy", np.array([Evil(marker)], dtype=object), allow_pickle=True)
    evil = [pickle.dumps(Evil(marker)), (tmp_path / "torch").read_bytes(), (tmp_path / "numpy.npy").read_bytes()]
    for data in evil:
        for name in ("checkpoint.json", "state-0000000001.safetensors"):
            shutil.rmtree(root, ignore_errors=True)
            save(root, Quick(), 1)
            (root / name).write_bytes(data)
            with pytest.raises(CorruptPart):
                load(root)
    assert not marker.exists()
