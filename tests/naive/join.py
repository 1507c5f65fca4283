"""Joining parts, edge by edge."""


def find_groups(pairs, ptr, chosen, out):
    """Twin of the kernel of this name."""
    found = edges = 0
    for g, (a, b) in enumerate(pairs.tolist()):
        if a in chosen and b in chosen:
            out[found] = ptr[g], ptr[g + 1], list(chosen).index(a), list(chosen).index(b)
            edges += ptr[g + 1] - ptr[g]
            found += 1
    return found, edges


def put_groups(groups, src, dst, e_id, src_start, dst_start, out_src, out_dst, out_id):
    """Twin of the kernel of this name."""
    at = 0
    for low, high, a, b in groups.tolist():
        for i in range(low, high):
            out_src[at], out_dst[at], out_id[at] = src[i] + src_start[a], dst[i] + dst_start[b], e_id[i]
            at += 1


def put_among(src, src_add, dst, dst_add, e_id, more_src, more_dst, more_id, first, end, out_src, out_dst, out_id, at, place):
    """Twin of the kernel of this name: all are sorted."""
    edges = [(d + dst_add, e, s + src_add, -1) for s, d, e in zip(src.tolist(), dst.tolist(), e_id.tolist(), strict=True)]
    last = first
    while last < more_dst.size and more_dst[last] < end:
        edges.append((int(more_dst[last]), int(more_id[last]), int(more_src[last]), last))
        last += 1
    for d, e, s, c in sorted(edges):
        out_src[at], out_dst[at], out_id[at] = s, d, e
        if c >= 0:
            place[c] = at
        at += 1
    return at, last


def pack_edges(dst, dst_add, e_id, low, low_add, id_bits, low_bits, out):
    """Twin of the kernel of this name, by arithmetic."""
    for i in range(dst.size):
        out[i] = ((int(dst[i]) + dst_add) * 2**id_bits + int(e_id[i])) * 2**low_bits + int(low[i]) + low_add


def unpack_edges(packed, id_bits, low_bits, out_dst, out_id, out_low):
    """Twin of the kernel of this name, by arithmetic."""
    for i, key in enumerate(packed.tolist()):
        key, out_low[i] = divmod(key, 2**low_bits)
        out_dst[i], out_id[i] = divmod(key, 2**id_bits)


def merge_runs(keys, ptr, spare):
    """Twin of the kernel of this name; here the result is in ``keys``."""
    keys[:] = sorted(keys.tolist())
    return False
