"""A manifest is believed only if no build could have lied so."""

import json

import pytest
from store_build import build
from store_forge import forge, seal

from hasp.errors import CorruptPart, StaleParts
from hasp.store.manifest import FORMAT_VERSION, Manifest
from hasp.store.read import FolderStore


def test_a_manifest_comes_back(folder):
    manifest = FolderStore.open(folder).manifest
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert list(manifest.roles.nodes) == list(manifest.num_nodes) == ["t", "c", "s"]


def test_the_forger_of_these_tests_can_be_believed(folder):
    forge(folder, lambda m: m["report"].update(kept=0.25))
    assert FolderStore.open(folder).manifest.report["kept"] == 0.25


def rename(name):
    def change(m):
        m["files"][name] = m["files"].pop("part-00000.safetensors")

    return change


def put(*keys, value):
    def change(m):
        for key in keys[:-1]:
            m = m[key]
        m[keys[-1]] = value

    return change


def drop(*keys):
    def change(m):
        for key in keys[:-1]:
            m = m[key]
        del m[keys[-1]]

    return change


PART = ("files", "part-00000.safetensors")
X = (*PART, "tensors", "node/t/x")
HOSTILE = {
    "outside": (rename("../../x"), "files have fixed names without a folder, got '../../x'"),
    "outside by a good name": (rename("../part-00000.safetensors"), "files have fixed names"),
    "absolute": (rename("/etc/passwd"), "files have fixed names"),
    "NUL": (rename("part-00000.safetensors\0"), "files have fixed names"),
    "line end": (rename("part-00000.safetensors\n"), "files have fixed names"),
    "other digits": (rename("part-0000٠.safetensors"), "files have fixed names"),
    "six digits": (rename("part-000000.safetensors"), "files have fixed names"),
    "the manifest itself": (rename("manifest.json"), "files have fixed names"),
    "a part too many": (rename("part-00007.safetensors"), "missing or too many"),
    "a part missing": (drop(*PART), "missing or too many"),
    "no shared": (drop("files", "shared.safetensors"), "missing or too many"),
    "no files": (put("files", value={}), "missing or too many"),
    "files as a list": (put("files", value=[]), "files is an object"),
    "more parts": (put("config", "num_parts", value=4), "missing or too many"),
    "parts as text": (put("config", "num_parts", value="3"), "config.num_parts is 1..32767"),
    "parts as true": (put("config", "num_parts", value=True), "config.num_parts is 1..32767"),
    "no parts": (drop("config", "num_parts"), "config.num_parts is 1..32767"),
    "negative size": (put(*PART, "bytes", value=-1), "whole number from 0"),
    "size as a float": (put(*PART, "bytes", value=1e3), "whole number from 0"),
    "absurd size": (put(*PART, "bytes", value=2**63), "whole number from 0"),
    "no size": (drop(*PART, "bytes"), "has the keys bytes, blake3, tensors"),
    "extra key": (put(*PART, "url", value="http://x"), "has the keys bytes, blake3, tensors"),
    "short hash": (put(*PART, "blake3", value="ab"), "64 hex digits"),
    "hash as a number": (put(*PART, "blake3", value=1), "64 hex digits"),
    "1e18 rows": (put(*X, value=["float32", [10**18, 3]]), "fits a file"),
    "product overflows": (put(*X, value=["float32", [2**32, 2**32]]), "fits a file"),
    "2**62 rows of nothing": (put(*X, value=["float32", [2**62, 0]]), "node/t/x of part-00000.safetensors is float32"),
    "more than the file": (put(*X, value=["float32", [10**6, 3]]), "fit its"),
    "negative rows": (put(*X, value=["float32", [-4, 3]]), "whole number from 0"),
    "a dtype that is code": (put(*X, value=["object", [4, 3]]), r"is \[dtype, shape\]"),
    "other rows": (put(*X, value=["float32", [3, 3]]), r"is float32 \[4, 3\], got float32 \[3, 3\]"),
    "other width": (put("node_attrs", "t", "x", value=["float32", [4]]), r"is float32 \[4, 4\]"),
    "attribute without tensor": (put("node_attrs", "t", "w", value=["float32", []]), "missing or too many"),
    "attribute with /": (put("node_attrs", "t", "a/b", value=["float32", []]), "attribute names have no '/'"),
    "tensor without attribute": (put(*PART, "tensors", "node/t/w", value=["bool", [0]]), "missing or too many"),
    "tensor of another kind": (put(*PART, "tensors", "evil", value=["bool", [0]]), "missing or too many"),
    "edge_index of one row": (
        put(*PART, "tensors", "edge_index/t__co__t", value=["int32", [1, 2]]),
        r"is int32 or int64 \[2, 2\]",
    ),
    "n_id without rows": (put(*PART, "tensors", "n_id/t", value=["int32", []]), "n_id/t of part-00000"),
    "float ids": (put(*PART, "tensors", "e_id/t__co__t", value=["float32", [2]]), "is int32 or int64"),
    "short ptr": (put("files", "cut.safetensors", "tensors", "ptr/t__co__t", value=["int64", [3]]), r"is int64 \[4\]"),
    "labels of other length": (put("num_nodes", "t", value=8), "node_part.safetensors holds"),
    "nodes as text": (put("num_nodes", "t", value="7"), "num_nodes of 't' is a whole number"),
    "negative edges": (put("num_edges", "t__co__t", value=-6), "whole number from 0"),
    "type without role": (put("num_nodes", "z", value=1), "num_nodes lists the types of roles"),
    "types in another order": (lambda m: m["num_nodes"].update(t=m["num_nodes"].pop("t")), "in order"),
    "a role that is none": (put("roles", "nodes", "t", value="admin"), "is entity, semantic or sampled, got 'admin'"),
    "an edge role that is none": (put("roles", "edges", "t__co__t", value="?"), "the role of 't__co__t' is one of"),
    "no quota": (put("roles", "quota", value={}), "quotas are those of"),
    "negative quota": (put("roles", "quota", "s", value=-1), "quota of 's' is a whole number"),
    "an edge from nowhere": (put("roles", "edges", "q__x__t", value="eel"), "both ends of 'q__x__t'"),
    "an edge without relation": (put("roles", "edges", "t__t", value="eel"), "spelled <source>__<relation>__<destination>"),
    "a type with /": (put("roles", "nodes", "../t", value="semantic"), "have no '/'"),
    "roles as a list": (put("roles", value=[]), "roles is an object"),
    "no roles": (drop("roles"), "a manifest has the keys"),
    "a key that nobody knows": (put("hook", value="os.system"), "a manifest has the keys"),
    "no version": (drop("format_version"), "format_version is a whole number from 1"),
    "version as text": (put("format_version", value="1"), "format_version is a whole number from 1"),
    "version 0": (put("format_version", value=0), "format_version is a whole number from 1"),
    "no fingerprint": (put("fingerprint", value=""), "fingerprint is a text"),
    "a report that is text": (put("report", value="<script>"), "report is an object"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_manifests_are_refused_in_one_line(folder, name):
    change, rule = HOSTILE[name]
    forge(folder, change)
    with pytest.raises(CorruptPart, match=rule) as error:
        FolderStore.open(folder)
    assert str(error.value).startswith(str(folder / "manifest.json"))
    assert "\n" not in str(error.value)
    assert "rebuild the parts with overwrite=True" in str(error.value)
    with pytest.raises(CorruptPart):
        build(folder)
    build(folder, overwrite=True)
    assert FolderStore.open(folder).check_files() == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (b'"format_version": 1', b'"format_version": 1, "format_version": 1', "'format_version' is repeated"),
        (b'"kept": 0.5', b'"kept": NaN', "finite"),
        (b'"kept": 0.5', b'"kept": -Infinity', "finite"),
        (b'"kept": 0.5', b'"kept": ' + b"[" * 200_000 + b"]" * 200_000, "no JSON"),
        (b'"kept": 0.5', b'"kept": ' + b"9" * 5000, "no JSON"),
        (b'"library"', b'"\xff"', "no JSON"),
        (b"}\n}\n}\n", b"}\n}\n", "no JSON"),
    ],
)
def test_json_that_readers_would_read_differently_is_refused(folder, old, new, rule):
    path = folder / "manifest.json"
    data = path.read_bytes()
    assert old in data
    path.write_bytes(seal(data.replace(old, new, 1)))
    with pytest.raises(CorruptPart, match=rule):
        FolderStore.open(folder)


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b'{"format_version": 1}', b"\x80\x04."])
def test_what_is_no_manifest_at_all(folder, data):
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(CorruptPart):
        FolderStore.open(folder)


def test_every_single_bit_of_a_manifest_counts(folder):
    path = folder / "manifest.json"
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        with pytest.raises((CorruptPart, StaleParts)):
            Manifest.from_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])


def test_a_newer_format_says_upgrade(folder):
    forge(folder, lambda m: {"format_version": FORMAT_VERSION + 1, "layout": "of the future"})
    for use in (FolderStore.open, build):
        with pytest.raises(StaleParts, match=r"reads format_version up to 1, but the parts have 2; upgrade it"):
            use(folder)
