"""The walls of the house: who may import whom, what may not be written, and how large a room may be."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import hasp

REPO = Path(__file__).resolve().parents[1]
FILES = sorted(p for package in ("hasp", "hasp_models") for p in (REPO / package).rglob("*.py"))
NAMES = [str(p.relative_to(REPO)) for p in FILES]
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 350, 80

SOURCES = pytest.mark.parametrize("path", FILES, ids=NAMES)


def run(code, *arguments):
    """The lines that a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments], capture_output=True, text=True, cwd=REPO, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def imported(path):
    """The modules that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


# PyG itself imports numba where it is installed. Here numba and METIS cannot be imported at all, by anyone.
WITHOUT = "import sys; sys.modules['numba'] = sys.modules['pymetis'] = None; "
BUILDER = "print(*(m for m in ('hasp.build', 'hasp.kernels', 'hasp.cut', 'hasp_models') if m in sys.modules))"


@pytest.mark.parametrize("what", ["hasp", "hasp.load", "hasp.load.loader", "hasp.store", "hasp.store.read", "hasp.data"])
def test_opening_parts_compiles_nothing(what):
    assert run(f"{WITHOUT} import {what}; {BUILDER}") == []


@pytest.mark.parametrize("what", ["hasp", "hasp.store.read", "hasp.schema", "hasp.part", "hasp.config", "hasp.report"])
def test_what_needs_no_pyg_does_not_import_numba(what):
    assert run(f"import sys, {what}; print(*(m for m in ('numba', 'torch_geometric') if m in sys.modules))") == []


def test_reading_parts_and_loading_them_one_by_one_compiles_nothing(tmp_path):
    assert run(f"{WITHOUT} {loading(1)}; {BUILDER}", parts_of_two(tmp_path)) == ["loaded", "6"]


def test_merging_parts_imports_its_kernels_and_no_more_of_the_builder(tmp_path):
    kernels = "print(*sorted(m for m in sys.modules if m.startswith('hasp.kernels.')))"
    found = run(f"{loading(2)}; {kernels}; {BUILDER}", parts_of_two(tmp_path))
    assert found == ["loaded", "6", "hasp.kernels.jit", "hasp.kernels.join", "hasp.kernels"]


def test_supervising_links_imports_its_kernels_and_no_more_of_the_builder(tmp_path):
    kernels = "print(*sorted(m for m in sys.modules if m.startswith('hasp.kernels.')))"
    supervised = loading(1, "edge_label_index=('title', 'like', 'title'), neg_sampling='binary', disjoint_train_ratio=0.5")
    found = run(f"{supervised}; {kernels}; {BUILDER}", parts_of_two(tmp_path))
    assert found == ["loaded", "6", *(f"hasp.kernels.{name}" for name in ("hashing", "jit", "pairs")), "hasp.kernels"]


def loading(batch_size, more=""):
    """Code that opens the parts in the folder of its argument and loads them all."""
    return (
        "import sys; from hasp import HASPData, HASPLoader; parts = HASPData.open(sys.argv[1]);"
        f"n = sum(b['title'].num_nodes for b in HASPLoader(parts, batch_size={batch_size}, {more})); str(parts.report());"
        "print('loaded', n)"
    )


def parts_of_two(folder):
    from torch_geometric.data import HeteroData

    data = HeteroData()
    data["title"].num_nodes = 6
    data["title", "like", "title"].edge_index = hasp_edges()
    hasp.HASPData(data, num_parts=2, root=folder / "parts")
    return str(folder / "parts")


def hasp_edges():
    import torch

    return torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])


def test_importing_the_models_compiles_nothing():
    assert run(f"{WITHOUT} import hasp_models") == []


def test_hasp_does_not_know_its_models():
    ours = [p for p in FILES if p.is_relative_to(REPO / "hasp")]
    guilty = [str(p) for p in ours if any(m.split(".")[0] == "hasp_models" for m in imported(p))]
    assert guilty == []


JOINING = {"hasp/load/join.py", "hasp/load/runs.py", "hasp/load/pairs.py"}
"""Files that put edges of several parts together, or look pairs up, by compiled kernels."""


@pytest.mark.parametrize("room", ["load", "store"])
def test_rooms_that_training_opens_do_not_name_the_builder(room):
    stages = ("build", "kernels", "split", "cut", "fill", "bucket", "blocks", "layout")
    heavy = ("numba", "pymetis", *(f"hasp.{stage}" for stage in stages))
    files = [p for p in FILES if p.is_relative_to(REPO / "hasp" / room)]
    assert files
    guilty = [
        (str(p.relative_to(REPO)), m) for p in files for m in imported(p) if any(m == h or m.startswith(h + ".") for h in heavy)
    ]
    assert [(p, m) for p, m in guilty if p not in JOINING or m != "hasp.kernels"] == []
    assert room == "store" or {p for p, _ in guilty} == JOINING


def test_everything_imports_without_the_optional_extensions():
    """As if torch-sparse, pyg-lib and their kin could not be installed."""
    modules = [n[:-3].replace("/", ".").removesuffix(".__init__") for n in NAMES if not n.endswith("__main__.py")]
    code = (
        "import sys, importlib\n"
        "for name in ('torch_sparse', 'torch_scatter', 'torch_cluster', 'pyg_lib', 'torch_spline_conv'):\n"
        "    sys.modules[name] = None\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "print(len(sys.argv) - 1)"
    )
    modules = [m for m in modules if not m.endswith(("kernels.triton", "_triton"))]
    assert run(code, *modules) == [str(len(modules))]


@pytest.mark.parametrize("name", hasp.__all__)
def test_public_names(name):
    value = getattr(hasp, name)
    assert name in dir(hasp)
    if name != "__version__":
        home = importlib.import_module(hasp._HOME[name])
        assert name in home.__all__ and value.__doc__


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'hasp' has no attribute 'HaspData'; it has BuildConfig, "):
        hasp.HaspData  # noqa: B018


@SOURCES
def test_a_room_is_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body  # what is said of a function is not its length
            lines = (node.end_lineno or node.lineno) - body[0].lineno + 1 if body else 0
            assert lines <= MOST_LINES_OF_A_FUNCTION, f"{node.name} has {lines} lines"


@SOURCES
def test_what_is_never_written(path):
    """No print outside the command lines, no pickle, no bare except, no silent ``except Exception``, no homogenising."""
    prints = path.name in ("cli.py", "demo.py", "__main__.py") or path.parent.name == "cli"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert name != "to_homogeneous"
            assert prints or not (isinstance(node.func, ast.Name) and name == "print")
            called = ast.unparse(node.func)
            safe = [k for k in node.keywords if k.arg == "weights_only" and ast.unparse(k.value) == "True"]
            assert called != "torch.save" and (called != "torch.load" or safe), "torch's files are pickles"
            allow = [k for k in node.keywords if k.arg == "allow_pickle"]
            assert all(isinstance(k.value, ast.Constant) and k.value.value is False for k in allow)
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "a bare except"
            broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            assert not (broad and all(isinstance(s, ast.Pass) for s in node.body))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            assert node.attr.endswith("Error"), "of pickle, only its errors are named"
    assert not {"cPickle", "dill", "joblib", "shelve", "marshal"} & {m.split(".")[0] for m in imported(path)}


@SOURCES
def test_nothing_is_left_for_later(path):
    text = path.read_text(encoding="utf-8")
    assert not any(word in text for word in ("TODO", "FIXME", "XXX", "NotImplemented()", "raise NotImplementedError"))
    assert "/work/" not in text and "/home/" not in text and "/Users/" not in text


def test_no_two_files_of_tests_share_a_name():
    """They are in no package, so that pytest would import one of the two and call the other a mismatch."""
    names = [p.name for p in (REPO / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
