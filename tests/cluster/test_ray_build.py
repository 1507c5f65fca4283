"""Builds on a Ray cluster of two machines (two nodes of one core, on this machine): killed workers and lost machines."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builds import contents
from typer.testing import CliRunner

from hasp import open_source
from hasp.build import build
from hasp.cli import app
from hasp.cluster import tasks
from hasp.cluster.on_ray import OnRay
from hasp.cluster.ray_session import ray_session
from hasp.cluster.tables import open_spread
from hasp.config import BuildConfig
from hasp.errors import HaspError
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
    """The executor, with something done before or after the tasks of one kind are started."""

    def __init__(self, ray: Any, mark: Path, after: Callable[[list[Any]], None] | None = None) -> None:
        super().__init__(ray)
        self.mark, self.after, self.seen, self.found = mark, after, 0, list[Any]()

    def start(self, task: Callable[..., Any], *arguments: Any, returns: int = 1) -> list[Any]:
        if task is not tasks.group_edges:
            return super().start(task, *arguments, returns=returns)
        self.seen += 1
        if self.after is None:
            return super().start(dies_once, str(self.mark), task, *arguments, returns=returns)
        found = super().start(task, *arguments, returns=returns)
        self.found += found
        if self.seen == 6:
            self.after(self.found)
        return found


def dies_once(mark: str, task: Callable[..., Any], *arguments: Any) -> Any:
    """Run the task half, then kill the process that runs it; the next attempt, and all others, go through."""
    found = task(*arguments)
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return found
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def spread_build(executor: OnRay, source: Path, out: Path) -> dict[str, bytes]:
    spread, roles = open_spread(source / "tables", executor, SCHEMA, reverse=True, chunk=500)
    build(spread.graph, roles, CONFIG, root=out, spread=spread)
    return dict(contents(out))


def test_a_worker_is_killed_while_it_buckets(machines: Any, source: Path, tmp_path: Path, capfd: Any) -> None:
    executor = Watched(machines[1], tmp_path / "died")
    assert executor.workers == 2
    found = spread_build(executor, source, tmp_path / "parts")
    assert (tmp_path / "died").exists() and executor.seen > 10
    assert found == contents(source / "parts")
    assert capfd.readouterr() == ("", "")


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
    assert again.exit_code == 0 and "already held this build, all files of their size; nothing was done" in again.stderr


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


def test_what_a_worker_refuses_is_raised_as_it_is(machines: Any, tmp_path: Path) -> None:
    executor = OnRay(machines[1])
    with pytest.raises(HaspError, match="the graph has no such thing; correct it"):
        executor.get(executor.start(_refuse)[0])
    with pytest.raises(HaspError, match="the graph has no such thing; correct it"):  # by a task that needed its result
        executor.get(executor.start(_same, *executor.start(_refuse))[0])
    with pytest.raises(HaspError, match="a task takes 9 CPUs, and the Ray cluster has 2; add machines to it"):
        OnRay(machines[1], 9)


def _refuse() -> None:
    raise HaspError("the graph has no such thing; correct it")


def _same(value: Any) -> Any:
    return value


def test_a_machine_is_lost_with_what_it_holds(machines: Any, source: Path, tmp_path: Path) -> None:
    cluster, ray = machines

    lost: list[Any] = []

    def lose(handles: list[Any]) -> None:
        ray.wait(handles, num_returns=len(handles), fetch_local=False)
        cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)
        until = time.monotonic() + 60
        while sum(node["Alive"] for node in ray.nodes()) > 1 and time.monotonic() < until:
            time.sleep(0.2)
        places = ray.experimental.get_object_locations(handles)
        lost.extend(h for h, place in places.items() if not place["node_ids"])

    found = spread_build(Watched(ray, tmp_path / "unused", lose), source, tmp_path / "parts")
    assert found == contents(source / "parts")
    assert sum(node["Alive"] for node in ray.nodes()) == 1
    assert lost
