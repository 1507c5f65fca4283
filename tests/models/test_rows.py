"""Tables with a row per entity: gradients sent as rows, rows that stay what they are, AdamW where every row moves."""

from __future__ import annotations

import datetime
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from train_graphs import EEL, SIZES, small_loader, small_model, small_parts

from hasp_models.distributed.gradients import Gradients, entity_tables
from hasp_models.distributed.ranks import Ranks
from hasp_models.distributed.rows import LazyAdamW, RowGradient, exchange_rows, touched_rows
from hasp_models.objectives import InfoNCE
from hasp_models.train import fit


@given(st.integers(0, 9), st.integers(1, 3), st.data())
def test_touched_rows_are_those_that_are_not_zero(count: int, width: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.lists(st.sampled_from([0.0, 1.5, -2.0]), min_size=width, max_size=width), max_size=count))
    grad = torch.zeros(count, width)
    for i, row in enumerate(values):
        grad[i] = torch.tensor(row)
    want = [i for i in range(count) if any(v != 0 for v in grad[i].tolist())]
    for given_ in (grad, grad.to_sparse(1)):
        found = touched_rows(given_, torch.empty(count, width))
        assert found.ids.tolist() == want and torch.equal(found.values, grad[want].reshape(-1, width))
    assert touched_rows(None, torch.empty(count, width)).values.shape == (0, width)


def test_a_nan_is_touched() -> None:
    grad = torch.tensor([[0.0, 0.0], [0.0, float("nan")]])
    assert touched_rows(grad, grad).ids.tolist() == [1]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rows_that_always_move_move_as_in_adamw(weight_decay: float) -> None:
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    plain, rows, rest = (torch.nn.Parameter(t.clone()) for t in (start, start, torch.randn(2)))
    one = torch.optim.AdamW([plain], lr=0.1, weight_decay=weight_decay)
    lazy = LazyAdamW([rest, rows], [rows], lr=0.1, weight_decay=weight_decay)
    for _ in range(20):
        grad = torch.randn(5, 3)
        plain.grad = grad
        one.step()
        lazy.move_rows(rows, RowGradient(torch.arange(5), grad))
        lazy.step()
    torch.testing.assert_close(rows, plain, rtol=1e-5, atol=1e-6)


def test_a_row_counts_its_own_steps() -> None:
    """The first step of a row is of length lr, whenever it comes: the bias of young moments is corrected per row."""
    table = torch.nn.Parameter(torch.zeros(2, 1))
    lazy = LazyAdamW([table], [table], lr=0.1)
    for _ in range(50):
        lazy.move_rows(table, RowGradient(torch.tensor([0]), torch.tensor([[3.0]])))
    assert float(table[1].detach()) == 0.0
    lazy.move_rows(table, RowGradient(torch.tensor([1]), torch.tensor([[-7.0]])))
    assert float(table[1].detach()) == pytest.approx(0.1)


@pytest.mark.parametrize("lazy", [True, False])
def test_rows_of_absent_entities_stay_what_they_are_or_drift(lazy: bool) -> None:
    """AdamW moves the vectors of entities that are in no part of the step; ``lazy_rows`` does not, to the bit."""
    parts = small_parts()
    model, loader = small_model(parts, free=True), small_loader(parts, parts_per_step=1)
    (table,) = entity_tables(model)
    node_part = parts.store.node_part()["title"]
    before: list[torch.Tensor] = []
    drifted = 0

    def objective(m: Any, batch: Any, key: int) -> Any:
        nonlocal drifted
        if before:
            absent = node_part != seen[-1]
            drifted += int((table.detach() != before[-1])[absent].any())
        before.append(table.detach().clone())
        seen.append(int(batch.part_id))
        return InfoNCE(EEL)(m, batch, key)

    seen: list[int] = []
    fit(model, loader, objective, epochs=2, lazy_rows=lazy, progress=False)
    assert len(seen) == 2 * len(SIZES)
    assert (drifted == 0) if lazy else (drifted > 0)
    assert (table.detach() != before[0]).any(dim=1).sum() > 10  # those with links did move


def test_lazy_rows_resume_bit_for_bit(tmp_path: Path) -> None:
    parts = small_parts()

    def run(folder: Path | None, **options: Any) -> torch.Tensor:
        model, loader = small_model(parts, free=True, entity_dropout=0.5), small_loader(parts)
        fit(model, loader, InfoNCE(EEL), epochs=3, lazy_rows=True, checkpoint=folder, progress=False, **options)
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    run(tmp_path, max_steps=3)
    assert torch.equal(run(tmp_path), run(None))


def test_clipping_counts_rows_too() -> None:
    dense, table = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3, 2))
    dense.grad, table.grad = torch.tensor([3.0, 0.0]), torch.tensor([[0.0, 0.0], [0.0, 4.0], [0.0, 0.0]])

    class Taken(LazyAdamW):
        rows: RowGradient

        def move_rows(self, table: Any, gradient: RowGradient) -> None:
            self.rows = gradient

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            pass

    optimizer = Taken([dense, table], [table], lr=1.0)
    gradients = Gradients(optimizer, [dense, table], [table], Ranks())
    gradients.collect()
    gradients.exchange()
    gradients.move(1.0, clip=0.5)
    torch.testing.assert_close(dense.grad, torch.tensor([0.3, 0.0]))
    torch.testing.assert_close(optimizer.rows.values, torch.tensor([[0.0, 0.4]]))
    assert table.grad is None


def _rank(rank: int, folder: str) -> None:
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{folder}/meet", limit, 3, rank)
    ranks = Ranks()
    table = torch.nn.Parameter(torch.zeros(1000, 4))
    rows = torch.tensor([[1, 5], [5, 900], [7, 7]][rank])  # 5 on two ranks, 7 twice on one; rank 2 brings fewer rows
    F.embedding(rows, table, sparse=rank == 1).sum().backward()  # type: ignore[no-untyped-call]
    out = exchange_rows(ranks, "rows", touched_rows(table.grad, table))
    sent = ranks.sent
    nothing = exchange_rows(ranks, "nothing", touched_rows(None, table))
    found = {"ids": out.ids.tolist(), "values": out.values[:, 0].tolist(), "sent": sent, "nothing": nothing.ids.tolist()}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def test_rows_are_summed_over_ranks_and_only_they_are_sent(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch_geometric.loader", "hasp.build", "hasp_models.train", "hasp_models.semantic_gnn"])
    ranks = [context.Process(target=_rank, args=(r, str(tmp_path))) for r in range(3)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    for r in range(3):
        found = json.loads((tmp_path / f"{r}.json").read_text())
        assert found["ids"] == [1, 5, 7, 900] and found["values"] == [1.0, 2.0, 2.0, 1.0] and found["nothing"] == []
        assert found["sent"] == 8 + 2 * 8 + 2 * 4 * 4  # the count, two ids, two rows; the table is 16,000 bytes
