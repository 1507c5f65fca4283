"""``hasp build`` in real processes that are killed; run as a program, because it forks before any thread is started.

``python build_process.py ROOT RUNS SOURCE PARTS`` prints a line per run: the kills, and how many of them left an unfinished
build behind.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

KILLS = 6  # of each run, at most: some builds are quicker


def slow_down() -> None:
    """Make every sync of a file 5 ms longer: a watcher that had to wait for its core must not find all of them written."""
    from hasp.store.disk import Disk

    sync = Disk.sync

    def slowly(self: Disk, handle: int) -> None:
        time.sleep(5e-3)
        sync(self, handle)

    Disk.sync = slowly  # type: ignore[method-assign]


def start(arguments: list[str], slow: bool = False) -> int:
    """Fork one ``hasp``; its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            if slow:
                slow_down()
            from hasp.cli import app

            app(arguments, standalone_mode=False)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os._exit(code)
    return child


def ends(child: int) -> int:
    return os.waitpid(child, 0)[1]


def main(root: Path, runs: int, source: str, parts: str) -> None:
    def command(out: Path) -> list[str]:
        return ["build", source, str(out), "--num-parts", parts, "--threads", "1", "--json"]

    begin = time.monotonic()
    if ends(start(command(root / "whole"))):
        raise SystemExit("the undisturbed build failed")
    whole, most = time.monotonic() - begin, len(os.listdir(root / "whole"))  # noqa: PTH208
    for run in range(runs):
        out, draw, kills, unfinished = root / str(run), random.Random(run), 0, 0
        for moment in range(KILLS + 1):
            if moment < KILLS and (out / "manifest.json").exists():  # it ended before the last blow: begin anew
                shutil.rmtree(out)
            child = start(command(out), slow=KILLS // 2 <= moment < KILLS)
            status: int | None = None
            if moment < KILLS // 2:  # at any time at all
                time.sleep(whole * draw.random())
            elif moment < KILLS:  # while files are being written
                there = len(os.listdir(out)) if out.is_dir() else 0  # noqa: PTH208
                status = wait_for(child, out, min(there + draw.randrange(1, 9), most - 2))
            if status is None:
                if moment < KILLS:
                    os.kill(child, signal.SIGKILL)
                status = ends(child)
            if status not in (0, signal.SIGKILL):
                raise SystemExit(f"a build ended with status {status}")
            kills += status != 0
            unfinished += status != 0 and (out / "journal.jsonl").exists()
        print(kills, unfinished, flush=True)


def wait_for(child: int, out: Path, files: int) -> int | None:
    """Wait until there are so many names in a folder; the exit status if the process ends before."""
    while not out.is_dir() or len(os.listdir(out)) < files:  # noqa: PTH208
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(2e-4)
    return None


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    import hasp.build
    import hasp.cli
    import hasp.sources
    import hasp.sources.synthetic  # noqa: F401

    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
