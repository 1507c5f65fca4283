"""Kernels are compiled where nothing can be kept on disk, too: in a container whose user has no home, say."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from numba.core import caching

from hasp.kernels import jit as module

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture
def nowhere(monkeypatch):
    """No folder that Numba knows can be written to, and nobody was told."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    monkeypatch.setattr(module, "_told", False)


def double(values):
    for i in range(values.size):
        values[i] *= 2


def test_where_nothing_can_be_kept_it_compiles_and_says_so_once(nowhere):
    with pytest.warns(RuntimeWarning, match="set NUMBA_CACHE_DIR"):
        kernel = module.jit()(double)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.jit(fastmath=True)(double)
    values = np.arange(3)
    kernel(values)
    assert values.tolist() == [0, 2, 4]


def test_another_error_is_not_hidden(monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_LOCATOR_CLASSES", "no.such.Class")
    failed = RuntimeError("Failed to import 'no.such.Class'")

    def broken(self, function):
        raise failed

    monkeypatch.setattr(caching.CacheImpl, "__init__", broken)
    with pytest.raises(RuntimeError) as caught:
        module.jit()(double)
    assert caught.value is failed


def test_what_is_compiled_is_kept(tmp_path):
    """The second process finds on disk what the first one put there."""
    code = (
        "import numpy as np; from hasp.kernels.fill import emptiest_first as kernel;"
        "kernel(np.arange(2), np.ones(2, np.int64), np.zeros(3, np.int64), np.zeros(2, np.int32));"
        "print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))"
    )
    for expected in ("0 1", "1 0"):
        done = run(code, REPO, NUMBA_CACHE_DIR=str(tmp_path))
        assert done.stdout.split() == expected.split()


def test_a_user_without_a_home_builds_and_merges(tmp_path):
    """Neither beside the source nor in the user's cache folder can a file be made; root could write where others may not."""
    shutil.copytree(REPO / "hasp", tmp_path / "hasp", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "hasp" / "kernels" / "__pycache__").touch()
    code = (
        "import hasp; parts = hasp.HASPData(hasp.open_source('synthetic:200').to_hetero_data(), num_parts=2, log=False);"
        "print(hasp.__file__, sum(b['title'].num_nodes for b in hasp.HASPLoader(parts, batch_size=2)))"
    )
    done = run(code, tmp_path, HOME=os.devnull)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "hasp" / "__init__.py"), "200"]
    assert done.stderr.count("set NUMBA_CACHE_DIR") == 1


def run(code, folder, **environment):
    """A fresh interpreter that finds the package in ``folder``, and knows no cache folder but those in ``environment``."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_"))}
    command, env = [sys.executable, "-c", code], {**known, "PYTHONPATH": str(folder), **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env)
