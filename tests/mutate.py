"""Break the code on purpose, one line at a time, and see the named test fail: ``python tests/mutate.py [word ...]``.

Works on a copy in a temporary folder. Every test must pass on the untouched copy and fail on every mutation of its own; exit
code 1 if one does not. With words, only the mutations whose line of the table contains one of them. ``--table`` prints the
table of docs/invariants.md instead.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import pytest
from mutations import MUTATIONS, problem

REPO = Path(__file__).resolve().parents[1]
COPIED = ("hasp", "hasp_models", "tests", "pyproject.toml")


def passes(root: Path, test: str) -> tuple[bool, str]:
    """Does the test pass in the copy? And the first line of what it says.

    In a fork of this process, which has imported the heavy libraries already and nothing of ours.
    """
    said = root / "said.txt"
    child = os.fork()
    if child == 0:
        code = 3
        try:
            with said.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.chdir(root)
            sys.path[:0] = [str(root), str(root / "tests")]
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=no-shrinking", test]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = said.read_text(encoding="utf-8")
    if code in (2, 3, 4, 5):  # not a test that failed, nor a crash: one that never ran
        raise SystemExit(f"{test} did not run:\n{text[-3000:]}")
    return code == 0, next((line[1:].strip() for line in text.splitlines() if line.startswith("E ")), "")


def main(words: list[str]) -> int:
    """Try every mutation; the number of surprises."""
    chosen = [m for m in MUTATIONS if not words or any(w in m.row() for w in words)]
    surprises = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ.setdefault("TRITON_INTERPRET", "1")  # as conftest does, before anything imports Triton
        for name in ("numba", "pymetis", "scipy.sparse", "torch_geometric.transforms"):
            importlib.import_module(name)
    if any(name.split(".")[0] == "hasp" for name in sys.modules):
        raise SystemExit("the copy is what is tested, but hasp is imported already; run this file by itself")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in COPIED:
            source = REPO / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, root / name)  # with its times, so that numba's cache of untouched files stays valid
        for mutation in chosen:
            wrong = problem(mutation, root)
            if wrong:
                raise SystemExit(wrong)
        for test in dict.fromkeys(m.test for m in chosen):
            good, _ = passes(root, test)
            surprises += not good
            print(f"{'passes as it is' if good else 'FAILS AS IT IS':16} {test}", flush=True)
        for mutation in chosen:
            path = root / mutation.file
            keep = path.with_name(path.name + ".keep")
            shutil.copy2(path, keep)
            path.write_text(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")
            good, why = passes(root, mutation.test)
            keep.replace(path)
            surprises += good
            print(f"{'SURVIVED' if good else 'noticed':16} {mutation.row()}\n{'':16} {why[:160]}", flush=True)
    print(f"{len(chosen)} mutations, {surprises} surprises")
    return surprises


if __name__ == "__main__":
    if "--table" in sys.argv:
        print("\n".join(m.row() for m in MUTATIONS))
    else:
        sys.exit(1 if main(sys.argv[1:]) else 0)
