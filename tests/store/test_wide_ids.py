"""Numbers past 2**31: ids grow wide by count, never by a silent wrap, and a file with that many rows is mapped."""

import json

import torch

from hasp.part import id_dtype
from hasp.store.disk import Disk
from hasp.store.framing import parse_header


def test_ids_are_wide_exactly_when_they_must():
    for count in (0, 1, 2**31 - 1):
        assert id_dtype(count) == torch.int32
        assert count == 0 or int(torch.tensor(count - 1, dtype=id_dtype(count))) == count - 1
    for count in (2**31, 2**31 + 1, 2**40):
        assert id_dtype(count) == torch.int64
        assert int(torch.tensor(count - 1, dtype=id_dtype(count))) == count - 1


def test_more_than_two_billion_rows_are_mapped(tmp_path):
    rows = 2**31 + 5
    header = json.dumps({"x": {"dtype": "U8", "shape": [rows], "data_offsets": [0, rows]}}).encode()
    header += b" " * (-len(header) % 8)
    path = tmp_path / "part-00000.safetensors"
    with path.open("wb") as file:  # a sparse file: it takes a few blocks of the disk
        file.write(len(header).to_bytes(8, "little") + header)
        file.seek(8 + len(header) + rows - 1)
        file.write(b"\x07")
    disk = Disk()
    assert parse_header(disk.head(path, 8 + len(header)), disk.size(path))["x"].shape == (rows,)
    x = disk.map(path)["x"]
    assert x.shape == (rows,) and int(x[rows - 1]) == 7 and int(x[2**31]) == 0
