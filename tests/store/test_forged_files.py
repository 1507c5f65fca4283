"""Files that are not what they seem: links out of the folder, pickles, headers that contradict the manifest."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from store_forge import forge

from hasp.errors import CorruptPart
from hasp.store.read import FolderStore


def test_links_may_not_leave_the_folder(folder, tmp_path):
    part = folder / "part-00000.safetensors"
    outside = tmp_path / "outside.safetensors"
    part.rename(outside)
    part.symlink_to(outside)
    with pytest.raises(CorruptPart, match=r"part-00000.safetensors is a link that leaves its folder"):
        FolderStore.open(folder)
    inside = folder / "elsewhere"
    outside.rename(inside)
    part.unlink()
    part.symlink_to("elsewhere")
    assert FolderStore.open(folder).check_files() == []
    part.unlink()
    part.symlink_to("nowhere")
    with pytest.raises(CorruptPart, match="is missing"):
        FolderStore.open(folder)
    part.unlink()
    part.mkdir()
    with pytest.raises(CorruptPart, match="is no regular file"):
        FolderStore.open(folder)
    part.rmdir()
    os.mkfifo(part)
    with pytest.raises(CorruptPart, match="is no regular file"):
        FolderStore.open(folder)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def evil_files(marker):
    import io

    torch_file, numpy_file = io.BytesIO(), io.BytesIO()
    torch.save(Evil(marker), torch_file)
    np.save(numpy_file, np.array([Evil(marker)], dtype=object), allow_pickle=True)
    return {"pickle": pickle.dumps(Evil(marker)), "torch": torch_file.getvalue(), "numpy": numpy_file.getvalue()}


@pytest.mark.parametrize("kind", ["pickle", "torch", "numpy"])
@pytest.mark.parametrize("forged", [False, True])
def test_a_pickle_in_place_of_a_part_is_refused_without_running_it(folder, tmp_path, kind, forged):
    marker = tmp_path / "ran"
    pickle.loads(evil_files(marker)["pickle"])
    assert marker.exists()  # the pickle does run where it is loaded
    marker.unlink()
    data = evil_files(marker)[kind]
    path = folder / "cut.safetensors"
    path.write_bytes(data)
    if forged:  # with a manifest that vouches for it
        size = max(len(data), json.loads((folder / "manifest.json").read_bytes())["files"][path.name]["bytes"])
        path.write_bytes(data + bytes(size - len(data)))
        entry = {"bytes": size, "blake3": blake3(path.read_bytes()).hexdigest()}
        forge(folder, lambda m: m["files"][path.name].update(entry))
        store = FolderStore.open(folder)
        with pytest.raises(CorruptPart, match=r"cut.safetensors: .*; restore the file"):
            _ = store.cut
        assert len(store.check_files()) == 1
    else:
        with pytest.raises(CorruptPart, match=r"cut.safetensors has .* bytes, found"):
            FolderStore.open(folder)
    assert not marker.exists()


def test_a_header_that_contradicts_the_manifest_is_refused(folder):
    path = folder / "part-00000.safetensors"
    data = path.read_bytes().replace(b"node/t/x", b"node/t/q")
    path.write_bytes(data)
    forge(folder, lambda m: m["files"][path.name].update(blake3=blake3(data).hexdigest()))
    with pytest.raises(CorruptPart, match=r"\['node/t/q', 'node/t/x'\] differ"):
        FolderStore.open(folder).part(0)
