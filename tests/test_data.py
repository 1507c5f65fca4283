"""HASPData: build, open, index, scatter back."""

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from hasp import HASPData, HaspError, HaspWarning, InvalidGraph, Schema, StaleParts
from hasp.load.merge import merge

EEL = ("title", "co", "title")
SCHEMA = Schema(entity="title", eel=[EEL])


def shop(titles=40, seed=0, **attrs):
    rng = np.random.default_rng(seed)
    data = HeteroData()
    data["title"].x = torch.from_numpy(rng.normal(size=(titles, 3)).astype(np.float32))
    data["title"].y = torch.arange(titles)
    data["genre"].num_nodes = 4
    data[EEL].edge_index = torch.from_numpy(rng.integers(0, titles // 2, (2, 3 * titles)))
    data["title", "has", "genre"].edge_index = torch.stack([torch.arange(titles), torch.arange(titles) % 4])
    for key, value in attrs.items():
        data["title"][key] = value
    return data


def build(data=None, schema=SCHEMA, **settings):
    return HASPData(shop() if data is None else data, schema, **{"num_parts": 4, "log": False, **settings})


def test_a_sequence_of_hetero_data():
    parts = build()
    assert len(parts) == 4 and parts.metadata() == parts[0].metadata()
    assert sum(part["title"].num_nodes for part in parts) == 40
    assert parts[-1]["title"].n_id.tolist() == parts[3]["title"].n_id.tolist()
    with pytest.raises(IndexError, match=r"0\.\.3"):
        parts[4]


def test_folder_and_memory_hold_the_same(tmp_path):
    memory, folder = build(), build(root=tmp_path / "parts")
    again = HASPData.open(tmp_path / "parts")
    for part_id in range(4):
        for other in (folder, again):
            mine, theirs = memory.part(part_id).to_tensors(), other.part(part_id).to_tensors()
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[k], theirs[k]) and mine[k].dtype == theirs[k].dtype for k in mine)
    assert memory.report().to_json(measured=False) == again.report().to_json(measured=False)


def test_the_same_build_is_opened_and_another_refused(tmp_path):
    build(root=tmp_path / "parts")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "parts").iterdir()}
    build(root=tmp_path / "parts")
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "parts").iterdir() if p.name in before} == before
    with pytest.raises(StaleParts, match="overwrite"):
        build(root=tmp_path / "parts", seed=1)
    with pytest.raises(StaleParts, match="overwrite"):
        build(shop(seed=1), root=tmp_path / "parts")
    assert build(shop(seed=1), root=tmp_path / "parts", overwrite=True).verify(shop(seed=1)) == []


def test_scatter_back_gives_the_source_order():
    parts = build()
    rows = {p: part["title"].y[:, None] * torch.ones(1, 2, dtype=torch.long) for p, part in enumerate(parts)}
    assert torch.equal(parts.scatter_back("title", rows)[:, 0], torch.arange(40))
    # A model's output may be longer than what the part owns (merged halos, padding): the first rows count.
    longer = [torch.cat([rows[p], -torch.ones(2, 2, dtype=torch.long)]) for p in range(4)]
    assert torch.equal(parts.scatter_back("title", longer)[:, 1], torch.arange(40))


def test_scatter_back_says_what_is_wrong():
    parts = build()
    rows = {p: part["title"].y for p, part in enumerate(parts)}
    with pytest.raises(HaspError, match="missing \\[2\\]"):
        parts.scatter_back("title", {p: r for p, r in rows.items() if p != 2})
    with pytest.raises(HaspError, match="part 1 owns"):
        parts.scatter_back("title", rows | {1: rows[1][:-1]})
    with pytest.raises(HaspError, match="entity types"):
        parts.scatter_back("genre", rows)


def test_a_partition_made_elsewhere():
    labels = torch.arange(40) % 3
    parts = build(num_parts=3, node_part={"title": labels})
    assert torch.equal(parts.node_part("title").long(), labels)
    assert parts.manifest.config["backend"] == "given"
    assert parts.verify(shop()) == []
    for bad, text in (
        ({"title": labels[:-1]}, "40 whole numbers"),
        ({"title": labels + 1}, r"lies in 0\.\.2"),
        ({}, "one array per entity type"),
        ({"title": labels.double()}, "whole numbers"),
    ):
        with pytest.raises(HaspError, match=text):
            build(num_parts=3, node_part=bad)


def test_numbers_of_parts():
    assert len(build(num_parts=1)) == 1
    assert len(build(num_parts=40)) == 40
    for number, text in ((0, "at least 1"), (41, "more than the 40 entities of title; lower num_parts")):
        with pytest.raises(HaspError, match=text):
            build(num_parts=number)
    with pytest.raises(HaspError, match="num_parts"):
        build(num_parts=None)


def test_a_budget_chooses_a_multiple_of_the_gpus():
    parts = build(num_parts=None, max_part_bytes=3000, gpus=2)
    assert len(parts) % 2 == 0
    assert max(parts.report().loaded_bytes) <= 3000


