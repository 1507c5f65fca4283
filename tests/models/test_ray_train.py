"""Training under Ray Train: a rank is killed with signal 9, and the run ends with the bits of one that nobody killed."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from killed_ranks import EPOCHS, train_ranks
from ray_ranks import train_or_die
from typer.testing import CliRunner

from hasp import HASPData
from hasp.cluster.ray_session import ray_session
from hasp.errors import CorruptPart, HaspError
from hasp.sources import open_source
from hasp_models.cli import app
from hasp_models.distributed.ranks import LostRank
from hasp_models.distributed.ray_train import _rank, fit_on_ray

STEPS = 3  # of an epoch: six parts, two a step
ATTEMPTS = "attempt-*"

# What Ray's own imports deprecate, and sockets that it closes late, are not ours to fail on.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.ray]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray with two cores, for all tests of this file."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'hasp-pyg[ray]'")
    with ray_session("local", num_cpus=2) as ray:
        yield ray


def test_a_rank_killed_in_the_second_epoch(cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = train_ranks(2, tmp_path / "whole", tmp_path / "whole-checkpoint")[0]  # without Ray, and nobody dies
    assert whole["step"] == EPOCHS * STEPS
    folder = tmp_path / "killed"
    folder.mkdir()
    found = fit_on_ray(partial(train_or_die, str(folder), 1, STEPS + 1), 2)
    assert found.pop("threads") == "1"
    assert found == whole
    assert (folder / "died").exists() and len(list(folder.glob(ATTEMPTS))) == 4  # two ranks, started twice
    assert capfd.readouterr() == ("", "")


def test_bad_input_is_no_reason_to_start_again() -> None:
    """It is handed back as what the rank returns, which Ray takes for the end; a lost rank is raised, and Ray starts all."""
    found = _rank(partial(_raise, CorruptPart("part-00003.safetensors is not the file that was written; restore it")))
    error = found.error()
    assert type(error) is CorruptPart and str(error).startswith("part-00003.safetensors is not")
    assert type(_rank(partial(_raise, GraphWarning("odd; mend it"))).error()) is HaspError  # a kind of somebody else's
    with pytest.raises(LostRank, match="rank 1"):
        _rank(partial(_raise, LostRank("rank 1 is gone")))
    with pytest.raises(KeyError):
        _rank(partial(_raise, KeyError("a fault of ours")))
    assert _rank(dict) == {}


class GraphWarning(HaspError):
    """Not one of hasp.errors."""


def _raise(error: Exception) -> None:
    raise error


def test_a_cluster_that_is_too_small(cluster: Any) -> None:
    with pytest.raises(HaspError, match="3 ranks take 3 CPUs, and the cluster has 2; lower num_workers, or add machines"):
        fit_on_ray(dict, 3)
    with pytest.raises(HaspError, match="1 ranks take 1 GPUs, and the cluster has 0"):
        fit_on_ray(dict, 1, use_gpu=True)


def test_no_cluster_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'hasp-pyg[ray]'")

    def init(**options: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    message = r"no Ray cluster answers at 'auto' \(Could not find any running Ray instance\); start one with ray start --head"
    with pytest.raises(HaspError, match=message):
        fit_on_ray(dict, 1, address="auto")


def test_an_address_at_which_nobody_listens_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would try for minutes, and print its attempts."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'hasp-pyg[ray]'")
    asked: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options["address"]))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):  # bound, but it does not listen
            with pytest.raises(HaspError, match=f"no Ray cluster answers at '{address}'"), ray_session(address):
                pass
        listening.listen()
        with ray_session(f"127.0.0.1:{port}"):
            assert asked == [f"127.0.0.1:{port}"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it hands to Ray can be sent to another folder and run there; the run is the one without Ray."""
    asked: list[Any] = []

    def here(task: Any, *arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options))
        os.chdir(tmp_path / "elsewhere")
        try:
            return pickle.loads(pickle.dumps(task))()
        finally:
            os.chdir(tmp_path)

    monkeypatch.setattr("hasp_models.distributed.ray_train.fit_on_ray", here)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    HASPData(open_source("synthetic:300"), num_parts=2, root="parts", reverse=True, log=False)
    given = ["train", "parts", "--epochs", "1", "--dim", "8", "--json", "--out"]
    found = [CliRunner().invoke(app, [*given, *more]) for more in (["a"], ["b", "--ray", "auto", "--workers", "3"])]
    assert [r.exit_code for r in found] == [0, 0], found
    assert asked == [((3,), {"address": "auto", "folder": Path("b/ray")})]
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_settings_out_of_range() -> None:
    with pytest.raises(HaspError, match="num_workers is at least 1 and max_failures at least 0, got 0 and 3; correct them"):
        fit_on_ray(dict, 0)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HaspError, match=r"Ray is not installed; pip install 'hasp-pyg\[ray\]', or leave it out"):
        fit_on_ray(dict, 1)
