"""What the commands print of their results and below their help, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # help is shown without loading torch
    from hasp_models.data.evaluate import Result

__all__ = ["EPILOG", "evaluate_text", "similar_text"]

EPILOG = """\b
An example, over parts of hasp build shop/ parts/ --reverse:
  hasp-models pretrain parts/ --out kg/
  hasp-models train parts/ --concepts kg/ --out run/
  hasp-models embed run/ shop/ --out emb/
  hasp-models similar emb/ "a title"
  hasp-models evaluate emb/ --truth pairs.csv     columns a and b: your ids

\b
Exit codes:
  0    done
  1    something unexpected happened; for watch: the run failed
  2    bad input, settings or files: a line with the rule, the value and the remedy
  130  interrupted: run train, embed --by-parts or reproduce again to go on
"""

_GROUPS = {"group0": "3 links or fewer", "group1": "4 to 6", "group2": "more than 6", "cold": "none"}


def similar_text(found: dict[str, Any]) -> str:
    """The answers of :func:`hasp_models.tasks.similar`: score and name, and below it up to six concepts and three links."""
    lines = [f"similar to {found['query']['name']}"]
    for i, answer in enumerate(found["similar"], 1):
        lines.append(f"{i:3d}  {answer['score']:.3f}  {answer['name']}")
        why = ["linked"] if answer["linked"] else []
        why += answer["concepts"][:6] + [f"both with {link}" for link in answer["links"][:3]]
        lines.append(f"            {'; '.join(why) or 'no concept and no link in common'}")
    return "\n".join(lines)


def evaluate_text(result: Result) -> str:
    """A table of MAP by degree group, and how it was made."""
    lines = [f"{'group':24s}  queries  map@10 [95 %]            map@50   map@100"]
    for group in (None, *result.groups):
        main = result.interval("map@10", group)
        if main.queries:
            rest = "   ".join(f"{result.mean(m, group):.4f}" for m in ("map@50", "map@100"))
            name = "all" if group is None else f"{group} ({_GROUPS[group]})" if group in _GROUPS else group
            lines.append(f"{name:24s}  {main.queries:7d}  {main.mean:.4f} [{main.low:.4f}, {main.high:.4f}]  {rest}")
    return "\n".join([*lines, "", "All other entities are ranked for each; groups are by links to distinct entities."])
