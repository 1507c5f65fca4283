"""Damage to any file of a finished build is noticed and named; when files are hashed."""

import re

import pytest
from store_build import build, touch

from hasp.errors import CorruptPart, HaspError
from hasp.store.read import FolderStore


def _flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def _hole(data):
    return data[:8] + bytes(len(data) - 8) if any(data[8:]) else _flip(data)


def _truncate(data):
    return data[: len(data) * 9 // 10]


FILES = ["manifest.json", "shared", "sampled", "cut", "node_part", "ids", "part-00000", "part-00001", "part-00002"]


@pytest.mark.parametrize("damage", [_flip, _hole, _truncate])
@pytest.mark.parametrize("name", FILES)
def test_damage_to_any_file_is_noticed_and_named(tmp_path, name, damage):
    build(tmp_path)
    path = tmp_path / (name if "." in name else f"{name}.safetensors")
    intact = path.read_bytes()
    path.write_bytes(damage(intact))
    if damage is _truncate or name == "manifest.json":
        with pytest.raises(CorruptPart, match=re.escape(str(path))):
            FolderStore.open(tmp_path, verify="size")
        return
    for verify in ("first", "always"):
        store = FolderStore.open(tmp_path, verify=verify)
        with pytest.raises(CorruptPart, match=f"{re.escape(str(path))} has the blake3 .*, found .*; restore"):
            touch(store)
        problems = store.check_files()
        assert len(problems) == 1
        assert str(path) in problems[0]
    path.write_bytes(intact)
    assert store.check_files() == []
    touch(store)


def test_when_files_are_hashed(tmp_path):
    build(tmp_path)
    path = tmp_path / "part-00000.safetensors"
    stores = {verify: FolderStore.open(tmp_path, verify=verify) for verify in ("size", "first", "always")}
    for store in stores.values():
        store.part(0)
    path.write_bytes(_flip(path.read_bytes()))
    stores["size"].part(0)
    stores["first"].part(0)
    with pytest.raises(CorruptPart):
        stores["always"].part(0)
    with pytest.raises(HaspError, match="verify='never': 'size', 'first' or 'always'"):
        FolderStore.open(tmp_path, verify="never")


def test_check_files_tells_its_progress(tmp_path):
    build(tmp_path)
    seen = {}
    store = FolderStore.open(tmp_path)
    assert store.check_files(lambda name, count: seen.update({name: seen.get(name, 0) + count})) == []
    assert seen == {name: entry.bytes for name, entry in store.manifest.files.items()}


def test_a_damaged_build_log_is_no_reason_to_refuse_parts(tmp_path):
    build(tmp_path)
    for data in (b"{", b"[1]", b"\xff"):
        (tmp_path / "build.json").write_bytes(data)
        assert FolderStore.open(tmp_path).build_log == {}
    (tmp_path / "build.json").unlink()
    assert FolderStore.open(tmp_path).build_log == {}
