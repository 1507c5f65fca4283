"""The gradient of one step, from what each rank has to what moves the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from hasp_models.distributed.hooks import Bucket, FlatBucket, Sender
from hasp_models.distributed.ranks import Ranks
from hasp_models.distributed.rows import LazyAdamW, RowGradient, exchange_rows, touched_rows

__all__ = ["Gradients", "entity_tables"]


def entity_tables(model: nn.Module) -> list[nn.Parameter]:
    """The tables of a model that have a row per entity: the free vectors of a :class:`hasp_models.SemanticGNN`."""
    from hasp_models.semantic_gnn import NodeInputs

    inputs = [m for m in model.modules() if isinstance(m, NodeInputs)]
    return [m.own[t] for m in inputs for t in m.free if m.own[t].requires_grad]


class Gradients:
    """Sums gradients over ranks, divides them by the step's weight, clips them, and takes the step.

    In three calls, because only the one in the middle is a collective: what may fail comes before or after it. With a
    ``sender`` there is a fourth, :meth:`average`, and what the hook computes runs between its collectives: a rank that fails in
    it ends, and that ends the others.

    A hook gives means over ranks, so it is handed ``W / weight`` times this rank's sum: the mean of that is the sum over all
    ranks divided by the step's weight, and what a hook holds back is in that unit too, whatever a later step weighs.

    Args:
        optimizer: of the parameters; a :class:`LazyAdamW` moves its tables row by row.
        parameters: all that are trained.
        tables: those of them with a row per entity; of these, only touched rows are sent, whatever the sender.
        ranks: who takes part.
        sender: how the others are sent; ``None``: all-reduced. One process alone sends nothing.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        tables: Sequence[nn.Parameter],
        ranks: Ranks,
        sender: Sender | None = None,
    ) -> None:
        self.optimizer, self.ranks, self.sender = optimizer, ranks, sender
        self.by_row = list(tables) if ranks.size > 1 or isinstance(optimizer, LazyAdamW) else []
        rows, apart = {id(p) for p in self.by_row}, {id(p) for p in tables}
        self.dense = [p for p in parameters if id(p) not in rows]
        self._hook_parameters = [p for p in self.dense if id(p) not in apart]
        self._sums: list[Tensor] = []
        self._rows: list[RowGradient] = []
        self._late: list[tuple[Bucket, Tensor]] = []  # held back by ranks of which this process alone is left
        self._settled = True
        self._moves = False

    @property
    def _hooked(self) -> bool:
        return self.sender is not None and self.ranks.size > 1

    def _kinds(self) -> Iterator[list[nn.Parameter]]:
        """The parameters of each dtype that are sent together, or would be."""
        parameters = self.dense if self.ranks.size > 1 else self._hook_parameters  # alone, tables are dense, too
        for kind in dict.fromkeys(p.dtype for p in parameters):
            yield [p for p in parameters if p.dtype == kind]

    def collect(self) -> None:
        """Bring this rank's gradients into the form in which they are summed: one flat tensor per dtype, and rows."""
        for p in self.dense:  # one without gradient gets zeros, at any world size
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        self._rows = [touched_rows(p.grad, p) for p in self.by_row]
        if self.ranks.size == 1:
            self._sums = [p.grad for p in self.dense if p.grad is not None]
            return
        self._sums = []
        for some in self._kinds():
            flat = torch.cat([p.grad.reshape(-1) for p in some if p.grad is not None])
            for p, view in zip(some, torch.split(flat, [p.numel() for p in some]), strict=True):
                p.grad = view.view_as(p)
            self._sums.append(flat)

    def exchange(self, weight: float = 1.0) -> None:
        """Sum over all ranks. ``weight``: of the step, over all ranks; a step of weight 0 sends nothing through a hook."""
        self._moves = bool(weight)
        if not self._hooked:
            self.ranks.add_up("summing gradients", self._sums)
        elif weight:
            for i, (flat, some) in enumerate(zip(self._sums, self._kinds(), strict=True)):
                flat.mul_(self.ranks.size / weight)
                self._send(FlatBucket(i, flat, some, i == len(self._sums) - 1))
        self._rows = [exchange_rows(self.ranks, "gathering rows", rows) for rows in self._rows]

    def _send(self, bucket: Bucket) -> None:
        assert self.sender is not None
        before, flat = self.sender.sent, bucket.buffer()
        with self.ranks.talking("sending gradients"):
            mean = self.sender(bucket).wait()
        if mean is not flat:
            flat.copy_(mean)
        self.ranks.sent += self.sender.sent - before

    def move(self, weight: float, clip: float | None) -> None:
        """Divide by the step's weight, clip to a norm, move the weights. A step of weight 0 moves nothing, on any rank.

        Where a hook clips before it sends, or each rank moves by its own gradient, that and the rows are clipped apart: a
        common norm would differ from rank to rank, and with it the rows.
        """
        if not weight:
            return
        rows = [rows.values for rows in self._rows]
        for value in rows if self._hooked else [*self._sums, *rows]:
            value.div_(weight)
        for bucket, late in self._late:
            pieces = zip(bucket.parameters(), FlatBucket(0, late, bucket.parameters(), True).gradients(), strict=True)
            for p, piece in pieces:
                assert p.grad is not None
                p.grad.add_(piece.view_as(p))
        self._late = []
        if clip is not None:
            apart = self.sender is not None and self._hooked and (self.sender.clips or self.sender.drifts)
            own = [] if self.sender is not None and self._hooked and self.sender.clips else self._sums
            for values in [own, rows] if apart else [[*self._sums, *rows]]:
                _clip(values, clip)
        for p, row in zip(self.by_row, self._rows, strict=True):
            if isinstance(self.optimizer, LazyAdamW):
                p.grad = None
                self.optimizer.move_rows(p, row)
            else:
                p.grad = torch.zeros_like(p) if p.grad is None or p.grad.is_sparse else p.grad
                p.grad[row.ids] = row.values  # what this rank has is among them
        self.optimizer.step()

    def average(self) -> None:
        """After :meth:`move`: what a hook does behind a step, such as averaging weights. A collective."""
        if self.sender is not None and self._hooked and self._moves:
            before = self.sender.sent
            with self.ranks.talking("averaging weights"):
                self.sender.after_step(self.dense)
            self.ranks.sent += self.sender.sent - before
            self._settled = False

    def settle(self) -> None:
        """Before weights are judged or saved: average weights and moments of ranks that moved on their own. A collective."""
        if self.sender is None or not self._hooked or not self.sender.drifts or self._settled:
            return
        held = [p.detach() for p in self.dense]
        for p in self.dense:
            moments = self.optimizer.state.get(p, {}).values()
            held += [v for v in moments if torch.is_tensor(v) and v.shape == p.shape and v.is_floating_point()]
        for kind in dict.fromkeys(v.dtype for v in held):
            some = [v for v in held if v.dtype == kind]
            flat = torch.cat([v.reshape(-1) for v in some])
            self.ranks.add_up("averaging weights", [flat])
            for v, mean in zip(some, torch.split(flat.div_(self.ranks.size), [v.numel() for v in some]), strict=True):
                v.copy_(mean.view_as(v))
        self._settled = True

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: settle, and what the hooks of all ranks hold, ``"rank/key"`` -> tensor. A collective."""
        self.settle()
        if self.sender is None or not self._hooked:
            return {}
        found: dict[str, Tensor] = {}
        for key, value in sorted(self.sender.state_dict().items()):
            for rank, one in enumerate(self.ranks.gather("saving what waits", value.cpu())):
                found[f"{rank}/{key}"] = one
        return found

    def restore(self, saved: Mapping[str, Tensor], step: int) -> None:
        """Go on from :meth:`state`: as it was with as many ranks, else with what waited spread over those that are there.

        Args:
            saved: what :meth:`state` gave.
            step: at which the run goes on.
        """
        if self.sender is None:
            return
        size = len({key.split("/", 1)[0] for key in saved})
        if not size:
            self.sender.begin(step)
            return
        mine: dict[str, Tensor] = {}
        for key in [k[2:] for k in saved if k.startswith("0/")]:
            every = [saved[f"{rank}/{key}"] for rank in range(size)]
            if size == self.ranks.size:
                mine[key] = every[self.ranks.rank]
            else:  # all in units of the mean over ranks, so their mean on each rank loses nothing
                mine[key] = torch.stack(every).mean(dim=0) if every[0].is_floating_point() else every[0]
        self.sender.load_state_dict(mine)
        if self.ranks.size == 1:
            buckets = [FlatBucket(i, some[0].new_empty(0), some, False) for i, some in enumerate(self._kinds())]
            self._late = [(b, waits) for b in buckets if (waits := self.sender.waiting(b)) is not None]


def _clip(values: Sequence[Tensor], clip: float) -> None:
    if not values:
        return
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(v) for v in values]))
    for value in values:
        value.mul_(torch.clamp(clip / (norm + 1e-6), max=1.0))
