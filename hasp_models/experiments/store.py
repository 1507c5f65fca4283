"""A results folder: one file per fit, one log per search, and a note of what they are results of.

- ``experiment.json``: the data's fingerprint and whether the runs are quick ones; another folder is asked for otherwise.
- ``origin.json``: the version that wrote here last; each fit names the one that made it.
- ``search/<method>.jsonl``: a line per trial.
- ``results/<experiment>/<method>-split<s>-seed<r>-<digest>.safetensors``: one fit. The digest is of its settings, so that
  results of other settings are never mistaken for these.
- ``speed.json``: seconds per method, measured before the first fit.

Every file appears whole or not at all: whatever kills a run, the next one goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from hasp import __version__
from hasp.errors import CorruptPart, HaspError
from hasp.store.disk import Disk
from hasp.store.framing import chunks, parse_json
from hasp_models.data.benchmark import Benchmark
from hasp_models.data.evaluate import Result
from hasp_models.experiments.judge import METRICS
from hasp_models.experiments.method import Settings, digest
from hasp_models.files import load_tensors, read_json, write_json
from hasp_models.origin import stamp

__all__ = ["Job", "Outcome", "Store", "fingerprint"]

_VERSION = 1
_NOTE, _ORIGIN, _SPEED, _LOCK = "experiment.json", "origin.json", "speed.json", "lock"
_LIMIT = 1 << 28


@dataclass(frozen=True)
class Job:
    """One fit and what is measured on it.

    Attributes:
        experiment: whose results these are: ``table1``, ``fig6``...
        method: a name in :data:`hasp_models.experiments.methods.METHODS`.
        split: seed of the split of users.
        seed: of training.
        settings: of the method.
        variant: what else distinguishes it (``parts=4``); plain text.
    """

    experiment: str
    method: str
    split: int
    seed: int
    settings: Settings
    variant: str = ""

    @property
    def name(self) -> str:
        """Its file, below the folder of results, without suffix."""
        key = digest([self.variant, self.settings])
        return f"{self.experiment}/{self.method}-split{self.split}-seed{self.seed}-{key}"


@dataclass(frozen=True)
class Outcome:
    """What a job gave.

    Attributes:
        results: variant -> truth -> result; a plain evaluation has the one variant ``""``.
        seconds: of fitting.
        notes: plain values.
    """

    results: dict[str, dict[str, Result]]
    seconds: float
    notes: Mapping[str, Any] = field(default_factory=dict)


class Store:
    """The results folder of one data set.

    Args:
        folder: made by :meth:`open`.
        disk: what does the I/O; tests inject faults here.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.folder, self.disk = folder, disk or Disk()
        self._handle: int | None = None

    def open(self, note: Mapping[str, Any]) -> None:
        """Take the folder for these results.

        Args:
            note: plain values, all of which must equal those of the folder, if it has some.

        Raises:
            HaspError: the folder holds results of something else, or other files; or another run is writing to it.
        """
        note = {"format_version": _VERSION, **note}
        names = self.disk.list(self.folder)
        if _NOTE in names:
            found = read_json(self.folder / _NOTE, self.disk)
            for key in sorted({*found, *note}):
                if found.get(key) != note.get(key):
                    raise HaspError(
                        f"{self.folder} holds results of {key}={found.get(key)!r}, this run has {note.get(key)!r}; "
                        "choose another --out"
                    )
        elif [n for n in names if n not in (_LOCK, _NOTE + ".tmp")]:
            raise HaspError(
                f"--out is a new folder or one of these results, but {self.folder} holds {names[0]!r}; choose another"
            )
        self.disk.make_folder(self.folder)
        self._handle = self.disk.lock(self.folder / _LOCK)
        if _NOTE not in names:
            write_json(self.folder / _NOTE, note, self.disk)
        if "data" in note:
            made = stamp(data={"kind": "data", "id": str(note["data"])})
            if _ORIGIN not in names or read_json(self.folder / _ORIGIN, self.disk) != made:
                write_json(self.folder / _ORIGIN, made, self.disk)

    def close(self) -> None:
        """Let other runs write here."""
        if self._handle is not None:
            self.disk.unlock(self._handle)
            self._handle = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- fits --------------------------------------------------------------------------------------------------------

    def path(self, job: Job) -> Path:
        """Where a job's file is, or will be."""
        return self.folder / "results" / f"{job.name}.safetensors"

    def has(self, job: Job) -> bool:
        """Whether the job is done."""
        return self.path(job).is_file()

    def put(self, job: Job, outcome: Outcome) -> None:
        """Keep what a job gave; durable on return."""
        tensors: dict[str, Tensor] = {}
        for variant, truths in outcome.results.items():
            for truth, result in truths.items():
                for key, value in _arrays(result).items():
                    tensors[f"{variant}|{truth}|{key}"] = value
        meta = {
            "format_version": _VERSION,
            "library": __version__,
            **{k: getattr(job, k) for k in ("experiment", "method", "split", "seed", "settings", "variant")},
            "seconds": outcome.seconds,
            "notes": dict(outcome.notes),
            "truths": {v: {t: r.links for t, r in truths.items()} for v, truths in outcome.results.items()},
        }
        text = json.dumps(meta, allow_nan=False).encode()
        tensors["meta"] = torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy())
        path = self.path(job)
        self.disk.make_folder(path.parent)
        self.disk.put(path, chunks(tensors))

    def get(self, job: Job) -> Outcome:
        """What a finished job gave.

        Raises:
            CorruptPart: the file is not what was written.
        """
        path = self.path(job)
        tensors = load_tensors(path, self.disk)
        if "meta" not in tensors:
            raise CorruptPart(f"{path} is no result of an experiment; remove it and run again")
        meta = parse_json(tensors["meta"].numpy().tobytes())
        mine = {k: getattr(job, k) for k in ("experiment", "method", "split", "seed", "settings", "variant")}
        if any(meta.get(k) != parse_json(json.dumps(v)) for k, v in mine.items()):
            raise CorruptPart(f"{path} is the result of another job; remove it and run again")
        results: dict[str, dict[str, Result]] = {}
        for variant, truths in meta["truths"].items():
            for truth, links in truths.items():
                some = {k: v.numpy() for k, v in _below(tensors, f"{variant}|{truth}|").items()}
                groups = {k[6:]: v.astype(bool) for k, v in some.items() if k.startswith("group/")}
                values = {k: some[k].astype(np.float64) for k in METRICS if k in some}
                result = Result(job.method, truth, links, some["queries"], values, groups)
                results.setdefault(variant, {})[truth] = result
        return Outcome(results, float(meta["seconds"]), meta["notes"])

    # -- searches ----------------------------------------------------------------------------------------------------

    def trials(self, method: str) -> list[dict[str, Any]]:
        """The search log of a method, a row per trial; empty before the first."""
        path = self.folder / "search" / f"{method}.jsonl"
        if not path.is_file():
            return []
        return [parse_json(line) for line in self.disk.head(path, _LIMIT).splitlines() if line.strip()]

    def log_trials(self, method: str, rows: list[dict[str, Any]]) -> None:
        """Replace the search log of a method."""
        path = self.folder / "search" / f"{method}.jsonl"
        self.disk.make_folder(path.parent)
        text = "".join(json.dumps(row, allow_nan=False, sort_keys=True) + "\n" for row in rows)
        self.disk.put(path, [text.encode()])

    # -- speed -------------------------------------------------------------------------------------------------------

    def speeds(self) -> dict[str, float]:
        """Seconds per fit, by method."""
        path = self.folder / _SPEED
        return {k: float(v) for k, v in read_json(path, self.disk).items()} if path.is_file() else {}

    def keep_speeds(self, seconds: Mapping[str, float]) -> None:
        """Replace what :meth:`speeds` gives."""
        write_json(self.folder / _SPEED, dict(seconds), self.disk)


def fingerprint(benchmark: Benchmark) -> str:
    """Of all that a benchmark trains on and is judged by; equal for equal data, 20 hex digits."""
    hasher = blake3(benchmark.graph.fingerprint().encode())
    arrays = [benchmark.users, benchmark.items, benchmark.links.indptr, benchmark.links.indices]
    for truths in (benchmark.validation, benchmark.test):
        for name in sorted(truths):
            hasher.update(name.encode())
            arrays += [truths[name].queries, truths[name].rows.indptr, truths[name].rows.indices]
    for array in arrays:
        hasher.update(np.ascontiguousarray(array).tobytes())
    return str(hasher.hexdigest()[:20])


def _arrays(result: Result) -> dict[str, Tensor]:
    # Half the bytes of float64; a table shows four digits.
    values = {k: torch.from_numpy(result.values[k].astype(np.float32)) for k in METRICS if k in result.values}
    groups = {f"group/{k}": torch.from_numpy(v.astype(np.uint8)) for k, v in result.groups.items()}
    return {"queries": torch.from_numpy(result.queries), **values, **groups}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
