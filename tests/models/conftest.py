"""What the tests of the experiments share: the made-up catalogue, and methods that train in a second."""

from __future__ import annotations

from collections.abc import Iterator

import experiment_data
import pytest

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
