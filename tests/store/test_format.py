"""The golden folder holds the bytes of the format, and docs/format.md describes them."""

import base64
import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from store_build import IDS, NAMES, Quick, build, node_part, parts, same, snapshot

import hasp
from hasp.errors import HaspError
from hasp.store.framing import DTYPES
from hasp.store.read import FolderStore

GOLDEN = Path(__file__).parent / "golden" / "tiny.json"


def as_text(root):
    return {
        name: data.decode().splitlines() if name.endswith(".json") else base64.b64encode(data).decode()
        for name, data in snapshot(root).items()
    }


def test_the_writer_writes_the_golden_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(hasp, "__version__", "golden")
    build(tmp_path, Quick())
    assert as_text(tmp_path) == json.loads(GOLDEN.read_text()), (
        "the bytes of the format changed: raise FORMAT_VERSION and keep reading the old one, or take the change back"
    )


def test_the_golden_bytes_are_read(tmp_path):
    for name, text in json.loads(GOLDEN.read_text()).items():
        data = ("\n".join(text) + "\n").encode() if isinstance(text, list) else base64.b64decode(text)
        (tmp_path / name).write_bytes(data)
    store = FolderStore.open(tmp_path, verify="always")
    *own, shared, sampled, cut = parts()
    assert store.manifest.library == "golden"
    assert all(same(store.part(p), own[p]) for p in range(3))
    assert same(store.shared, shared)
    assert same(store.sampled, sampled)
    assert same(store.cut, cut)
    assert store.node_part()["t"].equal(node_part()["t"])
    assert store.ids("c").tolist() == IDS["c"].tolist()
    assert store.names("t").tolist() == NAMES["t"].tolist()
    with pytest.raises(HaspError):
        copy.copy(store).part(3)


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


def test_the_reader_of_the_page_reads_parts_without_this_library(folder):
    code = PAGE.split("```python\n")[1].split("```")[0]
    assert "hasp" not in code
    out = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True).stdout.splitlines()
    expected = []
    for part in parts()[:3]:
        n_id = part.nodes["t"].n_id
        for edge_type, edges in part.edges.items():
            ends = [n_id[i.long()] if t == "t" else i for t, i in zip(edge_type[::2], edges.edge_index, strict=True)]
            expected.append(f"{part.part_id} {'__'.join(edge_type)} {ends[0].tolist()} {ends[1].tolist()}")
    assert out == expected


def test_the_page_names_every_file_key_and_dtype(folder):
    for name in [*snapshot(folder), "journal.jsonl", ".lock", *FolderStore.open(folder).manifest.to_json(), *DTYPES]:
        assert f"`{name}`" in PAGE or name.startswith("part-"), name
    data = (folder / "manifest.json").read_bytes()
    first, last = (int(n) for n in re.search(r"bytes (\d+) to (\d+), counted from 0", PAGE).groups())
    assert data[first : last + 1].decode() == json.loads(data)["blake3"]
    assert list(json.loads(data)) == re.findall(r'^"(\w+)":', PAGE, re.M)
