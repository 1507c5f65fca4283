"""Builds on a Ray cluster of two machines (two nodes of one core, on this machine): killed workers and lost machines."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import contents
from typer.testing import CliRunner

from hasp import open_source
from hasp.build import build
from hasp.cli import app
from hasp.cluster import tasks
from hasp.cluster.executor import Call
from hasp.cluster.on_ray import OnRay
from hasp.cluster.ray_session import ray_session
from hasp.cluster.tables import open_spread
from hasp.config import BuildConfig
from hasp.errors import HaspError, InvalidGraph
from hasp.schema import Schema
from hasp.sources.synthetic import Catalogue, generate
from hasp.sources.tables import write_tables

# What Ray's own imports deprecate, and sockets that it closes late, are not ours to fail on.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.ray]

SCHEMA = Schema(sample={"talent": 5})
CONFIG = BuildConfig(6, 1)


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of two nodes of one core, and a connection to it."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'hasp-pyg[ray]'")
    pytest.importorskip("pyarrow")
    from ray.cluster_utils import Cluster

    # Workers import what this process imports, the modules of the tests included.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    # Results of any size lie on the machine that made them, as those of large graphs do; a lost machine is noticed soon.
    system = {"max_direct_call_object_size": 100, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": system}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1)
        with ray_session(cluster.address) as ray:
            yield cluster, ray
    finally:
        cluster.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue as Parquet tables, and what one machine builds of it."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("source")
    write_tables(generate(Catalogue(400, 1, num_features=3, num_talent=50)).graph, folder / "tables", "parquet")
    graph = open_source(folder / "tables", reverse=True)
    build(graph, SCHEMA.resolve(graph.num_nodes, graph.edges), CONFIG, root=folder / "parts")
    return folder


class Watched(OnRay):
    """The executor, with the calls of one kind changed, and something done after so many of their results."""

    def __init__(self, ray: Any, change: Callable[[Call], Call], after: tuple[int, Callable[[], None]] | None = None) -> None:
        super().__init__(ray)
        self.change, self.after, self.seen, self.maps = change, after, 0, 0

    def map(self, calls: Iterable[Call]) -> Iterator[Any]:
        self.maps += 1
        given = list(calls)
        watched = [call[0] is tasks.group_edges for call in given]
        for bucket, found in zip(watched, super().map(self.change(c) for c in given), strict=True):
            yield found
            self.seen += bucket
            if bucket and self.after is not None and self.seen == self.after[0]:
                self.after[1]()


def dies_once(mark: str, task: Callable[..., Any], *arguments: Any) -> Any:
    """Run the task half, then kill the process that runs it; the next attempt, and all others, go through."""
    found = task(*arguments)
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return found
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def dies(*arguments: Any) -> None:
    """As a task that needs more memory than there is."""
    os.kill(os.getpid(), signal.SIGKILL)


def spread_build(executor: OnRay, source: Path, out: Path) -> dict[str, bytes]:
    spread, roles = open_spread(source / "tables", executor, SCHEMA, reverse=True, chunk=500)
    build(spread.graph, roles, CONFIG, root=out, spread=spread)
    return dict(contents(out))


@pytest.mark.parametrize("killed", [tasks.group_edges, tasks.write_group])
def test_a_worker_is_killed(killed: Any, machines: Any, source: Path, tmp_path: Path, capfd: Any) -> None:
    mark = tmp_path / "died"
    executor = Watched(machines[1], lambda call: (dies_once, str(mark), *call) if call[0] is killed else call)
    assert executor.workers == 2
    found = spread_build(executor, source, tmp_path / "parts")
    assert mark.exists() and executor.seen > 10
    assert found == contents(source / "parts")
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == [".lock", "build.json", *sorted(found)]  # no leftovers
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_is_killed_again_and_again(machines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hasp.cluster.on_ray.RETRIES", 1)
    executor = OnRay(machines[1])
    with pytest.raises(HaspError, match="its process or its machine died 2 times; give its machines more memory"):
        list(executor.map([(dies,)]))
    assert list(executor.map([(_same, 7)])) == [7]


def call(*arguments: object) -> Any:
    """A command of ``hasp``, in this process and so on this cluster."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command(machines: Any, source: Path, tmp_path: Path) -> None:
    given = ["--num-parts", 5, "--sample", "talent=5", "--reverse", "--balance", "bytes"]
    many = call("build", source / "tables", tmp_path / "many", *given, "--ray", "auto", "--verify", "files", "--json")
    assert many.exit_code == 0 and json.loads(many.stdout)["problems"] == []
    assert call("build", source / "tables", tmp_path / "one", *given).exit_code == 0
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    again = call("build", source / "tables", tmp_path / "one", *given, "--ray", "auto")
    assert again.exit_code == 0 and "already held this build, every file whole by its hash; nothing was done" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--verify", "source"],
            "--verify source reads the graph on one machine, and --ray does not; run hasp verify --source",
        ),
        (
            ["--kind", "movielens"],
            "Ray's workers read tables, got --kind movielens; write the graph as tables, or leave --ray out",
        ),
        ([], "has neither; write it as tables (hasp.sources.tables.write_tables), or build on one machine"),
    ],
)
def test_what_the_command_refuses(machines: Any, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = call("build", tmp_path, tmp_path / "parts", "--num-parts", 2, "--ray", "auto", *arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_results_come_in_order_and_as_they_are(machines: Any) -> None:
    executor = OnRay(machines[1])
    handle = executor.put(np.arange(12.0).reshape(3, 4))
    values = [{"a": (np.arange(2), None)}, np.arange(6, dtype=np.int16).reshape(2, 3).T, np.empty((0, 5)), np.array(["é"]), 5]
    found = list(executor.map([(_later, 0.5, 0), *((_same, v) for v in values), (_same, handle)]))
    assert found[0] == 0 and found[5] == 5
    assert found[1]["a"][0].tolist() == [0, 1] and found[1]["a"][1] is None
    for got, want in zip((*found[2:5], found[6]), (*values[1:4], np.arange(12.0).reshape(3, 4)), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape and np.array_equal(got, want)
    assert list(executor.map([])) == []


def test_more_calls_than_go_at_once(machines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hasp.cluster.on_ray.AT_ONCE", 1)
    drawn: list[int] = []
    results = OnRay(machines[1]).map((_same, drawn.append(i) or i) for i in range(5))
    assert next(results) == 0 and drawn == [0, 1]  # not all are made before the first is done
    assert list(results) == [1, 2, 3, 4]


def test_what_a_worker_refuses_is_raised_as_it_is(machines: Any, capfd: Any) -> None:
    executor = OnRay(machines[1])
    with pytest.raises(InvalidGraph, match="the graph has no such thing; correct it"):
        list(executor.map([(_refuse,)]))
    with pytest.raises(machines[1].exceptions.RayTaskError, match="a bug"):
        list(executor.map([(_bug,)]))
    with pytest.raises(HaspError, match="a task takes 9 CPUs, and the Ray cluster has 2; add machines to it"):
        OnRay(machines[1], 9)
    assert capfd.readouterr() == ("", "")


def _refuse() -> None:
    raise InvalidGraph("the graph has no such thing; correct it")


def _bug() -> None:
    raise KeyError("a bug")


def _same(value: Any) -> Any:
    return value


def _later(seconds: float, value: Any) -> Any:
    time.sleep(seconds)
    return value


def test_a_machine_is_lost_while_others_work(machines: Any, source: Path, tmp_path: Path) -> None:
    cluster, ray = machines

    def lose() -> None:
        cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)
        until = time.monotonic() + 60
        while sum(node["Alive"] for node in ray.nodes()) > 1 and time.monotonic() < until:
            time.sleep(0.2)

    executor = Watched(ray, lambda call: call, (4, lose))
    found = spread_build(executor, source, tmp_path / "parts")
    assert sum(node["Alive"] for node in ray.nodes()) == 1 and executor.seen > 10
    assert found == contents(source / "parts")
