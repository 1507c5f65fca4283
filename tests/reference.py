"""The public names of both packages as a page: ``python tests/reference.py`` writes ``docs/reference.md``."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference.md"
PACKAGES = ("hasp", "hasp_models")
HEAD = """# Reference

The public names, what they take, and the first words of their docstrings; `help(name)` has shapes, dtypes, units, errors and
sources. Written by `python tests/reference.py`.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page as the code has it."""
    return HEAD + "".join(f"\n## `{name}`\n{package(name)}" for name in PACKAGES)


def package(name: str) -> str:
    """Every public name of a package."""
    module = importlib.import_module(name)
    return "".join(entry(n, getattr(module, n)) for n in module.__all__ if not n.startswith("__"))


def entry(name: str, value: Any) -> str:
    """A class or a function."""
    source = Path(inspect.getsourcefile(inspect.unwrap(value)) or "").resolve().relative_to(ROOT)
    lines = [f"\n### {name}\n", f"{first(value)} [source](../{source})\n"]
    if isinstance(value, type) and issubclass(value, (Exception, Warning)):
        return "\n".join(lines)
    lines += ["```python", call(name, value), "```", ""]
    if isinstance(value, type):
        lines += members(value)
    return "\n".join(lines)


def members(value: type) -> list[str]:
    """A row for each public method and property of a class that the class itself defines."""
    rows = []
    for name, member in vars(value).items():
        plain = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        if name.startswith("_") or not (isinstance(plain, property) or inspect.isfunction(plain)) or not inspect.getdoc(plain):
            continue
        said = name if isinstance(plain, property) else call(name, plain, most=10_000)
        cell = said.replace("|", "\\|")
        rows.append(f"| `{cell}` | {first(plain)} |")
    return ["| | |", "|---|---|", *rows, ""] if rows else []


def call(name: str, value: Any, most: int = 110) -> str:
    """``name(arguments)``, an argument per line where it is long."""
    if dataclasses.is_dataclass(value) and isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if f.init and not f.name.startswith("_")]
        words = [f"{f.name}: {f.type}{default(f)}" for f in fields]
    else:
        given = inspect.signature(value)
        words, keyword = [], False
        for p in given.parameters.values():
            if p.name in ("self", "cls"):
                continue
            if p.kind is p.KEYWORD_ONLY and not keyword:
                words, keyword = [*words, "*"], True
            star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
            keyword = keyword or p.kind is p.VAR_POSITIONAL
            kind = "" if p.annotation is p.empty else f": {text(p.annotation)}"
            words.append(star + p.name + kind + ("" if p.default is p.empty else f" = {shown(p.default)}"))
    line = f"{name}({', '.join(words)})"
    return line if len(line) <= most else f"{name}(\n" + "".join(f"    {word},\n" for word in words) + ")"


def default(field: Any) -> str:
    """What a field of a dataclass is if nobody says."""
    if field.default is not dataclasses.MISSING:
        return f" = {shown(field.default)}"
    return " = ..." if field.default_factory is not dataclasses.MISSING else ""


def shown(value: Any) -> str:
    """A default, as one would write it."""
    if inspect.isfunction(value) or isinstance(value, type):
        return str(value.__name__)
    found = repr(value)
    return "..." if found.startswith("<") or " at 0x" in found else found


def text(annotation: Any) -> str:
    """An annotation without the modules of its names."""
    return annotation if isinstance(annotation, str) else re.sub(r"\b\w+\.", "", inspect.formatannotation(annotation))


def first(value: Any) -> str:
    """The first paragraph of a docstring on one line, with Markdown's marks in the place of reStructuredText's."""
    said = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    said = re.sub(r":(?:class|func|mod|data|attr|meth):`~?([^`]+)`", r"`\1`", said)
    return said.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
