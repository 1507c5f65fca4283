"""The executor on Ray: plain tasks and objects, no Ray Data.

Ray runs a task again where its worker died, and makes the results again that were lost with a machine; tasks here give
the same result whenever and wherever they run, so that none of this shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hasp.errors import HaspError

__all__ = ["OnRay"]

RETRIES = 5
"""Times that a task is started again when the process that ran it died."""


class OnRay:
    """Runs tasks on the cluster that Ray is connected to.

    Args:
        ray: the module, connected (:func:`hasp.cluster.ray_session.ray_session`).
        cpus: cores that a task takes.
    """

    def __init__(self, ray: Any, cpus: float = 1) -> None:
        self._ray = ray
        self._remote: dict[Any, Any] = {}
        self._options = {"num_cpus": cpus, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
        have = ray.cluster_resources().get("CPU", 0.0)
        if have < cpus:
            raise HaspError(f"a task takes {cpus:g} CPUs, and the Ray cluster has {have:g}; add machines to it")
        self.workers = max(1, int(have / cpus))

    def put(self, value: Any) -> Any:
        """See :class:`hasp.cluster.executor.Executor`."""
        return self._ray.put(value)

    def start(self, task: Callable[..., Any], *arguments: Any, returns: int = 1) -> list[Any]:
        """See :class:`hasp.cluster.executor.Executor`."""
        if task not in self._remote:
            self._remote[task] = self._ray.remote(**self._options)(task)
        found = self._remote[task].options(num_returns=returns).remote(*arguments)
        return [found] if returns == 1 else list(found)

    def get(self, handle: Any) -> Any:
        """See :class:`hasp.cluster.executor.Executor`.

        Raises:
            HaspError: what the task raised as such, or that its process died more than :data:`RETRIES` times.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(handle)
        except errors.RayTaskError as error:
            cause: BaseException | None = error
            while isinstance(cause, errors.RayTaskError):
                cause = cause.cause
            if isinstance(cause, HaspError):
                raise cause from None
            raise
        except errors.RayError as error:
            reason = " ".join(str(error).split())[:300]
            raise HaspError(
                f"a task was lost on the Ray cluster more than {RETRIES} times ({reason}); give its machines more memory, or "
                "see Ray's logs, then run it again: a build resumes where it stopped"
            ) from error
