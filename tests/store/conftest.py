"""A finished tiny build, for tests that damage or read it."""

import pytest
from store_build import build


@pytest.fixture
def folder(tmp_path):
    build(tmp_path / "parts")
    return tmp_path / "parts"
