"""Pieces: what is written is read, window by window; a damaged file is told; none outlives its build."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builds import contents, no_sync
from hypothesis import given, settings
from hypothesis import strategies as st

from hasp.build import build
from hasp.cluster import spread as spread_module
from hasp.cluster.executor import Here
from hasp.cluster.pieces import Window, read_window, write_piece
from hasp.cluster.tables import open_spread
from hasp.config import BuildConfig
from hasp.errors import CorruptPart, HaspError
from hasp.graph import HaspWarning
from hasp.schema import Schema
from hasp.sources.synthetic import Catalogue, generate
from hasp.sources.tables import write_tables
from hasp.store.disk import Disk
from hasp.store.offer import is_offer, piece_name


def written(root: Path, sizes: list[int], bounds: list[int]) -> tuple[Any, dict[str, Any]]:
    """A piece of parts of these sizes, and its arrays."""
    ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    rng = np.random.default_rng(int(ptr[-1]))
    arrays = {"/source": rng.integers(0, 99, ptr[-1]).astype(np.int32), "x": rng.random((int(ptr[-1]), 3), np.float32)}
    arrays["flag"] = rng.random(int(ptr[-1])) > 0.5
    with no_sync():
        return write_piece(str(root), ptr, arrays, bounds), arrays


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=7), st.data())
def test_windows(tmp_path_factory: Any, sizes: list[int], data: Any) -> None:
    root = tmp_path_factory.mktemp("pieces")
    bounds = [0, *sorted(data.draw(st.sets(st.integers(1, len(sizes)), max_size=3)) - {len(sizes)}), len(sizes)]
    piece, arrays = written(root, sizes, bounds)
    assert piece.counts.tolist() == sizes
    for window in piece.windows:
        ptr, rows = read_window(str(root), window)
        first = sum(sizes[: window.low])
        assert np.diff(ptr).tolist() == sizes[window.low : window.high]
        for label, array in arrays.items():
            want = array[first : first + int(ptr[-1])]
            assert rows[label].dtype == want.dtype and np.array_equal(rows[label], want)


@pytest.mark.parametrize("offset", [0, 3, 60, -1, -40])
def test_a_flipped_byte_of_a_window_is_told(offset: int, tmp_path: Path) -> None:
    piece, _ = written(tmp_path, [4], [0, 1])
    path = tmp_path / piece.windows[0].name
    data = bytearray(path.read_bytes())
    data[offset] ^= 8
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptPart, match=re.escape(str(path))):
        read_window(str(tmp_path), piece.windows[0])


def test_a_window_is_its_own(tmp_path: Path) -> None:
    """A flipped byte in the rows of one group is no matter of another; a shorter file is."""
    piece, _ = written(tmp_path, [400, 400], [0, 1, 2])
    path = tmp_path / piece.windows[0].name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last row
    path.write_bytes(bytes(data))
    read_window(str(tmp_path), piece.windows[0])
    with pytest.raises(CorruptPart, match="does not hold what a worker wrote there; check the disk of the folder"):
        read_window(str(tmp_path), piece.windows[1])
    path.write_bytes(bytes(data[:-5]))
    with pytest.raises(CorruptPart, match=r"has [\d,]+ bytes, and [\d,]+ were written; check the disk"):
        read_window(str(tmp_path), piece.windows[0])
    with pytest.raises(CorruptPart, match="is missing"):
        read_window(str(tmp_path), Window(piece_name(), 8, 0, 1, ""))


def test_names() -> None:
    assert piece_name() != piece_name() and is_offer(piece_name()) and is_offer(piece_name() + ".tmp")
    assert not is_offer("piece.safetensors") and not is_offer("my.safetensors.0123456789abcdef")


class Damaging(Here):
    """Flips a byte of every piece between the two maps."""

    def __init__(self, root: Path, do: bool) -> None:
        super().__init__(2)
        self.root, self.do = root, do

    def map(self, calls: Any) -> Any:
        given = list(calls)
        if self.do and given and given[0][0] is spread_module.tasks.write_group:
            for path in self.root.glob("piece.*"):
                data = bytearray(path.read_bytes())
                data[len(data) // 2 :] = bytes(b ^ 1 for b in data[len(data) // 2 :])
                path.write_bytes(bytes(data))
        return super().map(given)


def test_a_build_over_damaged_pieces_stops_and_the_next_one_sweeps(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_tables(generate(Catalogue(80, 1, num_features=3)).graph, tmp_path / "tables", "parquet")
    made = []
    for name, damaged in (("one", False), ("two", True), ("two", False)):
        with Damaging(tmp_path / name, damaged) as workers, warnings.catch_warnings(), no_sync():
            warnings.simplefilter("ignore", HaspWarning)
            spread, roles = open_spread(tmp_path / "tables", workers, Schema(), chunk=50)
            if damaged:
                with pytest.raises(HaspError, match="does not hold what a worker wrote there"):
                    build(spread.graph, roles, BuildConfig(4), root=tmp_path / name, spread=spread)
                assert any(is_offer(p.name) for p in (tmp_path / name).iterdir())
                assert not (tmp_path / name / "manifest.json").exists()
                continue
            build(spread.graph, roles, BuildConfig(4), root=tmp_path / name, spread=spread)
            made.append(contents(tmp_path / name))
            assert not [p for p in (tmp_path / name).iterdir() if is_offer(p.name)]
    assert made[0] == made[1]


class Full(Disk):
    """No space left."""

    def write(self, handle: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(HaspError, match="No space left on device; free space on that disk"):
        write_piece(str(tmp_path), np.array([0, 2]), {"x": np.arange(2)}, [0, 1], Full())
    assert list(tmp_path.iterdir()) == []
