"""What ``make demo`` prints, run for real and written into the README."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.table import Table

__all__ = ["SIZES", "run"]

# Rows per edge type and per part, and the path of the page, which is one machine's.
_ROW = re.compile(r"\w+__|edge type|part +entities|\d+ +[\d,]+ +[\d,]+ |(min|mean|max) |report page|plan$|report$")

SIZES = {"small": ["--titles", "2000", "--epochs", "2"], "full": []}


@dataclass
class Transcript(Table):
    """Lines that a command printed, shown as they are."""

    lines: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The lines as a block, and the notes below."""
        return "\n".join(["```", *self.lines, "```", "", " ".join(self.notes)])


def run(size: str = "full") -> list[Table]:
    """Run the demo as a user would; the per-part and per-type rows of the report are left out."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hasp_models", "demo", "--out", str(Path(folder) / "demo"), *SIZES[size]]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    text = "\n".join(line for line in lines if not _ROW.match(line))
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    table = Transcript("demo", "make demo", ["seconds"], [{"seconds": seconds}], lines=text.strip().splitlines())
    return [table]
