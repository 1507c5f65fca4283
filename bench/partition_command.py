"""``python -m bench partition-quality GRAPH``: every partitioner on a graph of yours.

GRAPH is whatever ``hasp build`` reads (a folder of CSV or Parquet tables, a catalogue, MovieLens, a HeteroData saved as .pt,
which is read without running code), an ``.npz`` with ``indptr`` and ``indices``, or a made-up graph such as ``grid:900``.
The EELs alone are looked at. Writes the table, the numbers and a picture to a folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.partition_graphs import KINDS, csr_of
from bench.partition_quality import BACKENDS, EXTRAS, compare, empty, installed, picture
from bench.table import Table
from hasp.cut import resolve
from hasp.errors import HaspError
from hasp.report import DEGREE_GROUPS
from hasp.text import table as aligned

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    from bench.run import in_words, machine

    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        parts = _parts(given.parts)
        names = given.backends.split(",") if given.backends else [b for b in BACKENDS if installed(b)]
        if given.rounds < 1:
            raise HaspError(f"--rounds={given.rounds}: 1 or more; choose another number")
        if given.out.exists() and not given.out.is_dir():
            raise HaspError(f"--out={given.out} is a file; give a folder")
        _say(f"reading {given.graph}")
        indptr, indices = csr_of(given.graph, given.entity, given.eel)
        for name in names:
            resolve(name, indptr, indices.size // 2)
        if max(parts) > indptr.size - 1:
            raise HaspError(f"--parts={max(parts)} is more than the {indptr.size - 1:,} linked entities; lower it")
        chosen, why = resolve("auto", indptr, indices.size // 2)
    except HaspError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    label = _label(given.graph)
    print(f"{label}: {indices.size // 2:,} EELs between {indptr.size - 1:,} entities. hasp build takes {chosen}: {why}.")
    table = empty(f"Partitioners on {label}")
    compare(table, indptr, indices, label, parts, names, given.rounds, _say)
    missing = [f"{b} (pip install 'hasp-pyg[{b}]')" for b in EXTRAS if b not in names and not installed(b)]
    if missing and not given.backends:
        table.notes.append(f"Not installed: {', '.join(missing)}.")
    table.notes.append(in_words(machine()))
    print(_text(table))
    _write(given.out, table)
    return 1 if all("error" in row for row in table.rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench partition-quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="made-up graphs:\n  " + "\n  ".join(spelled for _, spelled in KINDS.values()),
    )
    parser.add_argument("graph", metavar="GRAPH", help="folder, file or made-up graph")
    parser.add_argument("--parts", default="8,64", help="numbers of parts, with commas [%(default)s]")
    parser.add_argument("--backends", help=f"with commas [{','.join(BACKENDS)}, those that are installed]")
    parser.add_argument(
        "--entity", action="append", default=[], help="node type that is partitioned; repeat for more [inferred]"
    )
    parser.add_argument("--eel", action="append", default=[], help="link type, title__co_engaged__title; repeat [inferred]")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, interleaved [%(default)s]")
    parser.add_argument("--out", type=Path, default=Path("partition-quality"), help="folder for the results [%(default)s]")
    return parser


def _parts(text: str) -> tuple[int, ...]:
    pieces = [piece.strip() for piece in text.split(",")]
    if not all(piece.isdecimal() and int(piece) > 0 for piece in pieces):
        raise HaspError(f"--parts is whole numbers from 1 with commas between them, got {text!r}; write 8,64")
    return tuple(dict.fromkeys(int(piece) for piece in pieces))


def _label(graph: str) -> str:
    """A graph's own name, without the folders above it."""
    return graph if graph.partition(":")[0] in (*KINDS, "synthetic") else Path(graph).resolve().name


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _text(table: Table) -> str:
    """As a terminal shows it: one block per number of parts."""
    out = []
    head = ("", "cut", "/ METIS", "balance", "seconds", "CPU s", "faster", "bytes/EEL", *DEGREE_GROUPS)
    for k in dict.fromkeys(row["parts"] for row in table.rows):
        rows = []
        for row in table.rows:
            if row["parts"] == k and "error" not in row:
                kept = [row[f"kept, degree {group}"] or "-" for group in DEGREE_GROUPS]
                rows.append((row["backend"], f"{row['cut']:.1%}", *(_cell(row[c]) for c in _SHOWN), *kept))
        out.append(f"\n{k} parts\n" + aligned(head, rows))
    out.append("\nbalance: entities of the largest part over the mean. faster: CPU seconds against METIS.")
    out.append(f"{', '.join(DEGREE_GROUPS)}: EELs kept of entities with so many.")
    out += [note for note in table.notes[2:] if not note.startswith("Machine")]
    return "\n".join(out)


_SHOWN = (
    "cut / METIS's",
    "entities: largest / mean",
    "seconds",
    "CPU seconds",
    "CPU: faster than METIS",
    "bytes per EEL",
)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _write(folder: Path, table: Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    good = [row for row in table.rows if "error" not in row]
    if good:
        (folder / "plot.svg").write_text(picture(table.title, good))
    (folder / "rows.json").write_text(json.dumps(table.rows, indent=1) + "\n")
    table.picture = "plot.svg" if good else ""
    (folder / "table.md").write_text(table.markdown() + "\n")
    print(f"\nwritten to {folder}/: table.md, rows.json" + (", plot.svg" if good else ""))
