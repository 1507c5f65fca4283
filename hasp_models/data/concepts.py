"""The concepts of entities as sparse rows: TF-IDF."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from hasp.graph import Graph

__all__ = ["concept_rows", "unit_rows"]


def concept_rows(graph: Graph, entity: str) -> sp.csr_array:
    """TF-IDF of concepts: float32 unit rows ``[N, concepts of all categories]``, weight ``log(N / entities with it)``.

    Args:
        graph: every edge from the entity type to another node type gives a concept; reverse edges are not read.
        entity: the entity type.
    """
    count, offset = graph.num_nodes[entity], 0
    rows, columns = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for edge_type, (source, destination) in graph.edges.items():
        if edge_type[0] != entity or edge_type[2] == entity:
            continue
        rows.append(source.numpy().astype(np.int64))
        columns.append(destination.numpy().astype(np.int64) + offset)
        offset += graph.num_nodes[edge_type[2]]
    a, b = np.concatenate(rows), np.concatenate(columns)
    table = sp.coo_array((np.ones(a.size, dtype=np.float32), (a, b)), shape=(count, max(offset, 1))).tocsr()
    table.data[:] = 1.0
    often = np.bincount(table.indices, minlength=table.shape[1])
    table.data *= np.log(count / np.maximum(often, 1)).astype(np.float32)[table.indices]
    return unit_rows(table)


def unit_rows(table: sp.csr_array) -> sp.csr_array:
    """Each row over its Euclidean norm; empty rows stay empty."""
    norm = np.sqrt(np.asarray(table.multiply(table).sum(axis=1), dtype=np.float64).ravel())
    scale = 1.0 / np.maximum(norm, 1e-30)
    out = table.copy().tocsr()
    out.data = (out.data * np.repeat(scale, np.diff(out.indptr))).astype(np.float32)
    return out