def test_a_part_above_the_budget_is_named():
    data = shop(400)
    many = torch.stack([torch.zeros(500, dtype=torch.long), torch.arange(500) % 4])  # one title has 500 concept edges
    data["title", "has", "genre"].edge_index = torch.cat([data["title", "has", "genre"].edge_index, many], dim=1)
    with pytest.warns(HaspWarning, match="above max_part_bytes=9000"):
        build(data, num_parts=None, max_part_bytes=9000)


def test_a_partitioner_that_refuses_leaves_the_folder_free(tmp_path, monkeypatch):
    from hasp import cut

    def refuse(*_):
        raise HaspError("this build of METIS counts in int32; install the 64-bit wheel")

    monkeypatch.setitem(cut.BACKENDS, "metis", refuse)
    with pytest.raises(HaspError, match="64-bit"):
        build(root=tmp_path / "parts")
    assert [p.name for p in (tmp_path / "parts").iterdir() if not p.name.startswith(".")] == []
    assert build(root=tmp_path / "parts", backend="random").verify(shop()) == []  # other settings, same folder


def test_nothing_is_written_for_a_bad_graph(tmp_path):
    data = shop()
    data[EEL].edge_index[1, 5] = 40
    with pytest.raises(InvalidGraph, match=r"row 5: 40"):
        build(data, root=tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize("key", ["x", "y", "train_mask"])
def test_rows_that_are_missing_are_no_other_attribute(key):
    with pytest.raises(InvalidGraph, match=rf"title\.{key} has one row per item, got \(39,\) for 40"):
        build(shop(num_nodes=40, **{key: torch.ones(39)}))


def test_dtypes_that_torch_hardly_knows(tmp_path):
    data = shop(a=torch.arange(40).to(torch.uint16), b=torch.arange(40).float().to(torch.float8_e4m3fn))
    data[EEL].w = torch.arange(120).to(torch.uint16)
    parts = build(data, root=tmp_path / "parts")
    assert parts.verify(data) == []
    for batch in (parts[0], merge(parts.store, [0, 2])):
        assert batch["title"].a.dtype == torch.uint16 and batch["title"].b.dtype == torch.float8_e4m3fn
        assert torch.equal(batch["title"].a.int(), batch["title"].n_id.int())
        assert torch.equal(batch[EEL].w.int(), batch[EEL].e_id.int())


def test_a_build_with_reverse_types_is_verified_with_them():
    assert build(reverse=True).verify(shop(), reverse=True) == []


def test_nan_features_are_counted():
    x = torch.zeros(40, 2)
    x[3, 1] = float("nan")
    with pytest.warns(HaspWarning, match=r"title\.score holds 1 NaN"):
        build(shop(score=x))


def test_names_that_batches_set_are_left_out_aloud():
    data = shop()
    data.generate_ids()  # PyG's own n_id and e_id
    data["title"].owner_part = torch.arange(40)
    with pytest.warns(HaspWarning, match=r"title\.n_id, title\.owner_part, .*co.*\.e_id"):
        parts = build(data)
    assert parts.verify(shop()) == []


def test_an_interrupted_build_keeps_what_it_wrote(tmp_path, monkeypatch):
    from hasp.blocks import Blocks

    make, made = Blocks.part, []

    def part(self, part_id):
        if part_id == 2 and not made:
            raise KeyboardInterrupt
        return make(self, part_id)

    monkeypatch.setattr(Blocks, "part", part)
    with pytest.raises(KeyboardInterrupt):
        build(root=tmp_path / "parts", threads=1)
    made.append(True)
    monkeypatch.setattr(Blocks, "part", lambda self, part_id: made.append(part_id) or make(self, part_id))
    resumed = build(root=tmp_path / "parts", threads=1)
    assert made[1:] == [2, 3]
    assert resumed.report().part_bytes == build().report().part_bytes == [resumed.part(p).num_bytes for p in range(4)]


def test_no_eel_at_all_and_a_hub(tmp_path):
    data = shop()
    data[EEL].edge_index = torch.empty(2, 0, dtype=torch.long)
    parts = build(data, root=tmp_path / "none")
    assert sorted(parts.report().part_entities) == [10] * 4 and parts.verify(data) == []
    data[EEL].edge_index = torch.stack([torch.zeros(39, dtype=torch.long), torch.arange(1, 40)])
    assert build(data, root=tmp_path / "hub").verify(data) == []


def test_the_plan_and_the_inference_are_printed(capsys):
    HASPData(shop(), num_parts=2)
    text = capsys.readouterr().err
    assert "title (" in text and "parts            2" in text


def test_wrong_choices_name_the_remedy():
    data = shop()
    data["talent"].num_nodes = 1000
    data["title", "stars", "talent"].edge_index = torch.stack([torch.arange(40), torch.arange(40)])
    with pytest.raises(HaspError, match=r"sample=\{'talent'"):
        build(data)
    with pytest.raises(HaspError, match="both ends of an EEL are entities"):
        build(schema=Schema(entity="title", eel=[("title", "has", "genre")]))
    with pytest.raises(HaspError, match="correct the name"):
        build(schema=Schema(entity="titel"))
