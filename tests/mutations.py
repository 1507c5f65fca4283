"""Break the code on purpose, one line at a time, and see the named test fail: ``python tests/mutations.py [word ...]``.

Works on a copy in a temporary folder. Every test must pass on the untouched copy and fail on every mutation of its own; exit
code 1 if one does not. With words, only the mutations whose line of the table contains one of them. ``--table`` prints the
table of docs/invariants.md instead.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
COPIED = ("hasp", "hasp_models", "tests", "pyproject.toml")
PROPERTY, BYTES, LOAD = "tests/test_invariants.py", "tests/test_invariants_bytes.py", "tests/test_invariants_load.py"


@dataclass(frozen=True)
class Mutation:
    """One change: the rule it breaks, where, what becomes what (``old`` occurs once in the file), and who notices."""

    rule: str
    file: str
    old: str
    new: str
    test: str

    def row(self) -> str:
        """This mutation as a row of the table."""
        file, name = self.test.split("::")
        old, new = (" ".join(t.split()).replace("|", "\\|") for t in (self.old, self.new))
        return f"| {self.rule} | [`{name}`](../{file}) | `{self.file}` | `{old}` | `{new}` |"


MUTATIONS = [
    Mutation(
        "1", "hasp/layout.py", 'order = np.argsort(part, kind="stable")', 'order = np.argsort(-labels, kind="stable")',
        f"{PROPERTY}::test_1_who_is_where",
    ),
    Mutation("1", "hasp/sample.py", "[: quota - chosen.size]", "[:0]", f"{PROPERTY}::test_1_who_is_where"),
    Mutation(
        "1", "hasp/sample.py", "subkey(seed, part, epoch, word(node_type))", "subkey(seed, 0, epoch, word(node_type))",
        f"{PROPERTY}::test_1_who_is_where",
    ),
    Mutation(
        "2", "hasp/kernels/bucket.py", "out_dst[at] = dst_local[np.uint64(dst[i])]",
        "out_dst[at] = src_local[np.uint64(src[i])]",
        f"{PROPERTY}::test_2_edges_are_the_edges_of_the_source",
    ),
    Mutation(
        "2", "hasp/blocks.py", "{k: take_rows(v, edges.e_id) for", "{k: v[: edges.num_edges] for",
        f"{PROPERTY}::test_2_edges_are_the_edges_of_the_source",
    ),
    Mutation(
        "2", "hasp/blocks.py", "{k: take_rows(v, n_id) for", "{k: v[: n_id.numel()] for",
        f"{PROPERTY}::test_2_edges_are_the_edges_of_the_source",
    ),
    Mutation(
        "3", "hasp/blocks.py", "[keys // num_parts, keys % num_parts]", "[keys % num_parts, keys // num_parts]",
        f"{PROPERTY}::test_3_where_edges_are",
    ),
    Mutation(
        "3", "hasp/bucket.py", "kernel.order_by(pair, by_dst, num_pairs, order)",
        "kernel.order_by(pair, order.copy(), num_pairs, order)",
        f"{PROPERTY}::test_3_where_edges_are",
    ),
    Mutation(
        "3", "hasp/kernels/bucket.py", "cut = np.int64(p != np.int64(dst_part[np.uint64(dst[i])]))",
        "cut = np.int64(p > np.int64(dst_part[np.uint64(dst[i])]))",
        f"{PROPERTY}::test_3_where_edges_are",
    ),
    Mutation(
        "4", "hasp/blocks.py", '(role == "sampled") == ("sampled" in touched)', "role in touched",
        f"{PROPERTY}::test_4_nothing_is_lost_and_the_report_is_right",
    ),
    Mutation(
        "4", "hasp/count.py", "((1, 3), (4, 6), (7, None))", "((1, 3), (4, 7), (8, None))",
        f"{PROPERTY}::test_4_nothing_is_lost_and_the_report_is_right",
    ),
    Mutation(
        "5", "hasp/split.py", "links = src != dst if edge_type[0] == edge_type[2] else slice(None)", "links = slice(None)",
        "tests/test_split.py::test_the_graph_of_the_links",
    ),
    Mutation(
        "4", "hasp/kernels/csr.py", "kept += np.uint64(i + 1 == part.size or part[i] != part[i + 1])", "kept += np.uint64(1)",
        "tests/test_split.py::test_the_graph_of_the_links",
    ),
    Mutation(
        "5", "hasp/kernels/fill.py", "bool(load[a] < load[b] or", "bool(load[a] > load[b] or",
        f"{PROPERTY}::test_5_parts_are_as_even_as_the_linked_entities_allow",
    ),
    Mutation(
        "5", "hasp/fill.py", "load = np.bincount(node_part[linked], minlength=num_parts).astype(np.int64)",
        "load = np.zeros(num_parts, dtype=np.int64)", f"{PROPERTY}::test_5_parts_are_as_even_as_the_linked_entities_allow",
    ),
    Mutation(
        "6 (again)", "hasp/fill.py", "order = free[permutation(subkey(seed, 1), free.size)]",
        "order = free[np.random.permutation(free.size)]", f"{BYTES}::test_6_threads_and_repetition",
    ),
    Mutation(
        "6 (threads)", "hasp/config.py", 'for f in fields(self) if f.name != "threads"', "for f in fields(self)",
        f"{BYTES}::test_6_threads_and_repetition",
    ),
    Mutation(
        "6 (machine)", "hasp/build.py", "return replace(config, backend=backend), ", "return config, ",
        "tests/test_auto.py::test_6_free_memory_decides_no_byte",
    ),
    Mutation(
        "6 (blocks)", "hasp/kernels/bucket.py", "        out_other[at] = other[i]\n        e_id[at] = first + i\n",
        "        out_other[at] = other[i]\n        e_id[at] = i\n", f"{BYTES}::test_6_blocks_of_any_size",
    ),
    Mutation(
        "6 (disk)", "hasp/store/read.py", "ordered = {name: tensors[name] for name in names}",
        "ordered = {name: tensors[name] for name in sorted(tensors)}", f"{BYTES}::test_6_memory_and_folder",
    ),
    Mutation(
        "6 (crash)", "hasp/fill.py", "order = free[permutation(subkey(seed, 1), free.size)]",
        "order = free[np.random.permutation(free.size)]", f"{BYTES}::test_6_either_side_of_a_crash",
    ),
    Mutation(
        "6 (files)", "hasp/blocks.py", "last = int(sorted_pair[-1])", "last = -1",
        "tests/test_scratch.py::test_out_of_core_makes_the_same_bytes",
    ),
    Mutation(
        "6 (files)", "hasp/sources/stream.py", "target[first : first + len(values)] = values", "target[: len(values)] = values",
        "tests/sources/test_stream.py::test_blocks_are_the_table",
    ),
    Mutation(
        "7", "hasp/load/merge.py", "return Nodes(n_id, 0, {k: v[:0] for k, v in value.attrs.items()})",
        "return Nodes(n_id, 0, {})",
        f"{LOAD}::test_7_every_batch_is_of_one_kind",
    ),
    Mutation(
        "7", "hasp/load/merge.py", "index, e_id = _cast(edges.edge_index, index_dtype), _cast(edges.e_id, id_dtype)",
        "index, e_id = _cast(edges.edge_index, index_dtype), edges.e_id",
        f"{LOAD}::test_7_every_batch_is_of_one_kind",
    ),
    Mutation(
        "8", "hasp/load/order.py", "[batches[index] for index in sorted(mine)] + [empty] * (places - len(mine))",
        "[batches[index] for index in sorted(mine)]", f"{LOAD}::test_8_ranks_share_an_epoch",
    ),
    Mutation(
        "8", "hasp/load/order.py", "if taker == rank:", "if taker == rank or (rank == 0 and world_size > 3):",
        f"{LOAD}::test_8_ranks_share_an_epoch",
    ),
    Mutation(
        "9", "hasp/load/join.py", "between = [] if cut is None else _cut_ranges(cut, chosen)", "between = []",
        f"{PROPERTY}::test_9_merging_parts",
    ),
    Mutation(
        "9", "hasp/load/merge.py", "n_ids = [_ids(part.nodes[node_type], id_dtype) for part in parts]\n",
        "n_ids = [_ids(part.nodes[node_type], id_dtype).flip(0) for part in parts]\n",
        f"{PROPERTY}::test_9_one_part_is_the_input",
    ),
    Mutation(
        "10", "hasp/graph.py", 'if key not in ("edge_index", "edge_label", "edge_label_index"):',
        'if key not in ("edge_index", "edge_label_index"):',
        f"{LOAD}::test_10_parts_of_the_training_edges_hold_no_other_edge",
    ),
    Mutation(
        "10", "hasp/load/links.py", "~np.isin(self._keys(batch, source, destination), pairs)",
        "~np.isin(source * len(source) + destination, pairs)",
        f"{LOAD}::test_10_disjoint_supervision_is_in_no_message",
    ),
]  # fmt: skip


def problem(mutation: Mutation, root: Path) -> str | None:
    """What is wrong with the list itself: the old text must occur exactly once in its file."""
    found = (root / mutation.file).read_text(encoding="utf-8").count(mutation.old)
    return None if found == 1 else f"{mutation.file} has {found} times {mutation.old!r}; correct the list"


def passes(root: Path, test: str) -> tuple[bool, str]:
    """Does the test pass in the copy? And the first line of what it says.

    In a fork of this process, which has imported the heavy libraries already and nothing of ours.
    """
    said = root / "said.txt"
    child = os.fork()
    if child == 0:
        code = 3
        try:
            with said.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            os.chdir(root)
            sys.path[:0] = [str(root), str(root / "tests")]
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=no-shrinking", test]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = said.read_text(encoding="utf-8")
    if code in (2, 3, 4, 5):  # not a test that failed, nor a crash: one that never ran
        raise SystemExit(f"{test} did not run:\n{text[-3000:]}")
    return code == 0, next((line[1:].strip() for line in text.splitlines() if line.startswith("E ")), "")


def main(words: list[str]) -> int:
    """Try every mutation; the number of surprises."""
    chosen = [m for m in MUTATIONS if not words or any(w in m.row() for w in words)]
    surprises = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("numba", "pymetis", "scipy.sparse", "torch_geometric.transforms"):
            importlib.import_module(name)
    if any(name.split(".")[0] == "hasp" for name in sys.modules):
        raise SystemExit("the copy is what is tested, but hasp is imported already; run this file by itself")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in COPIED:
            source = REPO / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, root / name)  # with its times, so that numba's cache of untouched files stays valid
        for mutation in chosen:
            wrong = problem(mutation, root)
            if wrong:
                raise SystemExit(wrong)
        for test in dict.fromkeys(m.test for m in chosen):
            good, _ = passes(root, test)
            surprises += not good
            print(f"{'passes as it is' if good else 'FAILS AS IT IS':16} {test}", flush=True)
        for mutation in chosen:
            path = root / mutation.file
            keep = path.with_name(path.name + ".keep")
            shutil.copy2(path, keep)
            path.write_text(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")
            good, why = passes(root, mutation.test)
            keep.replace(path)
            surprises += good
            print(f"{'SURVIVED' if good else 'noticed':16} {mutation.row()}\n{'':16} {why[:160]}", flush=True)
    print(f"{len(chosen)} mutations, {surprises} surprises")
    return surprises


if __name__ == "__main__":
    if "--table" in sys.argv:
        print("\n".join(m.row() for m in MUTATIONS))
    else:
        sys.exit(1 if main(sys.argv[1:]) else 0)
