"""Every artefact names the version that made it and the hashes of what it was made of; a walk over all of a small run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from train_graphs import EEL, small_loader, small_model, small_parts
from typer.testing import CliRunner

import hasp
from hasp import HASPData
from hasp.errors import CorruptPart, HaspError
from hasp.sources import open_source
from hasp_models.cli import app
from hasp_models.embeddings import Embeddings
from hasp_models.experiments.store import Store
from hasp_models.kg_embedding import KGEmbedding
from hasp_models.objectives import InfoNCE
from hasp_models.origin import link, origin_of, parts_input
from hasp_models.runs import load_run
from hasp_models.train import fit

SOURCE = "synthetic:200"


def call(*arguments: Any, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the commands leave behind."""
    work = tmp_path_factory.mktemp("origin")
    HASPData(open_source(SOURCE), num_parts=2, root=work / "parts", reverse=True, log=False)
    (work / "truth.csv").write_text("a,b\n1,2\n3,4\n5,6\n")
    options = ("--epochs", 1, "--dim", 4)
    call("pretrain", work / "parts", "--out", work / "kg", *options)
    call("train", work / "parts", "--out", work / "run", "--concepts", work / "kg", "--truth", work / "truth.csv", *options)
    call("embed", work / "run", SOURCE, "--out", work / "emb")
    with Store(work / "results") as store:
        store.open({"data": "d" * 20, "dataset": "made"})
    return work


def test_every_artefact_of_a_run_names_its_version_and_its_inputs(work: Path) -> None:
    folders = ["parts", "kg", "run", "run/checkpoint", "emb", "results"]
    found = {name: origin_of(work / name) for name in folders}
    assert {p.name for p in work.iterdir() if p.is_dir()} == {name.split("/")[0] for name in folders}  # nothing is left out
    assert {o.library for o in found.values()} == {hasp.__version__}
    assert len({o.id for o in found.values()} - {None}) == len(folders)
    kinds = ["parts", "concepts", "run", "checkpoint", "embeddings", "results"]
    assert [o.kind for o in found.values()] == kinds
    parts = HASPData.open(work / "parts")
    graph = {"kind": "graph", "id": parts.manifest.fingerprint}
    assert found["parts"].id == parts_input(parts)["id"] == json.loads((work / "parts" / "manifest.json").read_text())["blake3"]
    assert found["parts"].inputs == found["kg"].inputs == found["run/checkpoint"].inputs == {"graph": graph}
    assert found["run"].inputs["parts"] == {"kind": "parts", "id": found["parts"].id}
    assert found["run"].inputs["concepts"] == {"kind": "concepts", "id": found["kg"].id}
    assert found["run"].inputs["truth"]["kind"] == "file" and len(found["run"].inputs["truth"]["id"]) == 64
    # The source is embedded with the reverse edge types that the parts have, so that both have one fingerprint.
    assert found["emb"].inputs == {"graph": graph, "run": {"kind": "run", "id": found["run"].id}}
    assert found["results"].inputs == {"data": {"kind": "data", "id": "d" * 20}}


def test_what_is_written_beside_them_names_them_too(work: Path) -> None:
    fingerprint = HASPData.open(work / "parts").manifest.fingerprint
    for folder in ("kg", "run"):
        metrics = json.loads((work / folder / "metrics.json").read_text())
        head = json.loads((work / folder / "log.jsonl").read_text().splitlines()[0])
        for said in (metrics, head):
            assert (said["library"], said["fingerprint"]) == (hasp.__version__, fingerprint)
    events = [json.loads(text)["event"] for text in (work / "run" / "log.jsonl").read_text().splitlines()]
    assert events[-2:] == ["finished", "saved"]


