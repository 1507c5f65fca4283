"""A halo that is planned is the halo that is loaded: rows, edges and bytes, part by part."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from builds import built
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases, num_parts_for
from typer.testing import CliRunner

from hasp import HASPData, HASPLoader, open_source
from hasp.cli import app
from hasp.config import BuildConfig
from hasp.graph import Graph
from hasp.halo_plan import HaloPlan, plan_halo, predict_halo
from hasp.load.crossing import Crossing
from hasp.load.demand import Demand
from hasp.schema import Schema


def loaded(batch: Any) -> int:
    """Bytes of all tensors of the entities and of the edges between them."""
    return sum(v.nbytes for store in batch.stores for v in store.values() if isinstance(v, torch.Tensor))


def compare(found: HaloPlan, parts: HASPData) -> None:
    """With what the loader carries, an epoch of one part a batch."""
    halo = HASPLoader(parts, halo=True)
    for part, (batch, plain) in enumerate(zip(halo, HASPLoader(parts), strict=True)):
        far = sum(batch[t].num_nodes - batch[t].num_owned for t in parts.roles.entity)
        edges = sum(batch[e].num_edges - plain[e].num_edges for e in parts.edge_types)
        assert (found.rows[part], found.edges[part]) == (far, edges)
        assert found.batch_bytes[part] == loaded(batch) - loaded(plain)
    count = halo.halo_count
    assert count is not None
    assert (sum(found.rows), sum(found.edges), found.read_bytes) == (count.rows, count.edges, count.bytes_read)
    demand = Demand(parts.store, Crossing(parts.store))
    assert found.distinct == sum(demand.rows(t) for t in parts.roles.entity)


@settings(max_examples=25)
@given(cases(), st.data())
def test_what_is_planned_is_what_is_loaded(case: Case, data: Any) -> None:
    num_parts, seed = data.draw(num_parts_for(case)), data.draw(st.integers(0, 3))
    how: dict[str, Any] = {"balance": data.draw(st.sampled_from(["nodes", "edges", "bytes"]))}
    how |= {"backend": data.draw(st.sampled_from(["auto", "random"]))}
    with built(case, num_parts, seed=seed, **how) as parts:
        compare(predict_halo(case.graph, case.roles, BuildConfig(num_parts, seed, **how)), parts)


def small() -> Graph:
    """Links 0-1, 1-2, 3-2 and 0-3, twice; one attribute of three numbers."""
    edges = {("a", "to", "a"): (torch.tensor([0, 1, 3, 0, 0]), torch.tensor([1, 2, 2, 3, 3]))}
    return Graph({"a": 4}, edges, {"a": {"x": torch.ones(4, 3)}}, {("a", "to", "a"): {"w": torch.ones(5)}})


def test_by_hand() -> None:
    graph = small()
    roles = Schema(entity="a").resolve(graph.num_nodes, graph.edges)
    labels = {"a": torch.tensor([0, 0, 1, 1], dtype=torch.int32).numpy()}
    found = plan_halo(graph, roles, labels, 2)
    # Into part 1: 1-2 and 0-3 twice, from the far ends 0 and 1; into part 0 nothing.
    assert (found.rows, found.edges) == ((0, 2), (0, 3))
    assert found.batch_bytes == (0, 2 * (12 + 8 + 4) + 3 * (24 + 4))
    assert found.read_bytes == found.cache_bytes == 2 * (12 + 4) and found.distinct == 2
    assert found.replication == 1.5
    text = found.explain()
    assert "132 B on top of the batch of one part, at most; 66 B in the mean; 2 far ends, 3 cut edges at most" in text
    assert "an epoch reads   32 B of far ends without a cache; batches hold 1.50 times the entities" in text
    assert "cache            32 B holds all 2 far ends" in text
    one = plan_halo(graph, roles, {"a": labels["a"] * 0}, 1)
    assert (one.rows, one.batch_bytes, one.cache_bytes, one.replication) == ((0,), (0,), 0, 1.0)
    assert plan_halo(graph, roles, labels, 3).rows == (0, 2, 0)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = open_source("synthetic:300")
    roles = Schema().resolve(graph.num_nodes, graph.edges)
    whole = predict_halo(graph, roles, BuildConfig(5, 1))
    monkeypatch.setattr("hasp.halo_plan._BLOCK", 7)
    assert predict_halo(graph, roles, BuildConfig(5, 1)) == whole
    assert predict_halo(graph, roles, replace(BuildConfig(5, 1), backend="random")).read_bytes > whole.read_bytes


def test_the_command(tmp_path: Any) -> None:
    arguments = ["synthetic:400", "--num-parts", "6", "--seed", "2", "--balance", "bytes", "--reverse"]
    result = CliRunner().invoke(app, ["plan", *arguments, "--halo", "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)["halo"]
    assert CliRunner().invoke(app, ["build", *arguments[:1], str(tmp_path / "parts"), *arguments[1:]]).exit_code == 0
    compare(
        HaloPlan(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}), HASPData.open(tmp_path / "parts")
    )
    assert sum(found["rows"]) > 0
    text = CliRunner().invoke(app, ["plan", *arguments, "--halo"]).stdout
    assert f"holds all {found['distinct']:,} far ends" in text
    assert "halo" not in CliRunner().invoke(app, ["plan", *arguments]).stdout
    assert "halo" not in json.loads(CliRunner().invoke(app, ["plan", *arguments, "--json"]).stdout)
