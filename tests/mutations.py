"""The changes that ``mutate.py`` makes: each breaks a promise of the code in one place, and the test beside it notices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
        "5", "hasp/kernels/csr.py", "if s != d:  # a self-loop links nothing", "if True:",
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
        "6 (blocks)", "hasp/kernels/bucket.py", "        out_other[at] = other[i]\n        low_id[at] = first + i\n",
        "        out_other[at] = other[i]\n        low_id[at] = i\n", f"{BYTES}::test_6_blocks_of_any_size",
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
        "9", "hasp/load/join.py", "between, cut_attrs = _between(cut, chosen, ends)",
        "between, cut_attrs = _between(None, chosen, ends)",
        f"{PROPERTY}::test_9_merging_parts",
    ),
    Mutation(
        "9", "hasp/load/merge.py", "n_ids = [_ids(part.nodes[node_type], None) for part in parts]\n",
        "n_ids = [_ids(part.nodes[node_type], None).flip(0) for part in parts]\n",
        f"{PROPERTY}::test_9_one_part_is_the_input",
    ),
    Mutation(
        "10", "hasp/graph.py", 'if key not in ("edge_index", "edge_label", "edge_label_index"):',
        'if key not in ("edge_index", "edge_label_index"):',
        f"{LOAD}::test_10_parts_of_the_training_edges_hold_no_other_edge",
    ),
    Mutation(
        "10", "hasp/kernels/pairs.py", "if keys[at] != -1 and first[at] >= 0:",
        "if keys[at] != -1 and source[i] < destination[i]:",
        "tests/load/test_links.py::test_disjoint_pairs_carry_no_messages",
    ),
    # Beyond the ten rules: what else is promised, under the name of its part of the code.
    Mutation(
        "ring", "hasp/load/ring.py", "self._wait(lambda: head + length - int(self._words[_TAIL]) <= self.capacity, alive)",
        "self._wait(lambda: head + length - int(self._words[_TAIL]) <= 2 * self.capacity, alive)",
        "tests/load/test_ring.py::test_what_goes_in_comes_out",
    ),
    Mutation(
        "ring", "hasp/load/ring_loader.py", "worker = self._coming.popleft()", "worker = self._coming.pop()",
        "tests/load/test_ring_loader.py::test_the_same_batches_as_without_workers",
    ),
    Mutation(
        "ring", "hasp/load/ring_loader.py", "frame.clone() if self._copy else frame", "frame",
        "tests/load/test_ring_loader.py::test_tensors_are_one_s_own_unless_told_otherwise",
    ),
    Mutation(
        "ring", "hasp/load/ring_loader.py", "if turn == self._turn:", "if True:",
        "tests/load/test_ring_loader.py::test_state_and_a_break",
    ),
    Mutation(
        "frames", "hasp/load/frames.py", "at += -(-value.numel() * value.element_size() // _ALIGN) * _ALIGN",
        "at += value.numel() * value.element_size() // _ALIGN * _ALIGN", "tests/load/test_frames.py::test_a_frame_is_the_batch",
    ),
    Mutation(
        "frames", "hasp/load/frames.py", "return [_checked(v, name) for v in value]", "return list(value)",
        "tests/load/test_frames.py::test_a_frame_is_the_batch",
    ),
    Mutation(
        "halo", "hasp/load/crossing.py", "groups = np.sort(groups[~np.isin(pairs[groups, 0], chosen)])",
        "groups = np.sort(groups)",
        "tests/load/test_halo.py::test_an_epoch_has_every_edge_between_entities_once",
    ),
    Mutation(
        "halo", "hasp/load/halo.py", "return np.lexsort((n_id, owner))", "return np.arange(n_id.size)",
        "tests/load/test_halo.py::test_owned_rows_and_supervision_stay_what_they_are",
    ),
    Mutation(
        "halo", "hasp/load/halo.py", "value = torch.zeros_like(value)", "value = value.clone()",
        "tests/load/test_halo.py::test_masks_say_who_supervises",
    ),
    Mutation(
        "halo", "hasp/halo_plan.py", "cut = np.flatnonzero(near != far)", "cut = np.flatnonzero(near < far)",
        "tests/test_halo_plan.py::test_what_is_planned_is_what_is_loaded",
    ),
    Mutation(
        "halo", "hasp/halo_plan.py", "stored = attrs + np.dtype(numpy_ids(total)).itemsize", "stored = attrs + 8",
        "tests/test_halo_plan.py::test_what_is_planned_is_what_is_loaded",
    ),
    Mutation(
        "cache", "hasp/load/cache.py", "old[at[hit]] = False", "old[at[hit]] = True",
        "tests/load/test_cache.py::test_a_cached_halo_is_the_halo",
    ),
    Mutation(
        "cache", "hasp/load/policies.py", "return -ask.next_use().astype(np.float64)",
        "return ask.next_use().astype(np.float64)",
        "tests/load/test_cache.py::test_the_clairvoyant_is_the_optimum",
    ),
    Mutation(
        "verify", "hasp/marks.py", "np.bitwise_and.at(self._words, word[:fresh], ~bit[:fresh])", "pass",
        "tests/test_verify_threads.py::test_marks",
    ),
    Mutation(
        "verify", "hasp/cluster/executor.py", "waiting.append(self._pool", "waiting.appendleft(self._pool",
        "tests/test_verify_threads.py::test_several_damages_are_told_in_order_at_any_number_of_threads",
    ),
    Mutation(
        "cluster", "hasp/cluster/executor.py", "waiting.append(self._pool", "waiting.appendleft(self._pool",
        "tests/cluster/test_spread.py::test_every_kind_of_column_and_of_ids",
    ),
    Mutation(
        "cluster", "hasp/cluster/tasks.py", " + numpy_ids(job.num_edges)(chunk.first)", "",
        "tests/cluster/test_spread.py::test_every_kind_of_column_and_of_ids",
    ),
    Mutation(
        "cluster", "hasp/cluster/spread.py", "at = found.e_id.numpy()", "at = np.sort(found.e_id.numpy())",
        "tests/cluster/test_spread.py::test_every_kind_of_column_and_of_ids",
    ),
    Mutation(
        "cluster", "hasp/cluster/pieces.py", "if _digest(ends, rows) == window.digest:", "if True:",
        "tests/cluster/test_pieces.py::test_a_flipped_byte_of_a_window_is_told",
    ),
    Mutation(
        "cluster", "hasp/store/offer.py", "(is_data(match[1]) or match[1] == _PIECE)", "is_data(match[1])",
        "tests/cluster/test_pieces.py::test_a_build_over_damaged_pieces_stops_and_the_next_one_sweeps",
    ),
    Mutation(
        "cluster (Ray)", "hasp/cluster/on_ray.py", "preserve_order = True", "preserve_order = False",
        "tests/cluster/test_ray_build.py::test_results_come_in_order_and_as_they_are",
    ),
    Mutation(
        "METIS", "hasp/backends/metis.py", "if after == after_again and np.array_equal(labels, again)",
        "if np.array_equal(labels, again)", "tests/test_metis_alone.py::test_a_difference_between_two_cuts_is_noticed",
    ),
    Mutation(
        "METIS", "hasp/backends/metis.py", "in_child if task.indices.size >= ALONE else _twice", "lambda t: _here(t)[:2]",
        "tests/test_metis_alone.py::test_a_thread_that_draws_changes_no_label",
    ),
    Mutation(
        "map-reduce", "hasp_models/part_layers.py", "kept, added = (old - new).exp(), (mass - new).exp()",
        "kept, added = old.exp(), mass.exp()", "tests/models/test_mapreduce.py::test_pieces_of_a_softmax",
    ),
    Mutation(
        "map-reduce", "hasp_models/part_layers.py", "for (edge_type, other), (source, destination) in far.items():",
        "for (edge_type, other), (source, destination) in list(far.items())[1:]:",
        "tests/models/test_mapreduce.py::test_equal_to_the_whole_graph",
    ),
    Mutation(
        "map-reduce", "hasp_models/part_layers.py", "in _groups(store.cut.edges[edge_type], part.part_id, 1):",
        "in _groups(store.cut.edges[edge_type], part.part_id, 0):",
        "tests/models/test_embed_by_parts.py::test_tiers_of_parts_are_those_of_the_graph",
    ),
    Mutation(
        "map-reduce", "hasp_models/mapreduce.py", "if found.get(k) != v and k != \"library\"]", "if False]",
        "tests/models/test_mapreduce.py::test_refusals",
    ),
    Mutation(
        "map-reduce", "hasp_models/embed_by_parts.py", "for end in (0, 1):", "for end in (1,):",
        "tests/models/test_embed_by_parts.py::test_degrees_by_parts",
    ),
    Mutation(
        "importance", "hasp_models/importance.py", "subkey(walks.seed, word(\"walks\"))", "subkey(0, word(\"walks\"))",
        "tests/models/test_pinsage.py::test_the_kernel_equals_its_twin",
    ),
    Mutation(
        "triton", "hasp_models/kernels/attention_triton.py", "total = total * shrink + tl.sum(p, 0)",
        "total = total + tl.sum(p, 0)",
        "tests/models/test_triton.py::test_float32_equals_the_cpu_kernel_at_any_width_and_keys_of_another",
    ),
    Mutation(
        "triton", "hasp_models/kernels/triton_csr.py", "weight = total[cut.slot] * (top[cut.slot] - highest[at]).exp()",
        "weight = total[cut.slot]",
        "tests/models/test_triton.py::test_forward_and_every_gradient_equal_the_loops",
    ),
    Mutation(
        "importance", "hasp_models/importance.py", "proper = a != b", "proper = a == a",
        "tests/models/test_pinsage.py::test_links_are_undirected_and_counted_once",
    ),
    Mutation(
        "margin", "hasp_models/margin.py", "return min(epoch // self.every, self.hard)", "return self.hard",
        "tests/models/test_pinsage.py::test_the_curriculum_adds_one_hard_negative_per_epoch",
    ),
    Mutation(
        "margin", "hasp_models/margin.py", "return (links[at] == wanted) | (a == b)", "return links[at] == wanted",
        "tests/models/test_pinsage.py::test_the_loss_by_loops",
    ),
    Mutation(
        "margin", "hasp_models/margin.py", "& (rank < np.ceil(self.band[1] * reached))", "",
        "tests/models/test_pinsage.py::test_the_curriculum_adds_one_hard_negative_per_epoch",
    ),
    Mutation(
        "targets", "hasp_models/exact.py", " | (np.diff(self.links.indptr) > 0)", "",
        "tests/models/test_exact.py::test_the_formula",
    ),
    Mutation(
        "targets", "hasp_models/target_softmax.py", ".mul_(mass).sub_(q)", ".sub_(q)",
        "tests/models/test_target_softmax.py::test_the_formula_and_its_gradient",
    ),
    Mutation(
        "targets", "hasp_models/neighbor_softmax.py", "torch.where(total[start:stop] > 0, self.trust, 1.0)",
        "torch.full_like(total[start:stop], self.trust)",
        "tests/models/test_neighbor_softmax.py::test_the_formula_with_exact_similarities",
    ),
    Mutation(
        "schedule", "hasp_models/train.py", "run.step, epochs * loader.steps_per_epoch", "run.step, loader.steps_per_epoch",
        "tests/models/test_train.py::test_a_cosine_of_lr_depends_on_the_step_alone",
    ),
]  # fmt: skip


def problem(mutation: Mutation, root: Path) -> str | None:
    """What is wrong with the list itself: the old text must occur exactly once in its file."""
    found = (root / mutation.file).read_text(encoding="utf-8").count(mutation.old)
    return None if found == 1 else f"{mutation.file} has {found} times {mutation.old!r}; correct the list"