def test_the_command_links_them(work: Path, tmp_path: Path) -> None:
    folders = [work / name for name in ("parts", "kg", "run", "emb", "results")]
    found = json.loads(call("origin", *folders, "--json"))
    assert [o["kind"] for o in found["artefacts"]] == ["parts", "concepts", "run", "embeddings", "results"]
    where = {(Path(row["folder"]).name, row["role"]): row["found"] and Path(row["found"]).name for row in found["links"]}
    assert where[("run", "parts")] == "parts" and where[("run", "concepts")] == "kg" and where[("emb", "run")] == "run"
    assert where[("emb", "graph")] in ("parts", "kg") and where[("results", "data")] is None
    assert not any(row["wrong"] for row in found["links"])
    text = call("origin", *folders)
    run = origin_of(work / "run")
    assert f"{work / 'run'}: run {str(run.id)[:16]}, made by hasp {hasp.__version__}\n" in text
    assert f"  parts:    {run.inputs['parts']['id'][:16]}, as in {work / 'parts'}\n" in text
    # Other parts of the same graph are not those of the run.
    HASPData(open_source(SOURCE), num_parts=2, root=tmp_path / "other", reverse=True, seed=7, log=False)
    text = call("origin", tmp_path / "other", work / "run", code=2)
    assert f", which is NOT in {tmp_path / 'other'}\n" in text
    assert call("origin", work / "emb") and not any(row.wrong for row in link([origin_of(work / "emb")]))
    assert "but nothing is none; correct" in CliRunner().invoke(app, ["origin", "nothing"]).stderr


def test_a_run_under_way_says_what_its_log_says(tmp_path: Path) -> None:
    parts = small_parts()
    how: dict[str, Any] = {"log": tmp_path, "checkpoint": tmp_path / "checkpoint", "max_steps": 1, "progress": False}
    fit(small_model(parts), small_loader(parts), InfoNCE(EEL), epochs=2, **how)
    found = origin_of(tmp_path)
    assert (found.kind, found.library, found.id) == ("unfinished run", hasp.__version__, None)
    assert (
        found.inputs
        == origin_of(tmp_path / "checkpoint").inputs
        == {"graph": {"kind": "graph", "id": parts.manifest.fingerprint}}
    )


def test_artefacts_of_older_versions_are_read_and_say_less(work: Path, tmp_path: Path) -> None:
    for name, file, later in (
        ("kg", "kg.json", ("library", "inputs")),
        ("run", "run.json", ("library", "inputs", "file")),
        ("emb", "embeddings.json", ("library", "inputs", "file")),
    ):
        shutil.copytree(work / name, tmp_path / name)
        meta = json.loads((tmp_path / name / file).read_text())
        (tmp_path / name / file).write_text(json.dumps({k: v for k, v in meta.items() if k not in later}))
        assert origin_of(tmp_path / name).library is None
    assert KGEmbedding.load(tmp_path / "kg").inputs == {}
    model, run = load_run(tmp_path / "run")
    assert Embeddings.of(model, run, SOURCE).inputs.keys() == {"graph"}
    assert torch.equal(Embeddings.load(tmp_path / "emb").vectors, Embeddings.load(work / "emb").vectors)
    assert "made by an old version" in call("origin", tmp_path / "kg")


def test_weights_and_vectors_of_another_file_are_refused(work: Path, tmp_path: Path) -> None:
    for name, file in (("run", "model.safetensors"), ("emb", "embeddings.safetensors")):
        shutil.copytree(work / name, tmp_path / name)
        path = tmp_path / name / file
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(CorruptPart, match=r"model.safetensors is not the file that was written"):
        load_run(tmp_path / "run")
    with pytest.raises(CorruptPart, match=r"embeddings.safetensors is not the file that was written"):
        Embeddings.load(tmp_path / "emb")
    for text in ("[]", '{"file": 3}', '{"file": {}, "inputs": 3}'):
        (tmp_path / "run" / "run.json").write_text(text)
        with pytest.raises(CorruptPart, match="make it again"):
            origin_of(tmp_path / "run")


def test_a_checkpoint_is_of_its_parts_and_not_of_others_of_the_same_graph(tmp_path: Path) -> None:
    how: dict[str, Any] = {"epochs": 2, "checkpoint": tmp_path, "progress": False}
    parts = small_parts()
    fit(small_model(parts), small_loader(parts), InfoNCE(EEL), max_steps=1, **how)
    meta = json.loads((tmp_path / "checkpoint.json").read_text())
    assert meta["library"] == hasp.__version__ and meta["build"]["num_parts"] == 6
    other = small_parts(balance="bytes")
    with pytest.raises(HaspError, match="is of other parts, built with another balance; build them as they were"):
        fit(small_model(other), small_loader(other), InfoNCE(EEL), **how)
    fit(small_model(parts), small_loader(parts), InfoNCE(EEL), **how)
