"""``bench`` is no part of the installed package: these tests find it beside ``tests``, however pytest was started."""

import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture
def peers_may_warn():
    """PyG and the bench's own subjects warn about what is none of our business here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
