"""The versions that users may have: what pyproject.toml promises, and what `make oldest` runs to keep the promise."""

import ast
import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def test_the_oldest_versions_that_are_run_are_those_that_are_promised():
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    lists = [re.search(rf"^{name} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL) for name in ("dependencies", "parquet")]
    promised = dict(pair for found in lists if found for pair in re.findall(r'"([a-z0-9-]+)>=([0-9.]+)"', found[1]))
    pins = re.findall(r"^([a-z0-9-]+)==([0-9.]+)$", (REPO / "constraints-oldest.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(promised) == 11
    assert {name: numbers(version) for name, version in pins if name != "click"} == {
        name: numbers(version) for name, version in promised.items()
    }


# Of modules that are used here, what came after Python 3.10. New syntax is ruff's to find.
NEWER = {
    "typing": {"Never", "NotRequired", "Required", "Self", "TypeVarTuple", "Unpack", "assert_never", "override"},
    "enum": {"ReprEnum", "StrEnum", "member", "nonmember", "verify"},
    "datetime": {"UTC"},
    "itertools": {"batched"},
    "contextlib": {"chdir"},
    "hashlib": {"file_digest"},
    "operator": {"call"},
    "math": {"cbrt", "exp2", "fma", "sumprod"},
}


def test_nothing_is_imported_that_python_310_lacks():
    found = []
    for path in (p for folder in ("hasp", "hasp_models", "bench", "tests") for p in (REPO / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                newer = NEWER.get(node.module or "", set()) & {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                newer = NEWER.get(node.value.id, set()) & {node.attr}
            else:
                newer = set()
            found += [f"{path.relative_to(REPO)}:{node.lineno}: {name}" for name in newer]
    assert not found


def numbers(version: str) -> list[int]:
    """``2.5`` and ``2.5.0`` are one version."""
    return ([int(n) for n in version.split(".")] + [0, 0])[:3]
