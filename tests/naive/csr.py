"""The symmetric, coalesced graph of the EELs, by sets."""


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


def count_entries(src, dst, src_new, dst_new, shift, counts):
    """Twin of the kernel of this name."""
    for s, d in zip(src, dst, strict=True):
        u, v = int(src_new[s]), int(dst_new[d])
        if u != v:
            counts[u // 2**shift] += 1
            counts[v // 2**shift] += 1


def place_entries(src, dst, src_new, dst_new, shift, cursor, row, col):
    """Twin of the kernel of this name."""
    for s, d in zip(src, dst, strict=True):
        u, v = int(src_new[s]), int(dst_new[d])
        if u != v:
            for a, b in ((u, v), (v, u)):
                at = cursor[a // 2**shift]
                row[at], col[at] = a, b
                cursor[a // 2**shift] += 1


def sort_bucket(row, col, first_row, num_rows, out, degree):
    """Twin of the kernel of this name."""
    at = 0
    for r in range(num_rows):
        distinct = sorted({int(c) for q, c in zip(row, col, strict=True) if q == first_row + r})
        degree[r] = len(distinct)
        for value in distinct:
            out[at] = value
            at += 1


def copy_rows(packed, out):
    """Twin of the kernel of this name."""
    for i in range(len(out)):
        out[i] = packed[i]
