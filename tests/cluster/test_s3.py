"""Tables in an object store: a server that speaks S3, on this machine. Needs s3fs and moto, which nothing else here does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_spread import same_bytes

from hasp.config import BuildConfig
from hasp.errors import HaspError
from hasp.schema import Schema
from hasp.sources import open_source
from hasp.sources.synthetic import Catalogue, generate
from hasp.sources.tables import write_tables

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install s3fs 'moto[server]'")
moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install s3fs 'moto[server]'")

_NUMBERS = itertools.count()

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries of the store deprecate is not ours to fail on


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a server of this machine; all servers of a process have the same buckets."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        name = f"bucket-{next(_NUMBERS)}"
        s3fs.S3FileSystem().mkdir(name)
        yield f"s3://{name}"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


@pytest.mark.parametrize("reverse", [False, True])
def test_parts_of_tables_on_s3_are_those_of_a_folder(reverse: bool, bucket: str, tmp_path: Path) -> None:
    write_tables(generate(Catalogue(300, 1, num_features=3, num_talent=40)).graph, tmp_path / "tables", "parquet")
    s3fs.S3FileSystem().put(str(tmp_path / "tables"), f"{bucket}/tables", recursive=True)
    assert open_source(f"{bucket}/tables").fingerprint() == open_source(tmp_path / "tables").fingerprint()
    schema = Schema(sample={"talent": 5})
    same_bytes(tmp_path / "tables", f"{bucket}/tables", schema, BuildConfig(4), tmp_path, chunk=100, reverse=reverse)


def test_a_store_that_does_not_answer_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HaspError, match="nowhere"):
        open_source(f"{bucket}/nowhere")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(
        HaspError, match=r"cannot read s3://bucket-\d+/tables/\w+ \(.*127\.0\.0\.1:9.*\); check the path, the address"
    ):
        open_source(f"{bucket}/tables")
