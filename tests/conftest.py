"""What all tests share: where the real graphs are, and a quiet, repeatable hypothesis."""

import os
import signal
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# A shell that starts a suite in the background has it ignore interrupts, and all its children; tests send them.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Triton's kernels run in its interpreter, without a GPU; it asks when it is first imported, which torch does where it likes.
os.environ.setdefault("TRITON_INTERPRET", "1")

# PyG's own imports warn on some versions of torch; that is not ours to fail on.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_geometric.loader  # noqa: F401

# Numba compiles inside the first example of a property: no deadline, and the same examples on every run.
settings.register_profile(
    "house", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
# For tests/mutate.py, which asks whether a test fails and not on what.
settings.register_profile("no-shrinking", settings.get_profile("house"), phases=[Phase.explicit, Phase.generate])
settings.load_profile("house")


def shared_folder() -> Path:
    """The folder with real graphs: ``HASP_SHARED``, or ``shared`` beside the checkout."""
    return Path(os.environ.get("HASP_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def _data(name: str) -> Path:
    folder = shared_folder() / "data" / name
    if not folder.is_dir():
        pytest.skip(f"no real graph {name!r}: set HASP_SHARED to a folder that has data/{name}")
    return folder


@pytest.fixture(scope="session")
def books() -> Path:
    """The folder of the books catalogue, or a skip that says what is missing."""
    return _data("books")


@pytest.fixture(scope="session")
def movies() -> Path:
    """The folder of the movies catalogue, or a skip that says what is missing."""
    return _data("movies")
