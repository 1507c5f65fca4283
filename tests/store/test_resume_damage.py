"""Damage to any file of an unfinished build: the resumption notices, writes that file again, and ends with the same bytes."""

import random

import pytest
from store_build import build, snapshot
from store_crash import Trusting
from test_machine import DAMAGES, DATA, damaged

from hasp.errors import HaspError
from hasp.store.read import FolderStore
from hasp.store.write import Writer


def resumed(root, name, how, seed, writer):
    """Interrupt a build before its manifest, damage one file, resume; what the folder holds then."""
    build(root, stop_after=6)
    path = root / name
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(damaged(path.read_bytes(), how, random.Random(seed)))
    build(root, writer=writer)
    return snapshot(root)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    root = tmp_path_factory.mktemp("reference") / "parts"
    build(root)
    return snapshot(root)


@pytest.mark.parametrize("name", DATA)
def test_any_damage_between_crash_and_resume_is_repaired(tmp_path, reference, name):
    for how in DAMAGES:
        for seed in range(3):
            root = tmp_path / f"{how}{seed}"
            assert resumed(root, name, how, seed, Writer) == reference
            assert FolderStore.open(root).check_files() == []


def test_that_test_notices_a_resumption_that_does_not_hash(tmp_path, reference):
    found = 0
    for name in DATA:
        for seed in range(3):
            try:
                found += resumed(tmp_path / f"{name}{seed}", name, "flip", seed, Trusting) != reference
            except (HaspError, KeyError):  # noqa: PERF203 - a header of other tensors
                found += 1
    assert found >= 4  # the others struck a header, which is parsed
