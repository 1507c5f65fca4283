"""Run benchmarks, keep their history, and write the tables of the READMEs between ``<!-- bench:NAME -->`` markers.

No number in a README comes from anywhere else.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.measure import CLOCK, touch_memory
from bench.table import Table

__all__ = ["BENCHES", "in_words", "last", "machine", "main", "remember", "show", "write_tables"]

HERE = Path(__file__).parent
# The demo stands last: it is a transcript, of which the history keeps the time alone.
BENCHES = (
    "materialise",
    "csr",
    "partition_quality",
    "loader",
    "samplers",
    "floors",
    "equal_time",
    "pipeline",
    "relation_attention",
    "pretrain",
    "transe",
    "ladder",
    "compression",
    "trees",
    "distributed",
    "distributed_sage",
    "speedup",
    "cache",
    "halo",
    "halo_quality",
    "queues",
    "map_reduce",
    "pinsage",
    "demo",
)
BY_HAND = ("relation_attention_gpu", "billion")
"""Names of tables that have a history, but no name of their own to be run by: a second one of a bench; the large run."""
DRAWN = ("scaling", "summary")
"""Drawn from other benches' histories."""
MODULES = {"relation_attention_gpu": "relation_attention"}
ROOT = HERE.parent
README_FILES = (HERE.parent / "README.md", HERE / "README.md")
PACKAGES = ("hasp-pyg", "numba", "numpy", "pymetis", "scipy", "torch", "torch-geometric")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: ``python -m bench [NAME ...] [--size full] [--no-readme]``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["billion"]:  # by hand, with options of its own: it takes an hour and the disk
        from bench import billion

        return billion.main(words[1:])
    if words[:1] == ["partition-quality"]:  # on a graph of your own
        from bench import partition_command

        return partition_command.main(words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure HASP beside its peers and its floors.",
        epilog="With options of their own (see their --help): billion; partition-quality GRAPH, on a graph of yours.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join((*BENCHES, *DRAWN))}; none: all")
    parser.add_argument("--size", default="full", help="small (seconds), full (minutes), large (csr only: 30 million EELs)")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the history")
    parser.add_argument("--no-readme", action="store_true", help="leave the READMEs as they are; so does any size but full")
    parser.add_argument("--last", action="store_true", help="measure nothing: write the newest full results to the READMEs")
    given = parser.parse_args(words)
    known = (*BENCHES, *BY_HAND, *DRAWN)
    unknown = sorted(set(given.names) - set(known))
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(known)}")
    if given.last:
        # Of the demo the history keeps no lines: only a run can write it.
        show([t for n in given.names or known if n != "demo" and (t := last(given.results, n)) is not None])
        return 0
    where = machine()
    print(in_words(where))
    if given.size != "small" and not set(given.names) <= set(DRAWN):
        print(f"{touch_memory() / 1e9:.1f} GB of memory touched")
    for name in given.names or BENCHES:
        if name in DRAWN:
            drawn = last(given.results, name)
            print(f"\n{name} has no history to draw from" if drawn is None else "\n" + drawn.markdown())
            if drawn is not None and not given.no_readme:
                show([drawn])
            continue
        module = importlib.import_module(f"bench.{name}")
        if given.size not in module.SIZES:
            print(f"{name} has no size {given.size!r}, it has {', '.join(module.SIZES)}: left out")
            continue
        tables: list[Table] = module.run(given.size)
        for table in tables:
            table.notes.append(in_words(where))
            print("\n" + table.markdown())
            remember(given.results, table, given.size, where)
        if given.size == "full" and not given.no_readme:  # as --last would: not every row is for readers
            show([last(given.results, table.name) or table for table in tables if table.name != "demo"])
            show([table for table in tables if table.name == "demo"])
            show([found for found in [last(given.results, "summary")] if found is not None])
    return 0


def show(tables: Sequence[Table]) -> None:
    """Write tables, and the pictures that they have, to where readers find them."""
    for table in tables:
        if table.picture:
            (ROOT / table.picture).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / table.picture).write_text(table.drawing)
    texts = {table.name: table.markdown() for table in tables}
    print("\n".join(f"{path.name}: {', '.join(write_tables(path, texts)) or 'nothing'}" for path in README_FILES))


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    try:
        info = Path("/proc/cpuinfo").read_text()
        memory = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0]) * 1024
    except OSError:
        info, memory = "", 0
    models = re.findall(r"model name\s*:\s*(.*)", info)
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": memory,
        "clock": CLOCK,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": _git("describe", "--always", "--dirty"),
    }


def write_tables(path: Path, tables: Mapping[str, str]) -> list[str]:
    """Replace what stands between each table's markers; returns the names that the file has markers for."""
    text, found = path.read_text(), []
    docs = os.path.relpath(ROOT / "docs", path.parent)
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- bench:{re.escape(name)} -->).*?(<!-- /bench -->)", re.DOTALL)
        if pattern.search(text):
            found.append(name)
            text = pattern.sub("\\1\n" + table.replace("](docs/", f"]({docs}/").replace("\\", r"\\") + "\n\\2", text)
    if found:
        path.write_text(text)
    return found


def last(folder: Path, name: str) -> Table | None:
    """The newest full result in a bench's history, as it was measured; ``None``: there is none.

    A bench may say which rows are for readers (``for_readme``), and bring an old table to today's columns (``finish``); the
    history keeps all as it was.
    """
    from bench import scaling, summary

    if name == "summary":
        return summary.table(partial(last, folder))
    module = importlib.import_module(f"bench.{MODULES.get(name, name)}")
    if name in ("billion", "scaling"):
        entry = scaling.newest(folder)
    else:
        path = folder / f"{name}.jsonl"
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        entry = next((e for e in reversed(entries) if e["size"] not in ("small", "own")), None)
    if entry is None:
        return None
    if name == "scaling":
        table = scaling.table(entry)
        table.notes.append(in_words(entry["machine"]))
        return table
    rows = entry["rows"]
    # Early entries do not say their columns: all but lists and what is spelled as a variable.
    columns = entry.get("columns") or [k for k, v in rows[0].items() if not isinstance(v, (list, dict)) and "_" not in k]
    table = Table(name, entry["title"], columns, rows, entry["notes"], getattr(module, "BESIDE", ()))
    getattr(module, "finish", lambda _: None)(table)
    table.rows = [row for row in table.rows if getattr(module, "for_readme", lambda _: True)(row)]
    return table


def remember(folder: Path, table: Table, size: str, where: dict[str, Any]) -> None:
    """Append a table to its history."""
    folder.mkdir(parents=True, exist_ok=True)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry: dict[str, Any] = {"when": when, "size": size, "machine": where, "title": table.title}
    entry |= {"columns": list(table.columns), "rows": table.rows, "notes": table.notes}
    with (folder / f"{table.name}.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def in_words(where: dict[str, Any]) -> str:
    """The machine in one sentence, for a table's notes."""
    packages = ", ".join(f"{k} {v}" for k, v in where["packages"].items())
    memory = f"{where['memory_bytes'] / 2**30:.0f} GiB" if where["memory_bytes"] else "unknown memory"
    clock = "CPU seconds, summed over threads (others were using the machine). " if where["clock"] == "cpu" else ""
    return f"{clock}Machine: {where['cores']} cores of {where['cpu']}, {memory}; Python {where['python']}, {packages}."


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
