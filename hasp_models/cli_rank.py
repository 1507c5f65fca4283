"""The commands that rank: ``hasp-models similar`` and ``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hasp.console import show, show_json

__all__ = ["evaluate", "similar"]

Folder = Annotated[Path, typer.Argument(help="folder of hasp-models embed")]
Score = Annotated[str, typer.Option(help="cosine, dot or l2")]
Hybrid = Annotated[
    float | None, typer.Option(help="add to the cosine so much of what links and concepts say exactly; 0.5 is a good start")
]
ExactContent = Annotated[float | None, typer.Option(help="with --hybrid: how much concepts count in that [0.3]")]
Json = Annotated[bool, typer.Option("--json", help="print JSON alone on standard output")]


def similar(
    embeddings: Folder,
    name: Annotated[str, typer.Argument(help="name or id of an entity, or a piece that only one name has")],
    k: Annotated[int, typer.Option("-k", help="how many", min=1)] = 10,
    source: Annotated[str | None, typer.Option(help="the embedded graph, if it has moved")] = None,
    score: Score = "cosine",
    hybrid: Hybrid = None,
    exact_content: ExactContent = None,
    json: Json = False,
) -> None:
    """The nearest entities of one, and the concepts and links that explain each."""
    from hasp_models.embeddings import Embeddings
    from hasp_models.tasks import similar as find
    from hasp_models.texts import similar_text

    more: dict[str, Any] = {"hybrid": hybrid, "exact_content": exact_content, "source": source}
    found = find(Embeddings.load(embeddings), name, k=k, score=score, **more)  # type: ignore[arg-type]
    if json:
        show_json(found)
    else:
        show(similar_text(found))


def evaluate(
    embeddings: Folder,
    truth: Annotated[Path, typer.Option(help="table of pairs of similar entities, by your ids")],
    skip_unknown: Annotated[bool, typer.Option("--skip-unknown", help="leave pairs with unknown ids out")] = False,
    score: Score = "cosine",
    hybrid: Hybrid = None,
    exact_content: ExactContent = None,
    source: Annotated[str | None, typer.Option(help="with --hybrid: the embedded graph, if it has moved")] = None,
    json: Json = False,
) -> None:
    """MAP@10, 50 and 100 on pairs that are known to be similar, by degree group, with 95 % intervals."""
    from hasp_models.data.pair_table import read_truth
    from hasp_models.embeddings import Embeddings
    from hasp_models.tasks import evaluate_pairs
    from hasp_models.texts import evaluate_text

    found = Embeddings.load(embeddings)
    known = read_truth(truth, found.ids, skip_unknown=skip_unknown)
    more: dict[str, Any] = {"hybrid": hybrid, "exact_content": exact_content, "source": source}
    result = evaluate_pairs(found, known, score=score, **more)  # type: ignore[arg-type]
    if json:
        show_json(result.to_json())
    else:
        show(evaluate_text(result))
