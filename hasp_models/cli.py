"""The command ``hasp-models``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hasp.errors import HaspError

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Models over HASP parts.")


@app.callback()
def _root() -> None:
    """Models over HASP parts."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the parts and the report")] = Path("demo"),
    titles: Annotated[int, typer.Option(help="size of the made-up catalogue", min=1_000)] = 20_000,
    epochs: Annotated[int, typer.Option(help="passes over all parts", min=1)] = 12,
    seed: Annotated[int, typer.Option(help="decides everything random", min=0)] = 0,
) -> None:
    """One catalogue through every stage: plan, build, report, train on parts, rank held-out links."""
    from hasp_models.demo import demo as run

    run(out, titles, epochs, seed)


def main() -> None:
    """Entry point; bad input ends with exit code 2 and one line that gives the rule, the value and the remedy."""
    try:
        app()
    except HaspError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
