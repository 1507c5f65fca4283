"""Anything in any order: builds, crashes, power losses, refusals, damage, resumption, loading at changing numbers of ranks.

A state machine holds what must be true of one folder beside what is. The folder may be unfinished, and then readers are
refused; once it has a manifest, its bytes are those of one undisturbed build, except where this test damaged them, and then
the damaged file is named.
"""

import contextlib
import errno
import json
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from store_build import Quick, build, snapshot
from store_crash import Failing, Recording

from hasp.errors import CorruptPart, HaspError, StaleParts
from hasp.load import order
from hasp.load.loader import HASPLoader
from hasp.store.disk import Disk
from hasp.store.layout import BUILD_LOG, JOURNAL, MANIFEST
from hasp.store.read import FolderStore
from hasp.store.write import Writer

BUILDS = {"a": {}, "b": {"fingerprint": "0" * 64, "shift": 1, "seed": 9}}
DATA = [f"{n}.safetensors" for n in ("part-00000", "part-00001", "part-00002", "shared", "sampled", "cut", "node_part", "ids")]


TRUTH: dict[str, dict[str, bytes]] = {}  # the bytes of each build that nothing disturbs; made once


def truth(folder: Path) -> dict[str, dict[str, bytes]]:
    for name, how in BUILDS.items():
        build(folder / name, **how)
        TRUTH[name] = {k: v for k, v in snapshot(folder / name).items() if k != BUILD_LOG}
    return TRUTH


class PowerOff(BaseException):
    """The process ends here: no handler may catch it."""


class Dying(Quick):
    """Dies at the n-th operation, and does nothing afterwards."""

    def __init__(self, at: int) -> None:
        self.left = at


def _dying(kind):
    def operation(self, *args):
        self.left -= 1
        if self.left < 0:
            raise PowerOff
        return getattr(Quick, kind)(self, *args)

    return operation


for _kind in ("mkdir", "create", "extend", "write", "sync", "rename", "sync_dir", "remove", "read", "stat", "blocks"):
    setattr(Dying, _kind, _dying(_kind))


def damaged(data: bytes, how: str, draw: random.Random) -> bytes:
    """Other bytes than ``data``: a flipped bit, a hole of zeros, a missing end, an end too many, or nothing at all."""
    at = draw.randrange(len(data))
    if how == "flip":
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if how == "hole":
        at = next(i for i in [*range(at, len(data)), *range(at)] if data[i])
        return data[:at] + bytes(min(8192, len(data) - at)) + data[at + 8192 :]
    return {"cut": data[:at], "more": data + b"\0", "empty": b""}[how]


DAMAGES = ("flip", "hole", "cut", "more", "empty", "gone")


