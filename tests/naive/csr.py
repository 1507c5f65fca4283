"""The symmetric, coalesced graph of the EELs, by sets."""

import itertools

import numpy as np


def symmetric(pairs, num_rows):
    """(indptr, indices) of the undirected graph of ``pairs``, without repeats and self-loops, rows ascending."""
    neighbours = [set() for _ in range(num_rows)]
    for u, v in pairs:
        if u != v:
            neighbours[u].add(v)
            neighbours[v].add(u)
    indptr, indices = [0], []
    for row in neighbours:
        indices += sorted(row)
        indptr.append(len(indices))
    return indptr, indices


def weights(pairs, values):
    """{(u, v): summed weight of all edges between u and v, either direction}, both orders of every pair."""
    out = {}
    for (u, v), value in zip(pairs, values, strict=True):
        if u != v:
            out[u, v] = out.get((u, v), 0.0) + value
            out[v, u] = out[u, v]
    return out


def mark_linked(src, dst, src_first, dst_first, mark):
    for s, d in zip(src.tolist(), dst.tolist(), strict=True):
        if s + src_first != d + dst_first:
            mark[s + src_first] = mark[d + dst_first] = True


def rank_words(mark, words):
    """Twin of the kernel of this name."""
    for w in range(len(words) // 2):
        words[2 * w] = sum(2**i for i, m in enumerate(mark[64 * w : 64 * w + 64]) if m)
        words[2 * w + 1] = sum(int(m) for m in mark[: 64 * w])
    return sum(int(m) for m in mark)


def scatter_entries(
    src, dst, src_first, dst_first, words, row_bits, col_bits, chunk, cursor, keys, owner, weight, scale, values
):
    """Twin of the kernel of this name."""
    marked = [64 * w + i for w in range(len(words) // 2) for i in range(64) if int(words[2 * w]) >> i & 1]
    for i, (s, d) in enumerate(zip(src, dst, strict=True)):
        u, v = int(s) + src_first, int(d) + dst_first
        if u != v:
            for row, col in ((marked.index(u), marked.index(v)), (marked.index(v), marked.index(u))):
                bucket = row // 2**row_bits
                at = int(cursor[bucket])
                if at % chunk == 0:
                    at = int(cursor[-1]) * chunk
                    owner[cursor[-1]] = bucket
                    cursor[-1] += 1
                cursor[bucket] = at + 1
                keys[at] = row % 2**row_bits * 2**col_bits + col
                if len(weight):
                    values[at] = weight[i] / scale


def gather_entries(keys, chunks, filled, chunk, out):
    """Twin of the kernel of this name."""
    found = [keys[c * chunk + i] for c in chunks for i in range(filled[c])]
    out[: len(found)] = found


def count_distinct(keys, bounds):
    """Twin of the kernel of this name."""
    return sum(len({int(k) for k in keys[low:high]}) for low, high in itertools.pairwise(bounds))


def write_rows(keys, bounds, row_bits, col_bits, first, indices, ends):
    """Twin of the kernel of this name."""
    rows = [set() for _ in ends]
    for k, (low, high) in enumerate(itertools.pairwise(bounds)):
        for key in keys[low:high]:
            rows[k * 2**row_bits + int(key) // 2**col_bits].add(int(key) % 2**col_bits)
    columns = [col for row in rows for col in sorted(row)]
    indices[: len(columns)] = columns
    ends[:] = first + np.cumsum([len(row) for row in rows], dtype=np.int64)


def sum_repeats(keys, values, bounds, out):
    """Twin of the kernel of this name."""
    sums = {}
    for k, (low, high) in enumerate(itertools.pairwise(bounds)):
        for key, value in zip(keys[low:high], values[low:high], strict=True):
            sums[k, int(key)] = sums.get((k, int(key)), 0.0) + value
    out[: len(sums)] = list(sums.values())
