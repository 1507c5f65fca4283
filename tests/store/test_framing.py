"""The safetensors framing: our bytes, the official reader's tensors, and headers that lie."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from hasp.errors import CorruptPart, HaspError
from hasp.store import framing
from hasp.store.framing import DTYPES, Spec, chunks, file_order, parse_header, specs, views


def file_bytes(tensors):
    return b"".join(bytes(c) for c in chunks(tensors))


@st.composite
def tensor(draw):
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    count = int(torch.tensor(shape).prod()) if shape else 1
    raw = torch.tensor(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)), dtype=torch.uint8)
    value = raw.to(dtype).view(shape)
    how = draw(st.sampled_from(["plain", "transposed", "strided", "expanded"]))
    if how == "transposed" and value.dim() > 1:
        value = value.transpose(0, -1)
    elif how == "strided" and value.dim() and value.size(0):
        value = value[::2]
    elif how == "expanded":
        value = value.unsqueeze(0).expand(3, *value.shape)
    return value


def raw(value):
    return value.to(torch.float64)  # only zeros and ones: exact in every dtype


NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(lambda s: s != "__metadata__")


@given(st.dictionaries(NAME, tensor(), max_size=6))
def test_the_official_reader_reads_what_we_write(tensors):
    data = file_bytes(tensors)
    read = safetensors.torch.load(data)
    assert set(read) == set(tensors)
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        assert read[name].shape == value.shape
        assert raw(read[name]).equal(raw(value))
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    assert parse_header(data[: 8 + length], len(data)) == specs(tensors)
    for name, entry in json.loads(data[8 : 8 + length]).items():
        assert (8 + length + entry["data_offsets"][0]) % tensors[name].element_size() == 0


@given(st.dictionaries(NAME, tensor(), max_size=6), st.randoms())
def test_order_of_the_dict_is_not_in_the_bytes(tensors, random):
    names = list(tensors)
    random.shuffle(names)
    assert file_bytes({n: tensors[n] for n in names}) == file_bytes(tensors)


@given(st.dictionaries(NAME, tensor(), max_size=6))
def test_views_of_the_bytes_are_the_tensors(tensors):
    data = np.frombuffer(bytearray(file_bytes(tensors)), dtype=np.uint8)
    order = specs(tensors)
    head = framing.header(order)
    assert data[: len(head)].tobytes() == head
    assert list(file_order({name: order[name] for name in sorted(order)})) == list(order)
    found = views(data, order, len(head))
    assert list(found) == list(order)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert raw(found[name]).equal(raw(value))
        assert found[name].untyped_storage().nbytes() == found[name].nbytes  # saved or shared alone, it is no more than itself


def test_blocks_of_a_large_tensor_are_its_bytes(monkeypatch):
    monkeypatch.setattr(framing, "_STEP", 64)
    value = torch.arange(3 * 50, dtype=torch.int16).view(50, 3)
    for one in (value, value.t(), value[::3], value.t()[:, ::2], value.expand(2, 50, 3)):
        assert file_bytes({"a": one}) == file_bytes({"a": one.contiguous()})
    assert len(list(chunks({"a": value}))) == 1 + 5
    assert all(len(c) <= 64 for c in list(chunks({"a": value.t()}))[1:])


@pytest.mark.parametrize("value", [torch.zeros(2, dtype=torch.complex64), torch.eye(3).to_sparse()])
def test_what_the_format_cannot_hold_is_named(value):
    with pytest.raises(HaspError, match="node/t/odd is torch"):
        specs({"node/t/odd": value})


def test_gradients_and_lazy_negation_are_plain_bytes():
    value = torch.ones(3, requires_grad=True)
    negated = torch.ones(3, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    read = safetensors.torch.load(file_bytes({"a": value, "b": negated}))
    assert read["a"].tolist() == [1, 1, 1]
    assert read["b"].equal(negated)


def test_spec_of_rows_and_of_tensors():
    value = torch.zeros(5, 2, 3, dtype=torch.bfloat16)
    assert Spec.of(value) == ("bfloat16", (5, 2, 3))
    row = Spec.of(value, trailing=True)
    assert row == ("bfloat16", (2, 3))
    assert row.empty().shape == (0, 2, 3)
    assert row.empty(4).dtype == torch.bfloat16


def header(entries, data=b"", **extra):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "header fits"),
        (b"\x80\x04\x95abc", "header fits"),
        ((1 << 62).to_bytes(8, "little") + b"{}", "header fits"),
        ((100).to_bytes(8, "little") + b"{}", "header fits"),
        (header([1]), "object"),
        (header(b'{"a": 1'), "no JSON"),
        (header(b"\xff\xfe"), "no JSON"),
        (header(b"[" * 100_000), "no JSON"),
        (header(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', b"\0" * 8), "finite"),
        (header(b'{"a":{},"a":{}}'), "'a' is repeated"),
        (header({"a": 3}), "dtype, shape"),
        (header({"__metadata__": {"x": "y"}}), "dtype, shape"),
        (header({"a": {**ENTRY, "dtype": "F31"}}, b"\0" * 8), "known dtype"),
        (header({"a": {**ENTRY, "dtype": ["F32"]}}, b"\0" * 8), "known dtype"),
        (header({"a": {**ENTRY, "shape": [-2]}}, b"\0" * 8), "known dtype"),
        (header({"a": {**ENTRY, "shape": [2.0]}}, b"\0" * 8), "known dtype"),
        (header({"a": {**ENTRY, "shape": [10**18]}}, b"\0" * 8), "follow each other"),
        (header({"a": {**ENTRY, "shape": [2**32, 2**32]}}, b"\0" * 8), "follow each other"),
        (header({"a": {**ENTRY, "data_offsets": [8, 16]}}, b"\0" * 16), "follow each other"),
        (header({"a": ENTRY, "b": ENTRY}, b"\0" * 8), "follow each other"),
        (header({"a": ENTRY}, b"\0" * 4), "fill the file"),
        (header({"a": ENTRY}, b"\0" * 12), "fill the file"),
    ],
)
def test_headers_that_lie_are_refused(data, rule):
    with pytest.raises(CorruptPart, match=rule):
        parse_header(data, len(data))