class Folder(RuleBasedStateMachine):
    """``state``: None (empty), "unfinished" or "complete"; ``who``: whose build; ``bad``: names damaged in a complete one."""

    writer: type[Writer] = Writer
    counts: dict[str, int] = {}  # noqa: RUF012 - of all examples of a run, on purpose

    @initialize()
    def start(self):
        self.temporary = Path(tempfile.mkdtemp(prefix="machine"))
        self.root = self.temporary / "parts"
        self.truth = TRUTH or truth(self.temporary)
        self.state, self.who, self.bad = None, None, {}
        self.trained, self.done = None, []

    def teardown(self):
        if hasattr(self, "temporary"):
            shutil.rmtree(self.temporary, ignore_errors=True)

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    # -- what the disk holds -------------------------------------------------------------------------------------------

    def files(self):
        return {n: d for n, d in snapshot(self.root).items() if n != BUILD_LOG} if self.root.exists() else {}

    def settle(self, *possible):
        """After a crash: either no manifest, or whole and one of the possible builds."""
        self.bad = {}
        if (self.root / MANIFEST).exists():
            # A journal may remain for a moment after the manifest has appeared.
            found = {n: d for n, d in self.files().items() if n != JOURNAL and not n.endswith(".tmp")}
            (self.who,) = (p for p in set(possible) if self.truth[p] == found)
            self.state = "complete"
        else:
            self.state = "unfinished" if (self.root / JOURNAL).exists() else None

    def may(self, who):
        """Is this build what the folder holds, or will hold?"""
        return self.state is None or self.who == who

    # -- rules ---------------------------------------------------------------------------------------------------------

    @rule(who=st.sampled_from(["a", "b"]))
    def builds_or_resumes(self, who):
        self.count("build")
        if MANIFEST in self.bad:
            if self.bad[MANIFEST] == "gone":
                # Without manifest and journal, files with our names are a stranger's.
                with pytest.raises(HaspError, match="choose another folder, or move these files away"):
                    build(self.root, writer=self.writer, **BUILDS[who])
            else:
                with pytest.raises(CorruptPart, match="overwrite=True"):
                    build(self.root, writer=self.writer, **BUILDS[who])
            return
        if not self.may(who):
            with pytest.raises(StaleParts, match="use overwrite=True, or another folder"):
                build(self.root, writer=self.writer, **BUILDS[who])
            return
        build(self.root, writer=self.writer, **BUILDS[who])
        self.state, self.who, self.bad = "complete", who, {}
        assert self.files() == self.truth[who]

    @precondition(lambda self: self.bad.get(MANIFEST) != "gone")
    @rule(who=st.sampled_from(["a", "b"]))
    def overwrites(self, who):
        self.count("overwrite")
        build(self.root, overwrite=True, writer=self.writer, **BUILDS[who])
        self.state, self.who, self.bad = "complete", who, {}
        assert self.files() == self.truth[who]

    @precondition(lambda self: self.bad.get(MANIFEST) == "gone")
    @rule()
    def clears(self):
        shutil.rmtree(self.root)
        self.state, self.who, self.bad = None, None, {}

    @precondition(lambda self: not self.bad)
    @rule(who=st.sampled_from(["a", "b"]), at=st.integers(0, 160), overwrite=st.booleans())
    def crashes(self, who, at, overwrite):
        self.count("crash")
        self.interrupted(who, Dying(at), overwrite, PowerOff)

    @precondition(lambda self: not self.bad)
    @rule(
        who=st.sampled_from(["a", "b"]),
        at=st.integers(1, 160),
        overwrite=st.booleans(),
        code=st.sampled_from(["ENOSPC", "EIO"]),
    )
    def is_refused(self, who, at, overwrite, code):
        self.count("refuse")
        self.interrupted(who, Failing(at, getattr(errno, code), lasting=True), overwrite, HaspError)

    def interrupted(self, who, disk, overwrite, kind):
        if not overwrite and not self.may(who):
            return
        before = self.who if self.state == "complete" else None
        with contextlib.suppress(kind):
            build(self.root, disk, overwrite=overwrite, writer=self.writer, **BUILDS[who])
        self.settle(who, *([before] if before else []))
        if self.state == "unfinished":
            self.who = json.loads((self.root / JOURNAL).read_bytes().split(b"\n")[0] or b"{}").get("fingerprint", "?")[0]
            self.who = {"f": "a", "0": "b"}[self.who]

    @precondition(lambda self: not self.bad and self.state != "unfinished")
    @rule(who=st.sampled_from(["a", "b"]), pick=st.integers(0, 2**30))
    def loses_power(self, who, pick):
        self.count("power")
        before = self.who if self.state == "complete" else None
        disk = Recording(snapshot(self.root) if self.root.exists() else None)
        build(self.root, disk, overwrite=True, writer=self.writer, **BUILDS[who])
        images = list(disk.images)
        for path in self.root.iterdir():
            path.unlink()
        for name, data in images[pick % len(images)]:
            (self.root / name).write_bytes(data)
        self.settle(who, *([before] if before else []))
        if self.state == "unfinished":
            self.who = {"f": "a", "0": "b"}[json.loads((self.root / JOURNAL).read_bytes().split(b"\n")[0])["fingerprint"][0]]
        if self.state is None:
            shutil.rmtree(self.root)

    @precondition(lambda self: self.state == "complete" and not self.bad)
    @rule(name=st.sampled_from([*DATA, MANIFEST]), how=st.sampled_from(DAMAGES), draw=st.randoms(use_true_random=False))
    def damages(self, name, how, draw):
        self.count("damage")
        path = self.root / name
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(damaged(path.read_bytes(), how, draw))
        self.bad[name] = how

    @precondition(lambda self: self.state == "unfinished")
    @rule(pick=st.integers(0, 99), how=st.sampled_from(DAMAGES), draw=st.randoms(use_true_random=False))
    def damages_between_crash_and_resume(self, pick, how, draw):
        names = [n for n in DATA if (self.root / n).is_file() and (self.root / n).stat().st_size]
        if names:
            self.count("damage unfinished")
            path = self.root / names[pick % len(names)]
            if how == "gone":
                path.unlink()
            else:
                path.write_bytes(damaged(path.read_bytes(), how, draw))

    @precondition(lambda self: self.state == "complete" and not self.bad)
    @rule(ranks=st.integers(1, 4), steps=st.integers(0, 3))
    def trains(self, ranks, steps):
        """Some optimizer steps at some number of ranks; a state of another build is refused."""
        self.count("train")
        loaders = [
            HASPLoader(FolderStore.open(self.root), shuffle=True, seed=3, parts_per_step=2, rank=r, world_size=ranks)
            for r in range(ranks)
        ]
        if self.trained is not None:
            who, state = self.trained
            if who != self.who:
                with pytest.raises(HaspError, match="the state was saved with fingerprint"):
                    loaders[0].load_state_dict(state)
                self.trained, self.done = None, []
            else:
                for loader in loaders:
                    loader.load_state_dict(state)
        iterators = [iter(loader) for loader in loaders]
        for _ in range(steps):
            step = loaders[0].state_dict()["step"]
            if step == loaders[0].steps_per_epoch:
                for it in iterators:
                    assert next(it, None) is None
                iterators = [iter(loader) for loader in loaders]
                step = 0
            got = [next(it).part_id.tolist() for it in iterators for _ in range(loaders[0].batches_in_step(step))]
            self.done.append(sorted(p for parts in got for p in parts))
        states = [json.loads(json.dumps(loader.state_dict())) for loader in loaders]
        assert all(s == states[0] for s in states)
        self.trained = self.who, states[0]
        orders = [order.parts_order(3, epoch, 3, True).tolist() for epoch in range(len(self.done))]
        assert self.done == [sorted(o[at : at + 2]) for o in orders for at in (0, 2)][: len(self.done)]

    # -- what is always true ---------------------------------------------------------------------------------------------

    @invariant()
    def readers_get_these_bytes_or_an_error(self):
        if not hasattr(self, "truth"):
            return
        self.count("look")
        if self.state != "complete" or self.bad.get(MANIFEST) == "gone":
            with pytest.raises(HaspError, match=r"is unfinished|there are no parts"):
                FolderStore.open(self.root)
            return
        if self.bad:
            (name,) = self.bad
            with pytest.raises(CorruptPart, match=name):
                read_all(FolderStore.open(self.root, disk=Disk()))
            return
        assert {n: d for n, d in self.files().items() if n in self.truth[self.who]} == self.truth[self.who]
        read_all(FolderStore.open(self.root))


