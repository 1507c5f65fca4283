"""A connection to Ray (the extra ``ray``), made quietly; nothing here is imported before somebody asks for Ray."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hasp.errors import HaspError

__all__ = ["import_ray", "ray_session"]

PATIENCE = 10.0
"""Seconds within which the address of a cluster takes a connection."""

# Read by Ray when it starts, and handed on to its workers. They only choose what is printed and measured.
_QUIET = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
}


def import_ray() -> Any:
    """The module ``ray``. Raises :class:`HaspError` with the pip line where it is missing."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise HaspError("Ray is not installed; pip install 'hasp-pyg[ray]', or leave it out and use one machine") from error
    return ray


@contextmanager
def ray_session(address: str = "local", num_cpus: int | None = None) -> Iterator[Any]:
    """Ray, connected for the length of the block; a connection that is there already is used and left as it is.

    Args:
        address: ``"local"`` starts Ray on this machine and stops it in the end, ``"auto"`` is the cluster that runs on this
            machine, anything else is the address of a cluster (``"10.0.0.1:6379"``, ``"ray://..."``).
        num_cpus: of a Ray that is started here; ``None``: all cores that this process may use.

    Raises:
        HaspError: Ray is missing, or there is no cluster at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address == "local":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        # Workers import what this process can import; on a cluster, the same packages are installed everywhere.
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        options |= {
            "num_cpus": num_cpus or cores,
            "include_dashboard": False,
            "runtime_env": {"env_vars": {"PYTHONPATH": path}},
        }
    _check_reachable(address)
    logger = logging.getLogger("ray")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)
    with _no_messages():
        yield from _connected(ray, address, options)


def _check_reachable(address: str) -> None:
    """Refuse an address at which nobody listens within seconds; Ray itself tries for minutes, and prints meanwhile."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise HaspError(
            f"no Ray cluster answers at {address!r} ({error}); start one with ray start --head, or use the address local"
        ) from error


def _connected(ray: Any, address: str, options: dict[str, Any]) -> Iterator[Any]:
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HaspError(
            f"no Ray cluster answers at {address!r} ({reason}); start one with ray start --head, or use the address local"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _no_messages() -> Iterator[None]:
    """Without Ray's remarks on how it was started, and without what its nodes write to standard output whatever the settings
    (a paragraph for each worker that died): errors that matter are raised.
    """
    importlib.import_module("ray.data")  # which sets its logger up when it is imported
    from ray._private import worker

    logger, data = logging.getLogger("ray"), logging.getLogger("ray.data")
    level, said, printer = logger.level, data.level, getattr(worker, "print_to_stdstream", None)
    logger.setLevel(logging.ERROR)
    data.setLevel(logging.CRITICAL)  # a line or more for each map_batches, and a page for what is raised anyway
    if printer is not None:  # as in the versions of Ray that we know
        worker.print_to_stdstream = _drop
    try:
        yield
    finally:
        logger.setLevel(level)
        data.setLevel(said)
        if printer is not None:
            worker.print_to_stdstream = printer


def _drop(*arguments: Any, **more: Any) -> None:
    """Print nothing."""
