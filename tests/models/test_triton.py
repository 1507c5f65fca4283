"""The Triton kernels of relation attention: beside the formulas in Triton's interpreter (see conftest), compiled for GPUs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from attention_cases import equals_the_loops, layer_of, multigraphs
from hypothesis import given, settings

from hasp.errors import HaspError
from hasp_models import relation_csr
from hasp_models.relation_attention import RelationAttention, RelationCSR, relation_attention

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
# Triton 3.1, which comes with torch 2.5, in its interpreter.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning")


@needs_triton
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("mode", ["both", "none"])
@settings(max_examples=12)
@given(g=multigraphs())
def test_forward_and_every_gradient_equal_the_loops(g: dict[str, Any], mode: str, short: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if short:
            patch.setattr(relation_csr, "SPLIT", 2)
        layer = layer_of(g, backend="triton", beta=mode)
        equals_the_loops(layer, g)


def edges(count: int, n: int, m: int, relations: int) -> RelationCSR:
    generator = torch.Generator().manual_seed(count)
    src = torch.randint(0, m, (count,), generator=generator)
    dst = torch.randint(0, max(1, n // 2), (count,), generator=generator)  # the other rows have no edge
    return RelationCSR.from_edges(src, dst, torch.linspace(0, count, relations + 1).long(), n, m)


@needs_triton
@pytest.mark.parametrize("width", [1, 5, 64, 160])  # below, beside and at powers of two; 160: fewer edges at a time
@pytest.mark.parametrize("tied", [True, False])
def test_float32_equals_the_cpu_kernel_at_any_width_and_keys_of_another(width: int, tied: bool) -> None:
    csr, heads, generator = edges(150, 6, 8, 3), 2, torch.Generator().manual_seed(width)
    keys = width if tied else width + 3

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    q, v, rel_v = draw(6, heads, keys), draw(8, heads, width), draw(3, heads, width)
    k, rel_k = (None, None) if tied else (draw(8, heads, keys), draw(3, heads, keys))
    beta, bias = draw(3, heads), draw(3, heads)
    given = [x for x in (q, k, v, rel_k, rel_v, beta, bias) if x is not None]
    found = []
    for backend in ("numba", "triton"):
        out, alpha = relation_attention(q, k, v, rel_k, rel_v, beta, csr, bias=bias, backend=backend)
        found.append([out, alpha, *torch.autograd.grad((out * out.detach().cos()).sum(), given)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


@needs_triton
def test_no_edge_no_row_and_a_nan() -> None:
    bare = edges(0, 3, 2, 2)
    q, v, r = torch.ones(3, 1, 2), torch.ones(2, 1, 2, requires_grad=True), torch.ones(2, 1, 2)
    out, alpha = relation_attention(q, None, v, None, r, None, bare, backend="triton")
    assert not out.any() and alpha.shape == (0, 1)
    out.sum().backward()
    assert v.grad is not None and not v.grad.any()
    csr = edges(20, 4, 5, 2)
    v = torch.ones(5, 1, 2)
    v[int(csr.src[0])] = float("nan")
    out, _ = relation_attention(torch.ones(4, 1, 2), None, v, None, r, None, csr, backend="triton")
    touched = torch.zeros(4, dtype=torch.bool)
    touched[csr.row[csr.src == csr.src[0]]] = True
    assert torch.equal(out.isnan().any((1, 2)), touched)


@settings(max_examples=30)
@given(g=multigraphs())
def test_the_transpose_by_torch_is_that_of_the_cpu(g: dict[str, Any]) -> None:
    csr = RelationCSR.from_edge_index_dict(g["edges"], g["counts"], g["relations"], g["update"])
    for a, b in zip(relation_csr._by_source(csr), csr.transposed, strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hasp_models.kernels import attention_triton as kernels

whole = {"seg_ptr": "i64", "seg_row": "i64", "seg_out": "i64", "src": "i32", "rel": "i32", "dst": "i32", "edge": "i32"}
made = 0
for name in kernels.__all__:
    kernel = getattr(kernels, name)
    for kind, width, edges, tied in (("fp32", 64, 32, True), ("fp32", 512, 8, False), ("fp64", 64, 32, True)):
        fixed = dict(HEADS=2, DK=width, DV=width, WK=width, WV=width, EDGES=edges, TIED=tied)
        kinds = {a: "constexpr" if a in fixed else "*" + whole.get(a, kind) for a in kernel.arg_names}
        built = triton.compile(ASTSource(kernel, kinds, fixed), target=GPUTarget("cuda", int(sys.argv[1]), 32))
        made += len(built.asm["cubin"]) > 0
print(made)
"""


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles_for_a_gpu(capability: int, tmp_path: Any) -> None:
    """To machine code, for which Triton needs no GPU: what the interpreter allows and the compiler does not shows here."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", COMPILE, str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "9"


def test_where_it_cannot_run_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = RelationAttention(2, (["a"], [("a", "to", "a")]), backend="triton")
    call = ({"a": torch.ones(2, 2)}, {("a", "to", "a"): torch.tensor([[0], [1]])})
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if importlib.util.find_spec("triton") is not None:
        with pytest.raises(HaspError, match=r"triton backend works on CUDA, got tensors on cpu; use backend='auto'"):
            conv(*call)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HaspError, match=r"Triton, which is not installed; pip install triton"):
        conv(*call)


@needs_triton
def test_the_bench_of_gpus_compares_the_same_layer() -> None:
    """What a machine with a GPU would time, run by the interpreter: equal before anything is timed."""
    from bench.relation_attention import GPU, ways

    runs = ways(40, 120, 3, 4, GPU)
    assert "fused by Triton" in runs and "fused, 1 thread" not in runs
    want = runs["PyG's way"]()
    for got, expected in zip(runs["fused by Triton"](), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
