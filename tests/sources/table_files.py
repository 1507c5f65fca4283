"""Folders of tables, written as text."""

from pathlib import Path

KNOWS = ("user", "knows", "user")
OWNS = ("user", "owns", "item")
NODES = "id\n1\n2\n3\n"


def lay(folder: Path, files: dict[str, str]) -> Path:
    """Write each text under its name."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
