"""Deep gradient compression against a naive one, nothing lost on the way; torch's hooks by the same names; real processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compression_ranks import SHAPES, gradients
from gloo import on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from naive.compression import Ranks, largest
from torch import nn

from hasp.errors import HaspError
from hasp_models.distributed import compression
from hasp_models.distributed.compression import DeepGradientCompression, ratio_at, top_k
from hasp_models.distributed.hooks import LocalSGD
from hasp_models.distributed.sending import NAMES, Sending

SIZES = [int(np.prod(shape)) for shape in SHAPES]


@given(st.lists(st.integers(-5, 5), max_size=60), st.integers(0, 70))
def test_the_largest_are_found_and_of_equal_ones_the_first(values: list[int], k: int) -> None:
    found = top_k(torch.tensor(values, dtype=torch.float32), k)
    assert found.tolist() == largest(np.array(values, dtype=float), k)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from(["normal", "ties", "steps", "one"]), st.floats(0.0001, 0.9))
def test_a_sampled_threshold_finds_what_a_full_sort_finds(seed: int, kind: str, share: float) -> None:
    """Also where the sample misleads: values that grow, values in rows, one value in many."""
    count = 3 * compression._SMALL // 2
    generator = torch.Generator().manual_seed(seed)
    values = {
        "normal": torch.randn(count, generator=generator),
        "ties": torch.randint(-3, 4, (count,), generator=generator).float(),
        "steps": torch.arange(count).float() * (torch.arange(count) % 101 == seed % 101),
        "one": (torch.arange(count) == seed % count).float(),
    }[kind]
    k = math.ceil(share * count)
    order = np.lexsort((np.arange(count), -values.abs().numpy()))[:k]
    assert top_k(values, k).tolist() == sorted(order.tolist())


def test_what_is_not_a_number_is_sent_at_once() -> None:
    sender = DeepGradientCompression({"w": nn.Parameter(torch.zeros(4))}, 0.25)
    sender.accumulate("w", torch.tensor([1.0, float("nan"), 1e30, 0.0]))
    places, values = sender.take("w", 1)
    assert places.tolist() == [1] and bool(values.isnan().all())
    assert sender.residual["w"].tolist() == [1.0, 0.0, float(torch.tensor(1e30)), 0.0]


def test_the_warm_up_sends_less_and_less() -> None:
    assert [ratio_at(s, 0.001, 8) for s in range(0, 10, 2)] == [0.25, 0.0625, 0.015625, 0.00390625, 0.001]
    assert [ratio_at(s, 0.05, 4) for s in range(5)] == [0.25, 0.25, 0.0625, 0.0625, 0.05]
    assert ratio_at(0, 0.5, 100) == 0.5 and ratio_at(0, 0.001, 0) == 0.001
    sparsity = [1 - ratio_at(s, 0.001, 4) for s in range(5)]
    np.testing.assert_allclose(sparsity, [0.75, 0.9375, 0.984, 0.996, 0.999], atol=5e-4)  # as the paper prints them


@given(st.data(), st.sampled_from([0.0, 0.5]), st.booleans())
def test_no_gradient_is_lost(data: st.DataObject, momentum: float, masking: bool) -> None:
    """What was sent and what waits is what came in; with momentum, what u brought in each step."""
    count = data.draw(st.integers(1, 12))
    entries = st.lists(st.integers(-8, 8), min_size=count, max_size=count)
    sender = DeepGradientCompression({"w": nn.Parameter(torch.zeros(count))}, 0.3, momentum=momentum, masking=masking)
    came, sent, u = torch.zeros(count), torch.zeros(count), torch.zeros(count)
    for row in data.draw(st.lists(entries, min_size=1, max_size=6)):
        g = torch.tensor(row, dtype=torch.float32)
        u = u * momentum + g
        came += u
        sender.accumulate("w", g)
        places, values = sender.take("w", sender.count(count))
        assert places.numel() == max(1, math.ceil(0.3 * count))
        sent[places] += values
        if masking:
            u[places] = 0
        assert torch.equal(sent + sender.residual["w"], came)
        if momentum:
            assert torch.equal(sender.velocity["w"], u)


OPTIONS = [
    {"ratio": 0.1},
    {"ratio": 0.05, "momentum": 0.5},
    {"ratio": 0.05, "momentum": 0.5, "nesterov": True},
    {"ratio": 0.2, "momentum": 0.5, "masking": False},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_real_ranks_do_what_the_naive_ones_do(options: dict[str, Any], tmp_path: Path) -> None:
    size, steps = 2 + OPTIONS.index(options) % 2, 9
    naive = Ranks(SIZES, size, **options)
    means = [np.concatenate(naive.step([gradients(s, r) for r in range(size)])) for s in range(steps)]
    ranks = on_ranks(size, tmp_path, "compression_ranks:follow", options, steps)
    for r, rank in enumerate(ranks):
        assert rank["means"] == ranks[0]["means"]
        np.testing.assert_allclose(rank["means"], means, rtol=1e-12, atol=1e-12)
        for i, value in enumerate(rank["residual"].values()):
            np.testing.assert_allclose(value, naive.v[r][i], rtol=1e-12, atol=1e-12)
    if not options.get("momentum"):
        sent = size * np.sum(ranks[0]["means"], axis=0)
        waits = np.sum([np.concatenate(list(rank["residual"].values())) for rank in ranks], axis=0)
        came = np.sum([np.concatenate(gradients(s, r)) for s in range(steps) for r in range(size)], axis=0)
        np.testing.assert_allclose(sent + waits, came, rtol=0, atol=1e-9)
    k = [max(1, math.ceil(n * options["ratio"])) for n in SIZES]
    each = [n * 8 if a * size >= n else a * (8 + 4) for n, a in zip(SIZES, k, strict=True)]
    assert ranks[0]["sent"] == steps * sum(each)


@pytest.mark.parametrize("sparse", [False, True])
def test_all_of_a_gradient_is_the_dense_sum(sparse: bool, tmp_path: Path) -> None:
    for found in on_ranks(3, tmp_path, "compression_ranks:dense_or_not", sparse):
        assert found == {"equal": True, "waiting": 0.0}


@pytest.mark.parametrize("text", ["dgc:0.05", "powersgd:2"])
def test_a_saved_state_goes_on_bit_for_bit(text: str, tmp_path: Path) -> None:
    for found in on_ranks(2, tmp_path, "compression_ranks:resumed", text, 8, 5):
        assert found["whole"] == found["broken"]
        assert found["whole"][4] != found["whole"][5]


def test_hooks_under_ddp(tmp_path: Path) -> None:
    """A model in several buckets, which DDP orders anew after the first step."""
    texts = ["dense", "fp16", "dgc:1", "dgc:0.1", "powersgd:1", "local-sgd:2"]
    ranks = on_ranks(2, tmp_path, "compression_ranks:several", texts)
    first, second = ranks
    size = sum(p.numel() for p in nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 5)).parameters())
    for text in ("dense", "fp16", "dgc:1", "dgc:0.1", "powersgd:1"):
        assert first[text]["weights"] == second[text]["weights"], text
        assert first[text]["losses"][-1] < first[text]["losses"][0]
    dense = np.array(first["dense"]["weights"])
    assert first["dgc:1"]["weights"] == first["dense"]["weights"]
    np.testing.assert_allclose(first["fp16"]["weights"], dense, atol=1e-3)
    assert first["dense"]["sent"] == 6 * 4 * size and first["fp16"]["sent"] == 6 * 2 * size
    assert 0 < first["dgc:0.1"]["sent"] < first["dense"]["sent"] / 3
    assert first["powersgd:1"]["sent"] < 2 * 4 * size + 4 * 4 * size  # two steps of all, four of less
    held = {"0.weight": 240, "0.bias": 40, "2.weight": 200, "2.bias": 5}
    assert first["dgc:0.1"]["state"] == {"step": [], **{f"residual/{name}": [n] for name, n in held.items()}}
    # averages after steps 0, 2 and 4: then the ranks agree; after step 5 they do not
    assert first["local-sgd:2"]["sent"] == 3 * 4 * size
    assert first["local-sgd:2"]["weights"] != second["local-sgd:2"]["weights"]
    np.testing.assert_allclose(first["local-sgd:2"]["weights"], dense, atol=0.05)


def test_a_tree_averages_small_groups_often_and_all_rarely(tmp_path: Path) -> None:
    """Every 2 steps by twos, every 4 all: after 3 steps pairs agree, after 5 all do."""
    text, size = "local-sgd:2x2,4x4", 485
    three, five = ([r[text] for r in on_ranks(4, tmp_path / str(n), "compression_ranks:several", [text], n)] for n in (3, 5))
    a, b, c, d = (rank["weights"] for rank in three)
    assert a == b and c == d and a != c
    assert all(rank["weights"] == five[0]["weights"] for rank in five)
    assert three[0]["sent"] == 2 * 4 * size and five[0]["sent"] == 3 * 4 * size


def test_what_a_group_cannot_do_is_refused(tmp_path: Path) -> None:
    half, tree, falling, unknown = on_ranks(2, tmp_path, "compression_ranks:refused")[0]
    assert half == "bf16 gradients need nccl, this group is gloo; take fp16, or run on GPUs"
    assert "end with all 2, got [3]" in tree and "rise, got [4, 2]" in falling
    assert "a parameter of shape (3,) that the compression was not given" in unknown


def test_settings_out_of_range_are_refused() -> None:
    for text, what in (
        ("zip", "got 'zip'"),
        ("dgc:much", "got 'dgc:much'"),
        ("dense:2", "got 'dense:2'"),
        ("local-sgd:4x2x1", "got 'local-sgd:4x2x1'"),
        ("dgc:0.1:few", "got 'dgc:0.1:few'"),
        ("dgc:0.1:-1", "warmup_steps at least 0"),
        ("dgc:0", r"ratio is in \(0, 1\]"),
        ("powersgd:0", "rank at least 1"),
        ("local-sgd:1", "period at least 2"),
    ):
        with pytest.raises(HaspError, match=what):
            Sending.parse(text)
    for wrong in ({"ratio": 0.0}, {"ratio": 1.5}, {"momentum": 1.0}, {"clip": 0.0}, {"warmup_steps": -1}):
        with pytest.raises(HaspError):
            DeepGradientCompression({}, **wrong)  # type: ignore[arg-type]
    with pytest.raises(HaspError, match="start with torchrun"):
        LocalSGD()
    sender = DeepGradientCompression({"w": nn.Parameter(torch.zeros(4))})
    for state in ({"residual/w": torch.zeros(3)}, {"residual/b": torch.zeros(4)}, {"what/w": torch.zeros(4)}):
        with pytest.raises(HaspError, match="load the state of this model"):
            sender.load_state_dict({"step": torch.tensor(3), **state})
    assert sender.step == 0


def test_words_become_settings() -> None:
    assert {Sending(name).name for name in NAMES} == set(NAMES)
    assert Sending.parse("dgc:0.01", 8) == Sending("dgc", ratio=0.01, warmup_steps=8)
    assert Sending.parse("dgc:0.01:8") == Sending.parse("dgc:0.01", 8)
    assert Sending.parse("powersgd:4") == Sending("powersgd", rank=4)
    assert Sending.parse("local-sgd:8") == Sending("local-sgd", period=8)
    assert Sending.parse("local-sgd:4x2,16x8") == Sending("local-sgd", tree=((4, 2), (16, 8)))


def test_clipping_is_local_and_by_the_square_root() -> None:
    """A rank clips W times its share to clip * sqrt(W); a bucket by the square root of its part of all entries."""
    sender = DeepGradientCompression({"a": nn.Parameter(torch.zeros(12)), "b": nn.Parameter(torch.zeros(4))}, clip=2.0)
    assert sender.clips
    assert sender._scale(torch.full((16,), 3.0), 4) == pytest.approx(2.0 * 2 / 12)
    assert sender._scale(torch.full((4,), 3.0), 4) == pytest.approx(2.0 * 2 * 0.5 / 6)
    assert sender._scale(torch.full((16,), 0.5), 4) == 1.0
    assert DeepGradientCompression({})._scale(torch.full((16,), 3.0), 4) == 1.0