def read_all(store):
    for p in range(store.num_parts):
        store.part(p)
    return store.shared, store.sampled, store.cut, store.node_part(), store.ids("t"), store.names("t")


def run(machine, examples, phases=tuple(Phase)):
    machine.counts = {}
    how = settings(max_examples=examples, stateful_step_count=20, deadline=None, derandomize=True, database=None)
    how = settings(how, phases=phases, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=how)
    return machine.counts


def test_anything_in_any_order():
    counts = run(type("Anything", (Folder,), {}), 20)
    wanted = ("build", "overwrite", "crash", "refuse", "power", "damage", "damage unfinished", "train", "look")
    assert counts["look"] >= 200 and counts["crash"] + counts["refuse"] + counts.get("power", 0) >= 20, counts
    assert len(set(wanted) & set(counts)) >= len(wanted) - 1, counts  # the machine draws which rules an example has


# ---- does it notice? -------------------------------------------------------------------------------------------------------


class ManifestFirst(Writer):
    """Wrong on purpose: the manifest of the finished build stands while another is written over it."""

    def _begin(self):
        before = (self.root / MANIFEST).read_bytes() if (self.root / MANIFEST).is_file() else None
        super()._begin()
        if before is not None and not self.finished:
            (self.root / MANIFEST).write_bytes(before)


class Clocked(Writer):
    """Wrong on purpose: what is written depends on when (here: on how many were written before)."""

    times = 0

    def write(self, part):
        Clocked.times += 1
        for edges in part.edges.values():
            for value in edges.attrs.values():
                value.add_(Clocked.times % 7)
        return super().write(part)


@pytest.mark.parametrize("bug", [ManifestFirst, Clocked])
def test_the_machine_notices(bug):
    with pytest.raises(BaseException) as found:
        run(type("Wrong", (Folder,), {"writer": bug}), 20, [Phase.generate])
    assert not isinstance(found.value, (KeyboardInterrupt, SystemExit, PowerOff))
