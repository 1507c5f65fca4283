"""Checkpoints: all that a training run needs to go on bit for bit, in files that appear whole or not at all.

Tensors are in ``state-<step>.safetensors``, everything else in ``checkpoint.json``, which names that file and its hash and
is replaced last: a crash between the two leaves the older checkpoint in force. Nothing is pickled. There is no state of a
random generator: :func:`hasp_models.train.fit` keys everything random by (seed, step, parts).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor, nn

from hasp import __version__
from hasp.errors import CorruptPart, HaspError
from hasp.store.disk import Disk
from hasp_models.files import read_json, save_tensors, write_json

__all__ = ["Checkpoint", "signature", "weights_of"]

_JSON, _VERSION = "checkpoint.json", 1
_LATER = {"blake3", "library", "build"}  # keys that early versions did not write
_KEYS = {"format_version", "file", "model", "optimizer", "loader", "settings", "progress"}


@dataclass
class Checkpoint:
    """The folder of one run's checkpoint.

    Args:
        folder: made when the first checkpoint is saved.
        disk: what does the I/O; tests inject faults here.
    """

    folder: Path
    disk: Disk

    @classmethod
    def at(cls, folder: str | Path, disk: Disk | None = None) -> Checkpoint:
        """A checkpoint in ``folder``, which need not exist yet."""
        return cls(Path(folder), disk or Disk())

    def exists(self) -> bool:
        """Whether there is something to resume from."""
        return _JSON in self.disk.list(self.folder)

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: Any,
        settings: Mapping[str, Any],
        progress: Mapping[str, Any],
        best: Mapping[str, Tensor] | None = None,
        gradients: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Replace the checkpoint.

        Args:
            model: its ``state_dict`` is kept.
            optimizer: of this model.
            loader: a :class:`hasp.HASPLoader`.
            settings: what must be equal on resumption; plain values.
            progress: what the loop counts; plain values, ``step`` among them.
            best: the weights to go back to in the end.
            gradients: what ranks hold back (:meth:`hasp_models.distributed.gradients.Gradients.state`).
        """
        tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"best/{k}": v for k, v in (best or {}).items()}
        tensors |= {f"gradients/{k}": v for k, v in (gradients or {}).items()}
        state = optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for index, values in state["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{index}/{key}"] = value
                else:
                    plain.setdefault(str(index), {})[key] = value
        name = f"state-{int(progress['step']):010d}.safetensors"
        self.disk.make_folder(self.folder)
        file = save_tensors(self.folder / name, tensors, self.disk)
        meta = {
            "format_version": _VERSION,
            "library": __version__,
            "file": file,
            "build": _build(loader),
            "model": signature(model),
            "optimizer": {"kind": type(optimizer).__name__, "groups": state["param_groups"], "state": plain},
            "loader": loader.state_dict(),
            "settings": dict(settings),
            "progress": dict(progress),
        }
        write_json(self.folder / _JSON, {**meta, "blake3": _digest(meta)}, self.disk)
        for other in self.disk.list(self.folder):
            if other.startswith("state-") and other != name:
                self.disk.discard(self.folder / other)

    def load(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: Any,
        settings: Mapping[str, Any],
        epochs: int | None = None,
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Put model, optimizer and loader back to where they were.

        Args:
            model: as it was saved.
            optimizer: likewise.
            loader: likewise.
            settings: likewise.
            epochs: of which no more may be done already; ``None``: any number.

        Returns:
            ``progress`` and ``best`` as they were saved.

        Raises:
            HaspError: the checkpoint is of another model, other parts or other settings, or has done more epochs; nothing has
                been changed then.
            CorruptPart: a file is not what was written.
        """
        meta = read_json(self.folder / _JSON, self.disk)
        if meta.get("format_version") != _VERSION:
            raise HaspError(
                f"a checkpoint here has format_version {_VERSION}, {self.folder} has {meta.get('format_version')}; train anew"
            )
        if set(meta) - _LATER != _KEYS or meta.get("blake3", _digest(meta)) != _digest(meta):
            raise CorruptPart(f"{self.folder / _JSON} is not the file that was written; remove the checkpoint and train anew")
        self._check(meta, model, optimizer, settings)
        if (saved := meta.get("build")) is not None and saved != (mine := _build(loader)):
            key = next((k for k in saved if mine is None or saved[k] != mine.get(k)), "the graph")
            raise HaspError(
                f"the checkpoint in {self.folder} is of other parts, built with another {key}; build them as they were, "
                "or choose another folder"
            )
        if epochs is not None and (done := meta["progress"].get("epoch", 0)) > epochs:
            raise HaspError(f"{self.folder} has {done} epochs, got epochs={epochs}; raise it, or choose another folder")
        path = self.folder / str(meta["file"]["name"])
        self.disk.size(path)
        if self.disk.hash(path) != meta["file"]["blake3"]:
            raise CorruptPart(f"{path} is not the file that was written; remove the checkpoint and train anew")
        tensors = self.disk.map(path)
        loader.load_state_dict(meta["loader"])  # first of all: it refuses other parts
        model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model/")})
        state: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in meta["optimizer"]["state"].items()}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/", 2)
                state.setdefault(int(index), {})[key] = value.clone()  # a file's pages must not be trained on
        optimizer.load_state_dict({"state": state, "param_groups": meta["optimizer"]["groups"]})
        return meta["progress"], {k[5:]: v.clone() for k, v in tensors.items() if k.startswith("best/")}

    def gradients(self) -> dict[str, Tensor]:
        """What ranks held back, as it was saved. Call it after :meth:`load`, which looks whether the file is whole."""
        tensors = self.disk.map(self.folder / str(read_json(self.folder / _JSON, self.disk)["file"]["name"]))
        return {k[10:]: v.clone() for k, v in tensors.items() if k.startswith("gradients/")}

    def _check(
        self, meta: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
    ) -> None:
        if (problem := difference(meta["model"], signature(model))) is not None:
            raise HaspError(
                f"the checkpoint in {self.folder} is of another model ({problem}); use its settings or another folder"
            )
        if meta["optimizer"]["kind"] != type(optimizer).__name__:
            raise HaspError(
                f"the checkpoint in {self.folder} is of the optimizer {meta['optimizer']['kind']}, "
                f"got {type(optimizer).__name__}; use that one"
            )
        for key in sorted({*meta["settings"], *settings}):
            saved, mine = meta["settings"].get(key), settings.get(key)
            if saved != mine:
                raise HaspError(
                    f"the checkpoint in {self.folder} was made with {key}={saved!r}, this run has {mine!r}; "
                    "make them equal, or choose another folder"
                )


def _build(loader: Any) -> dict[str, Any] | None:
    """What the parts were built with: equal graphs may be cut in many ways, and steps follow the cut."""
    store = getattr(loader, "store", None)
    return None if store is None else dict(json.loads(json.dumps(dict(store.manifest.config))))


def _digest(meta: Mapping[str, Any]) -> str:
    """blake3 of what ``checkpoint.json`` says, in hex; early versions wrote none."""
    said = {k: v for k, v in meta.items() if k != "blake3"}
    return str(blake3(json.dumps(said, sort_keys=True).encode()).hexdigest())


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's tensors."""
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def signature(model: nn.Module) -> dict[str, Any]:
    """What tells one model from another: its class, and name, dtype and shape of every tensor."""
    shapes = {k: [str(v.dtype).removeprefix("torch."), list(v.shape)] for k, v in model.state_dict().items()}
    return {"class": type(model).__name__, "tensors": shapes}


def difference(saved: Mapping[str, Any], mine: Mapping[str, Any]) -> str | None:
    """The first difference of two signatures in words, or ``None``."""
    if saved["class"] != mine["class"]:
        return f"{saved['class']}, not {mine['class']}"
    for name in [*saved["tensors"], *mine["tensors"]]:
        a, b = saved["tensors"].get(name), mine["tensors"].get(name)
        if a != b:
            return f"{name} is {_words(a)} there and {_words(b)} here"
    return None


def _words(entry: Any) -> str:
    return "absent" if entry is None else f"{entry[0]} {tuple(entry[1])}"
