"""What tests of the models share: a quick disk; for those of the experiments, the made-up catalogue and tiny methods."""

from __future__ import annotations

from collections.abc import Iterator

import experiment_data
import pytest

from hasp.store.disk import Disk
from hasp_models.data.benchmark import Benchmark
from hasp_models.experiments.methods import METHODS


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    """All trained methods are tiny within this module."""
    before = dict(METHODS)
    experiment_data.small()
    yield
    METHODS.update(before)


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    """The made-up catalogue, cut into sides."""
    return experiment_data.source()


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncs nothing: the machine stays up."""
    monkeypatch.setattr(Disk, "sync", lambda self, handle: None)
    monkeypatch.setattr(Disk, "sync_dir", lambda self, path: None)
