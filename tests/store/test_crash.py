"""A build that is killed, refused by the disk or cut off from power ends with the bytes of one that was not."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from store_build import Quick, build, snapshot
from store_crash import Failing, Recording, Trickle, Trusting, restore

from hasp.errors import CorruptPart, HaspError, StaleParts
from hasp.store.disk import Disk
from hasp.store.layout import LOCK, MANIFEST
from hasp.store.read import FolderStore
from hasp.store.write import Writer


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The bytes of a build that nothing disturbed."""
    root = tmp_path_factory.mktemp("reference") / "parts"
    build(root, Disk())
    return snapshot(root)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The bytes of a build of another graph, to be overwritten."""
    root = tmp_path_factory.mktemp("other") / "parts"
    build(root, fingerprint="0" * 64, shift=1, seed=9)
    return snapshot(root)


def look(root: Path, *complete: dict[str, bytes]) -> bool:
    """Is the folder complete (and then exactly one of these)? Otherwise it must be refused as unfinished or as empty."""
    if (root / MANIFEST).exists():
        assert FolderStore.open(root).check_files() == []
        listed = FolderStore.open(root).manifest.files
        assert any(all((root / n).read_bytes() == c[n] for n in (*listed, MANIFEST)) for c in complete)
        return True
    with pytest.raises(HaspError, match=r"is unfinished; run the same build again|there are no parts") as refusal:
        FolderStore.open(root)
    assert refusal.type is HaspError
    return False


# ---- kill -9 ------------------------------------------------------------------------------------------------------------


def test_kill_9_at_random_moments_then_resume(tmp_path, reference):
    script = Path(__file__).with_name("store_crash.py")
    out = subprocess.run([sys.executable, script, tmp_path, "6"], capture_output=True, text=True, check=True)
    runs = [[int(s) for s in line.split()] for line in out.stdout.splitlines()]
    assert len(runs) == 6
    assert all(set(run[:-1]) <= {signal.SIGKILL} and run[-1] == 0 for run in runs)
    assert sum(len(run) - 1 for run in runs) >= 6
    for run in range(6):
        assert snapshot(tmp_path / str(run)) == reference


# ---- the disk refuses ---------------------------------------------------------------------------------------------------


def exhaust(start, arrange, disturbed, resumed, *complete):
    """Run ``disturbed(root, disk)`` with a failure at operation 1, 2, 3... until one run has no failure left."""
    outcomes = []
    for n in range(1, 2000):
        code = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)[n % 4]
        root = start / str(n)
        arrange(root)
        disk = Failing(n, code, lasting=code == errno.ENOSPC)
        try:
            disturbed(root, disk)
        except HaspError as error:
            assert disk.failed, error
            assert str(root) in str(error)
            assert os.strerror(code) in str(error)
            assert ";" in str(error)
        else:
            if not disk.failed:
                return outcomes
        # A failure that was survived in silence is one of cleaning up or of reading what is optional.
        if not root.exists() or not any(f.name != LOCK for f in root.iterdir()):
            outcomes.append("empty")
        else:
            outcomes.append("complete" if look(root, *complete) else "unfinished")
        assert not [f for f in (root.iterdir() if root.exists() else ()) if f.suffix == ".tmp" and not disk.failed]
        resumed(root)
        assert snapshot(root) == complete[0], f"operation {n}"
        shutil.rmtree(root)
    raise AssertionError("the build never ran without a failure")


def test_every_operation_of_a_build_refused_once(tmp_path, reference):
    outcomes = exhaust(tmp_path, lambda root: None, build, build, reference)
    assert len(outcomes) > 100
    assert outcomes.count("complete") <= 6  # only what follows the manifest's rename
    assert outcomes.count("unfinished") > 100


def test_every_operation_of_a_resume_refused_once(tmp_path, reference):
    outcomes = exhaust(tmp_path, lambda root: build(root, stop_after=3), build, build, reference)
    assert outcomes.count("unfinished") > 50


def test_every_operation_of_an_overwrite_refused_once(tmp_path, reference, other):
    def arrange(root):
        restore(tuple(other.items()), root)

    def overwrite(root, disk=None):
        build(root, disk, overwrite=True)

    outcomes = exhaust(tmp_path, arrange, overwrite, overwrite, reference, other)
    assert outcomes.count("complete") > 5
    assert outcomes.count("unfinished") > 100


def test_a_full_disk_is_named_and_leaves_no_temporary_file(tmp_path):
    build(tmp_path, stop_after=1)
    count = Failing(0, 0)
    with Writer(tmp_path, fingerprint="f" * 64, **_settings(), disk=count):
        pass
    with pytest.raises(HaspError, match=r"cannot write .*part-00001.safetensors: No space left.*; free space") as error:
        build(tmp_path, Refusing("part-00001.safetensors.tmp"))
    assert error.type is HaspError
    assert not list(tmp_path.glob("*.tmp"))


class Refusing(Quick):
    """No space for one file."""

    def __init__(self, name: str) -> None:
        self.name, self.handle = name, -1

    def create(self, path):
        handle = super().create(path)
        self.handle = handle if path.name == self.name else self.handle
        return handle

    def write(self, handle, data):
        if handle == self.handle:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(handle, data)

    def close(self, handle):
        self.handle = -1 if handle == self.handle else self.handle
        super().close(handle)


def _settings():
    from store_build import ROLES, config

    return {"config": config(), "roles": ROLES}


def test_a_system_that_takes_seven_bytes_at_a_time(tmp_path, reference):
    build(tmp_path / "parts", Trickle())
    assert snapshot(tmp_path / "parts") == reference


# ---- the power goes -----------------------------------------------------------------------------------------------------


def power_loss(folder, disk_type=Recording, writer=Writer, before=None, overwrite=False, **expected):
    """Build once, then open and resume every image that a power loss could have left. Returns (images, complete ones)."""
    folder.mkdir()
    root = folder / "parts"
    restore(tuple((before or {}).items()), root)
    disk = disk_type(before)
    build(root, disk, writer=writer, overwrite=overwrite)
    reference, complete = expected["reference"], 0
    assert snapshot(root) == reference
    for number, image in enumerate(disk.images):
        copy = folder / str(number)
        restore(image, copy)
        complete += look(copy, reference, *([before] if before else []))
        build(copy, overwrite=overwrite)
        assert snapshot(copy) == reference
        shutil.rmtree(copy)
    return len(disk.images), complete


def test_power_loss_after_every_operation(tmp_path, reference):
    images, complete = power_loss(tmp_path / "a", reference=reference)
    assert images > 200
    assert 0 < complete < images / 5


def test_power_loss_after_every_operation_of_an_overwrite(tmp_path, reference, other):
    images, complete = power_loss(tmp_path / "a", before=other, overwrite=True, reference=reference)
    assert images > 150
    assert 0 < complete < images / 2


# ---- do these tests notice? Builds that are wrong on purpose --------------------------------------------------------------


class NoSync(Recording):
    def sync(self, handle):
        self._keep()


class NoSyncOfNames(Recording):
    def sync_dir(self, path):
        self._keep()


class InPlace(Recording):
    """Opens the file under its final name, where readers and crashes can see it grow."""

    def create(self, path):
        return super().create(path.with_name(path.name.removesuffix(".tmp")))

    def rename(self, source, target):
        pass


class ManifestFirst(Writer):
    """Promises the files before they are there."""

    promised = b""

    def save_node_part(self, node_part):
        self._disk.put(self.root / MANIFEST, [self.promised])
        super().save_node_part(node_part)


@pytest.mark.parametrize("bug", [NoSync, NoSyncOfNames, InPlace])
def test_the_power_loss_test_notices(tmp_path, reference, other, bug):
    with pytest.raises((AssertionError, HaspError)):
        power_loss(tmp_path / "a", bug, before=other, overwrite=True, reference=reference)


def test_the_power_loss_test_notices_a_manifest_that_comes_first(tmp_path, reference):
    ManifestFirst.promised = reference[MANIFEST]
    with pytest.raises(HaspError, match="is missing"):
        power_loss(tmp_path / "a", writer=ManifestFirst, reference=reference)


@pytest.mark.parametrize("writer", [Writer, Trusting])
def test_a_part_damaged_between_crash_and_resume_is_built_again(tmp_path, reference, writer):
    build(tmp_path, stop_after=2)
    part = tmp_path / "part-00000.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"\x7f")
    build(tmp_path, writer=writer)
    assert (snapshot(tmp_path) == reference) == (writer is Writer)


# ---- the journal --------------------------------------------------------------------------------------------------------


def test_a_torn_line_of_the_journal_costs_only_its_part(tmp_path, reference):
    build(tmp_path, stop_after=2)
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for cut in range(len(lines[-1])):
        journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
        with Writer(tmp_path, fingerprint="f" * 64, **_settings(), disk=Quick()) as writer:
            assert [writer.has(p) for p in range(3)] == [True, cut == len(lines[-1]) - 1, False]
        journal.write_bytes(b"".join(lines))
    journal.write_bytes(lines[0] + b"\xff garbage\n" + b"".join(lines[1:]))
    build(tmp_path)
    assert snapshot(tmp_path) == reference


def test_labels_that_are_lost_take_their_parts_along(tmp_path, reference):
    build(tmp_path, stop_after=2)
    (tmp_path / "node_part.safetensors").write_bytes(b"x")
    with Writer(tmp_path, fingerprint="f" * 64, **_settings(), disk=Quick()) as writer:
        assert not any(writer.has(p) for p in range(3))
        assert writer.load_node_part() is None
    build(tmp_path)
    assert snapshot(tmp_path) == reference


def test_a_finished_build_that_lost_a_file_is_repaired_by_the_same_build(tmp_path, reference):
    build(tmp_path)
    (tmp_path / "part-00001.safetensors").unlink()
    with pytest.raises(CorruptPart, match=r"part-00001.safetensors is missing; .* run the same build again"):
        FolderStore.open(tmp_path)
    build(tmp_path)
    assert snapshot(tmp_path) == reference


def test_an_unreadable_journal_is_refused_and_overwritten(tmp_path, reference):
    build(tmp_path, stop_after=1)
    (tmp_path / "journal.jsonl").write_bytes(b"{}\n")
    with pytest.raises(CorruptPart, match=r"first line of .*overwrite=True"):
        build(tmp_path)
    build(tmp_path, overwrite=True)
    assert snapshot(tmp_path) == reference


def test_an_unfinished_build_of_other_parts_is_refused(tmp_path):
    build(tmp_path, stop_after=1)
    with pytest.raises(StaleParts, match="unfinished build of other parts: seed is 5 there and 6 here; use overwrite=True"):
        build(tmp_path, seed=6)
