"""Training under Ray Train: the same loop, process group and checkpoint; Ray starts the ranks, and again when one died.

A rank that dies ends the step of all others at once (:mod:`hasp_models.distributed.ranks`); Ray then starts the whole group
again, and :func:`hasp_models.train.fit` goes on from its own checkpoint, which is written before anything else depends on
it. No state is handed to Ray, so nothing that Ray keeps, loses or reports late can change a weight: at an equal number of
ranks, the run ends with the same bits as one in which nobody died.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from hasp import errors
from hasp.cluster.ray_session import ray_session
from hasp.errors import HaspError
from hasp_models.distributed.ranks import LostRank

__all__ = ["fit_on_ray"]

T = TypeVar("T")

TIMEOUT = 300
"""Seconds after which a collective that does not end is an error."""


def fit_on_ray(
    task: Callable[[], T],
    num_workers: int,
    *,
    address: str = "local",
    max_failures: int = 3,
    use_gpu: bool = False,
    cpus_per_worker: float = 1,
    folder: str | Path | None = None,
) -> T:
    """Run a training task on ``num_workers`` ranks of a Ray cluster.

    Args:
        task: what every rank runs, in its process group: opens the parts, makes model and loader, and calls
            :func:`hasp_models.train.fit` with ``checkpoint=`` a folder that all machines share. Without a checkpoint, a rank
            that dies sends the run back to its start. Sent to the workers by Ray, so that it must not hold open files.
        num_workers: ranks; one CPU, and with ``use_gpu`` one GPU, each.
        address: ``"local"``: start Ray on this machine; ``"auto"`` or an address: use that cluster. A connection of this
            process that is open already comes first.
        max_failures: times that ranks may die; each time all of them are started again.
        use_gpu: NCCL instead of gloo, and a GPU for each rank.
        cpus_per_worker: cores that Ray sets aside for a rank.
        folder: where Ray keeps its own notes on the run, on storage that all machines share; ``None``: a temporary folder,
            which is enough for one machine.

    Returns:
        What ``task`` returned on rank 0.

    Raises:
        HaspError: Ray is missing or does not answer, the cluster is too small, ranks died more often than ``max_failures``,
            or ``task`` raised; what it raised as :class:`HaspError` is raised here as it was, and not tried again.
    """
    if num_workers < 1 or max_failures < 0:
        raise HaspError(
            f"num_workers is at least 1 and max_failures at least 0, got {num_workers} and {max_failures}; correct them"
        )
    with ray_session(address, num_cpus=math.ceil(num_workers * cpus_per_worker)) as ray, _notes(folder) as notes:
        _check_room(ray, num_workers, cpus_per_worker, use_gpu)
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        resources = {"CPU": cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {})
        trainer = TorchTrainer(
            partial(_rank, task),
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=TIMEOUT),
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=resources),
            run_config=RunConfig(storage_path=str(notes), failure_config=FailureConfig(max_failures=max_failures)),
        )
        try:
            found = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            reason = " ".join(str(error).split())[-400:]
            raise HaspError(
                f"the ranks died more than {max_failures} times, or Ray could not start them (... {reason}); see Ray's logs, "
                "then run it again: it goes on from the checkpoint"
            ) from error
    if isinstance(found, _Refused):
        raise found.error()
    return cast(T, found)


@contextmanager
def _notes(folder: str | Path | None) -> Iterator[Path]:
    if folder is not None:
        yield Path(folder).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="hasp-ray-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def _check_room(ray: Any, num_workers: int, cpus: float, use_gpu: bool) -> None:
    """Refuse what the cluster can never start: Ray itself would wait for more machines, without end."""
    have = ray.cluster_resources()
    for kind, each in (("CPU", cpus), ("GPU", 1.0 if use_gpu else 0.0)):
        if num_workers * each > have.get(kind, 0.0):
            raise HaspError(
                f"{num_workers} ranks take {num_workers * each:g} {kind}s, and the cluster has {have.get(kind, 0.0):g}; "
                "lower num_workers, or add machines"
            )


class _Refused(NamedTuple):
    """An error that another attempt would only meet again."""

    kind: str
    text: str

    def error(self) -> HaspError:
        """The error as it was."""
        kind = getattr(errors, self.kind, None)
        return kind(self.text) if isinstance(kind, type) and issubclass(kind, HaspError) else HaspError(self.text)


def _rank(task: Callable[[], Any]) -> Any:
    """One rank: a death elsewhere is Ray's business, bad input the user's."""
    import torch

    # Ray counts cores; torch counts those of the machine, and then several ranks on one machine wait for each other.
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS") or 1)))
    try:
        return task()
    except LostRank:
        raise
    except HaspError as error:
        return _Refused(type(error).__name__, str(error))
