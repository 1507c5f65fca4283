"""Readers while their folder is rebuilt, builders that meet in one folder: old bytes, new bytes or an error, never a mix."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from store_build import Quick, build, parts, same, snapshot

from hasp.errors import CorruptPart, HaspError, StaleParts
from hasp.store.disk import Disk
from hasp.store.read import FolderStore

OTHER = {"fingerprint": "0" * 64, "shift": 1}


class Meanwhile(Disk):
    """Another process overwrites the parts just before the n-th operation of one kind; with ``half``, it dies half-way."""

    def __init__(self, kind: str, half: bool = False) -> None:
        self.kind, self.half, self.armed = kind, half, False

    def strike(self, kind: str, path: Path) -> None:
        if self.armed and kind == self.kind:
            self.armed = False
            build(path.parent, overwrite=True, stop_after=2 if self.half else None, **OTHER)


def _struck(kind):
    def operation(self, path, *rest):
        self.strike(kind, path)
        return getattr(Disk, kind)(self, path, *rest)

    return operation


for _kind in ("stat", "size", "hash", "head", "map"):
    setattr(Meanwhile, _kind, _struck(_kind))

READS = {
    "part": lambda s: [s.part(0)],
    "shared": lambda s: [s.shared],
    "cut": lambda s: [s.cut],
    "labels": lambda s: [s.node_part()],
    "ids": lambda s: [s.ids("t")],
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("verify", ["size", "first", "always"])
@pytest.mark.parametrize("kind", ["stat", "size", "hash", "head", "map"])
def test_an_overwrite_between_any_two_looks_at_a_file_is_told(tmp_path, kind, verify, half):
    for name, read in READS.items():
        root = tmp_path / name
        build(root)
        disk = Meanwhile(kind, half)
        store = FolderStore.open(root, verify, disk)
        disk.armed = True
        if kind == "hash" and verify == "size":  # it never hashes
            read(store)
            assert disk.armed
            continue
        with pytest.raises(StaleParts, match="is being rebuilt, or was since it was opened; open it again"):
            read(store)
        assert not disk.armed


@pytest.mark.parametrize("half", [False, True])
def test_an_overwrite_while_a_folder_is_opened_is_told(tmp_path, half):
    build(tmp_path)
    found = set()
    for looks in range(1, 40):
        build(tmp_path, overwrite=True)
        disk = Meanwhile("size", half)
        disk.count = looks

        def strike(kind, path, disk=disk):
            disk.count -= kind == "size"
            if kind == "size" and disk.count == 0:
                build(path.parent, overwrite=True, stop_after=2 if half else None, **OTHER)

        disk.strike = strike
        try:
            store = FolderStore.open(tmp_path, disk=disk)
        except HaspError as error:
            found.add(type(error))
            assert disk.count <= 0 and "is being rebuilt" in str(error)
        else:
            if disk.count > 0:
                break  # opening takes no more looks than that
            assert same(store.part(0), parts(1)[0])  # the new manifest was read, and so the new build opened
    assert looks > 8 and StaleParts in found


CROWD = """
import json, os, random, sys, time, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from store_build import Quick, build, parts, same
from hasp.errors import BuildLocked, HaspError, StaleParts
from hasp.store.read import FolderStore
root, times = sys.argv[2], int(sys.argv[3])
kinds = {}

def count(kind):
    kinds[kind] = kinds.get(kind, 0) + 1

def told(role):
    # One write: with PYTHONUNBUFFERED, print() sends the line and its end apart, and two children's lines mix.
    os.write(1, (json.dumps({"role": role, **kinds}) + "\\n").encode())
    os._exit(0)

def builder(me):
    how = [{}, {"fingerprint": "0" * 64, "shift": 1}][me % 2]
    while kinds.get("built", 0) < times:
        try:
            build(root, Quick(), overwrite=True, **how)
            count("built")
        except BuildLocked:
            count("locked")
        time.sleep(random.random() * 0.04)
    open(f"{root}.{me}", "w").close()
    told("builder")

def reader(me):
    truth = {"f" * 64: parts(0), "0" * 64: parts(1)}
    held = []
    while kinds.get("read", 0) < 10 or not all(os.path.exists(f"{root}.{b}") for b in range(3)):
        try:
            store = FolderStore.open(root, random.choice(["size", "first", "always"]))
            mine = truth[store.manifest.fingerprint]
            for p in range(3):
                part = store.part(p)
                held.append((part, mine[p]))
                assert same(part, mine[p]), "a mixed read"
            assert same(store.shared, mine[3]) and same(store.cut, mine[5])
            count("read")
        except StaleParts:
            count("stale")
        except HaspError as error:
            gone = "manifest.json" in str(error) and type(error) is not StaleParts
            count("gone" if gone else "unfinished" if type(error) is HaspError else "damaged")
        for part, value in held[-60:]:
            assert same(part, value), "bytes changed under a reader"
        del held[:-60]
    told("reader")

children = []
for me, role in enumerate((builder, builder, builder, reader, reader)):
    child = os.fork()
    if child == 0:
        try:
            random.seed(me)
            role(me)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) != 0 for c in children))
"""


def test_three_builders_and_two_readers_in_one_folder(tmp_path):
    root = tmp_path / "parts"
    command = [sys.executable, "-c", CROWD, str(Path(__file__).parent), str(root), "12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    total = {
        k: sum(row.get(k, 0) for row in rows) for k in ("built", "locked", "read", "stale", "unfinished", "gone", "damaged")
    }
    assert [row["role"] for row in rows].count("reader") == 2 and len(rows) == 5
    assert total["built"] == 36 and total["read"] >= 20 and total["damaged"] == 0
    assert total["stale"] + total["unfinished"] + total["gone"] > 0  # they did meet
    build(root, overwrite=True)
    build(tmp_path / "alone")
    assert snapshot(root) == snapshot(tmp_path / "alone")


def test_damage_without_a_rebuild_is_still_called_damage(tmp_path):
    build(tmp_path)
    store = FolderStore.open(tmp_path)
    path = tmp_path / "part-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CorruptPart, match=r"part-00001.safetensors has the blake3"):
        store.part(1)
    path.unlink()
    with pytest.raises(CorruptPart, match=r"part-00001.safetensors is missing"):
        store.part(1)
    build(tmp_path, Quick())
    assert FolderStore.open(tmp_path).check_files() == []
