"""Same input, settings and seed: the same bytes (docs/invariants.md, 6), at any threads, again, and after an interruption."""

import tempfile
from contextlib import suppress

import pytest
from builds import built, contents, no_sync, same_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases, num_parts_for

import hasp.bucket
import hasp.csr
from hasp import BuildConfig, HASPData
from hasp.build import build
from hasp.parallel import blocks
from hasp.store.disk import Disk

BUILDS = cases().flatmap(lambda case: st.tuples(st.just(case), num_parts_for(case)))
SEED = st.integers(0, 2**63 - 1)
BALANCE = st.sampled_from(["nodes", "edges", "bytes"])


class PowerOff(BaseException):
    """The process ends here: no handler of the library may catch it."""


class Failing(Disk):
    """Fails at the n-th operation that changes the folder, and at every later one."""

    def __init__(self, after):
        self.left = after

    def _step(self):
        self.left -= 1
        if self.left < 0:
            raise PowerOff

    def mkdir(self, path):
        self._step()
        super().mkdir(path)

    def create(self, path):
        self._step()
        return super().create(path)

    def write(self, handle, data):
        self._step()
        return super().write(handle, data)

    def rename(self, source, target):
        self._step()
        super().rename(source, target)

    def remove(self, path):
        self._step()
        super().remove(path)


@settings(max_examples=12)
@given(BUILDS, SEED, BALANCE)
def test_6_threads_and_repetition(build_, seed, balance):
    """One, two and three threads, and a second run with one, write the same files."""
    case, num_parts = build_
    found = []
    for threads in (1, 2, 3, 1):
        with tempfile.TemporaryDirectory() as root, no_sync():
            options = {"num_parts": num_parts, "seed": seed, "threads": threads, "balance": balance}
            HASPData(case.data, case.schema, root=root, **options)
            found.append(contents(root))
    assert found[0] == found[1] == found[2] == found[3]
    assert "manifest.json" in found[0] and len([n for n in found[0] if n.startswith("part-")]) == num_parts


@settings(max_examples=25)
@given(BUILDS, SEED)
def test_6_blocks_of_any_size(build_, seed):
    """A graph that is cut into many blocks for the threads gives the tensors of one that is not."""
    case, num_parts = build_
    with built(case, num_parts, seed=seed) as whole, pytest.MonkeyPatch.context() as patch:
        for module in (hasp.csr, hasp.bucket):
            patch.setattr(module, "blocks", lambda n, *_, **__: blocks(n, 2, 256, 2))
        patch.setattr(hasp.bucket, "_SLICE", 2)
        patch.setattr(hasp.csr.kernel, "SHIFT", 1)
        with built(case, num_parts, seed=seed, threads=3) as pieces:
            _same_store(whole.store, pieces.store)
            assert whole.manifest.to_json() == pieces.manifest.to_json()


@settings(max_examples=20)
@given(BUILDS, SEED)
def test_6_memory_and_folder(build_, seed):
    """A build in memory holds the tensors, the roles and the report of a build on disk."""
    case, num_parts = build_
    with built(case, num_parts, seed=seed) as a, built(case, num_parts, "folder", seed=seed) as b:
        _same_store(a.store, b.store)
        mine, theirs = a.manifest.to_json(), b.manifest.to_json()
        assert mine.pop("files") == {} and theirs.pop("files")
        assert mine == theirs


@settings(max_examples=25)
@given(BUILDS, st.integers(0, 60), st.integers(0, 60))
def test_6_either_side_of_a_crash(build_, first, second):
    """A build that is stopped at any operation, resumed, stopped and resumed ends with the bytes of one that was not."""
    case, num_parts = build_
    graph, roles, config = case.graph, case.roles, BuildConfig(num_parts=num_parts, seed=7, threads=1)
    with tempfile.TemporaryDirectory() as straight, tempfile.TemporaryDirectory() as bumpy, no_sync():
        build(graph, roles, config, root=straight)
        for after in (first, second):
            with suppress(PowerOff):
                build(graph, roles, config, root=bumpy, disk=Failing(after))
        build(graph, roles, config, root=bumpy)
        assert contents(bumpy) == contents(straight)


@settings(max_examples=15)
@given(BUILDS)
def test_6_a_finished_build_is_not_built_again(build_):
    case, num_parts = build_
    graph, roles, config = case.graph, case.roles, BuildConfig(num_parts=num_parts)
    with tempfile.TemporaryDirectory() as root, no_sync():
        build(graph, roles, config, root=root)
        before = contents(root)
        build(graph, roles, config, root=root, disk=Failing(0))  # not one operation that changes the folder
        assert contents(root) == before


@settings(max_examples=25)
@given(BUILDS, st.sampled_from(["metis", "random"]))
def test_6_a_given_partition_is_kept(build_, backend):
    """The labels of a build, given to another build, give the same parts; the fingerprint tells the two apart."""
    case, num_parts = build_
    with built(case, num_parts, backend=backend) as one:
        labels = {t: one.node_part(t).numpy() for t in case.roles.entity}
        with built(case, num_parts, node_part=labels) as two:
            _same_store(one.store, two.store)
            assert one.manifest.fingerprint != two.manifest.fingerprint
            assert two.manifest.config["backend"] == "given"


def _same_store(a, b):
    for p in range(a.num_parts):
        same_tensors(a.part(p), b.part(p))
    for name in ("shared", "sampled", "cut"):
        same_tensors(getattr(a, name), getattr(b, name))
    same_tensors(a.node_part(), b.node_part())
