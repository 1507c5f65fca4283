"""The command that users run, as real processes: killed with signal 9 at random moments, and in other surroundings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE, PARTS = "synthetic:300:1", "60"

# Ten years later, and with a clock that runs backwards.
CLOCK = """
import time
real, steps = time.time, iter(range(10**9))
time.time = lambda: real() + 315_360_000 - 3 * next(steps)
import sys
from hasp.cli import main
sys.argv = ["hasp", *sys.argv[1:]]
main()
"""


def contents(root: Path) -> dict[str, bytes]:
    """Every file but the lock and the log, which has seconds in it."""
    return {f.name: f.read_bytes() for f in sorted(root.iterdir()) if f.name not in (".lock", "build.json")}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of an undisturbed build (``whole``) and of three that were killed again and again, and their counts."""
    root = tmp_path_factory.mktemp("killed")
    script = Path(__file__).with_name("build_process.py")
    command = [sys.executable, "-W", "ignore", str(script), str(root), "3", SOURCE, PARTS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return root, [tuple(map(int, line.split())) for line in done.stdout.splitlines()]


def test_kill_9_at_random_moments_of_hasp_build(killed):
    root, counts = killed
    assert len(counts) == 3 and sum(kills for kills, _ in counts) >= 6
    assert any(unfinished for _, unfinished in counts)  # some struck while files were being written
    whole = contents(root / "whole")
    assert len(whole) > 60
    for run in range(3):
        assert contents(root / str(run)) == whole


def test_surroundings_do_not_show_in_the_bytes(killed, tmp_path):
    """The clock, the hash seed of Python, the locale, the time zone, the folder and the number of threads."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "TZ", "PYTHONHASHSEED"))}
    surroundings = [
        ("1", {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "UTC"}),
        ("3", {"PYTHONHASHSEED": "4242", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "2"}),
    ]
    whole = contents(killed[0] / "whole")
    for threads, changes in surroundings:
        out = tmp_path / f"with {threads}"
        command = [sys.executable, "-W", "ignore", "-c", CLOCK, "build", SOURCE, str(out), "--num-parts", PARTS]
        command += ["--threads", threads, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**clean, **changes})
        assert done.returncode == 0, done.stderr
        assert contents(out) == whole
