"""Method: something that can be fitted on a benchmark, with the settings that may be tuned; Fitted: what comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from blake3 import blake3
from torch import Tensor

from hasp.errors import HaspError
from hasp.graph import Graph
from hasp_models.data.benchmark import Benchmark
from hasp_models.data.neighbors import Scorer

__all__ = ["Fitted", "Group", "Method", "Settings", "digest"]

Settings = dict[str, Any]
Group = Literal["chance", "co-engagement", "content", "hybrid", "graph", "ours"]


@dataclass(frozen=True)
class Fitted:
    """A method after fitting.

    Attributes:
        scorer: scores all entities of the benchmark it was fitted on.
        embed: a graph of the same types -> float32 ``[N, d]``, one row per entity of that graph, without any training:
            new entities stand behind the known ones. Graphs that have their reverse edge types keep their edges as they
            are; to others the reverse types are added. ``None``: the method cannot.
        epochs: passes that training took; 0 for closed forms.
        seconds: of fitting, if the method measures it itself (such as without the validation).
        scorer_of: a graph -> the scorer of its entities, where that is more than the cosine of ``embed``.
        history: a row per epoch, as :class:`hasp_models.train.Fit` keeps it.
        notes: anything worth keeping with the result; plain values.
    """

    scorer: Scorer
    embed: Callable[[Graph], Tensor] | None = None
    epochs: int = 0
    seconds: float | None = None
    history: Sequence[Mapping[str, Any]] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    scorer_of: Callable[[Graph], Scorer] | None = None


@dataclass(frozen=True)
class Method:
    """A row of Table 1.

    Attributes:
        name: in commands and tables.
        group: what kind of method it is.
        run: ``(benchmark, settings, seed, quiet) -> Fitted``. Reads the benchmark's graph, links, graph users and validation
            truths, never a test truth.
        space: setting -> the values to choose from, the same number of trials for every method.
        defaults: setting -> value; the first trial. Holds what is not tuned as well.
        quick: settings that a quick run replaces (epochs).
        seeded: whether the training seed changes anything; a closed form is fitted once per split.
        starts: more trials that are known to be good somewhere: what each changes. They come right after the first.
    """

    name: str
    group: Group
    run: Callable[[Benchmark, Settings, int, bool], Fitted]
    space: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = True
    starts: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        missing = [k for k in self.space if k not in self.defaults]
        if missing:
            raise HaspError(f"each tuned setting has a default, but {missing} of {self.name!r} have none; add them")

    @property
    def inductive(self) -> bool:
        """Whether it embeds graphs it was not fitted on."""
        return self.group in ("graph", "ours")

    def settings(self, chosen: Mapping[str, Any] | None = None, *, quick: bool = False) -> Settings:
        """The defaults, a quick run's replacements, and what was chosen, in this order.

        Raises:
            HaspError: a chosen setting that the method does not have.
        """
        unknown = [k for k in chosen or {} if k not in self.defaults]
        if unknown:
            raise HaspError(f"the settings of {self.name!r} are {list(self.defaults)}, got {unknown[0]!r}; correct the name")
        return {**self.defaults, **(self.quick if quick else {}), **(chosen or {})}

    def first(self, *, quick: bool = False) -> list[Settings]:
        """The trials that every search begins with: the defaults, and other starts."""
        return [{**self.settings(start), **(self.quick if quick else {})} for start in ({}, *self.starts)]

    def fit(self, benchmark: Benchmark, settings: Settings | None = None, seed: int = 0, quiet: bool = True) -> Fitted:
        """Fit on the graph users of a benchmark.

        Args:
            benchmark: what may be read of it is said at ``run``.
            settings: replace the defaults one by one.
            seed: of training.
            quiet: no bar.
        """
        return self.run(benchmark, self.settings(settings), seed, quiet)


def digest(value: Any) -> str:
    """Ten hex digits of a plain value: equal for equal values, whatever the order of their keys."""
    return str(blake3(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()[:10])
