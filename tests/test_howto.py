"""docs/howto.md: every block of Python on it runs, in order, in one namespace."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[1] / "docs" / "howto.md"


def test_every_block_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    text = PAGE.read_text(encoding="utf-8")
    blocks = [(text[: m.start()].count("\n") + 2, m[1]) for m in re.finditer(r"```python\n(.*?)```", text, re.DOTALL)]
    assert len(blocks) > 10
    names: dict[str, object] = {"__name__": "howto"}
    for line, block in blocks:  # a traceback shows the lines of the page
        exec(compile("\n" * (line - 1) + block, str(PAGE), "exec"), names)
    assert "3,000 nodes" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_links_of_the_pages_lead_somewhere():
    for page in (PAGE, *PAGE.parent.glob("*.md"), PAGE.parent.parent / "README.md", PAGE.parent.parent / "bench" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
