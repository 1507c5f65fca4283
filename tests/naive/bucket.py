"""Bucketing: which edges go where, one edge at a time."""


def count_both(src, dst, src_part, dst_part, num_parts, counts, bucket):
    """Twin of the kernel of this name."""
    for i, (s, d) in enumerate(zip(src, dst, strict=True)):
        bucket[i] = int(src_part[s]) if src_part[s] == dst_part[d] else num_parts
        counts[bucket[i]] += 1


def place_both(src, dst, bucket, src_local, dst_local, first, cursor, out_src, out_dst, low_id):
    """Twin of the kernel of this name."""
    for i, (s, d, b) in enumerate(zip(src, dst, bucket, strict=True)):
        at = cursor[b]
        out_src[at], out_dst[at], low_id[at] = src_local[s], dst_local[d], (first + i) % 2**16
        cursor[b] += 1


def count_one(end, part, counts, bucket):
    """Twin of the kernel of this name."""
    for i, v in enumerate(end):
        bucket[i] = int(part[v])
        counts[bucket[i]] += 1


def place_one(end, other, bucket, local, first, cursor, out_end, out_other, low_id):
    """Twin of the kernel of this name."""
    for i, (v, w, b) in enumerate(zip(end, other, bucket, strict=True)):
        at = cursor[b]
        out_end[at], out_other[at], low_id[at] = local[v], w, (first + i) % 2**16
        cursor[b] += 1


def where(bucket, cursor, out):
    """Twin of the kernel of this name."""
    for i, b in enumerate(bucket):
        out[i] = cursor[b]
        cursor[b] += 1


def whole_ids(low, counts, size, out):
    """Twin of the kernel of this name."""
    slices = [s for s, count in enumerate(counts) for _ in range(count)]
    out[:] = [next(i for i in range(s * size, (s + 1) * size) if i % 2**16 == b) for s, b in zip(slices, low, strict=True)]


def sort_rows(key, other, e_id, num_keys, out_key, out_other, out_id):
    """Twin of the kernel of this name."""
    order = sorted(range(len(key)), key=lambda i: (key[i], i))
    for at, i in enumerate(order):
        out_key[at], out_other[at], out_id[at] = key[i], other[i], e_id[i]


def sort_bucket(key, other, low, counts, size, start, out_key, out_other, out_id):
    """Twin of the kernel of this name."""
    e_id = [0] * len(key)
    whole_ids(low, counts, size, e_id)
    sort_rows(key, other, e_id, len(start) - 1, out_key, out_other, out_id)


def pack_rows(key, bits, out):
    """Twin of the kernel of this name."""
    out[:] = [int(k) * 2**bits + i for i, k in enumerate(key)]


def unpack_rows(packed, bits, other, e_id, out_key, out_other, out_id):
    """Twin of the kernel of this name."""
    for at, value in enumerate(packed):
        key, i = divmod(int(value), 2**bits)
        out_key[at], out_other[at], out_id[at] = key, other[i], e_id[i]


def order_by(key, order, num_keys, out):
    """Twin of the kernel of this name."""
    rank = sorted(range(len(order)), key=lambda i: (key[order[i]], i))
    for at, i in enumerate(rank):
        out[at] = order[i]


def cut_order(pair, dst):
    """Positions of cut edges by (pair, destination, position)."""
    return sorted(range(len(dst)), key=lambda i: (pair[i], dst[i], i))


def part_of_edge(edge_type, source, destination, node_part):
    """The part that owns an edge; ``"cut"`` between two parts; ``None`` without an entity end.

    ``node_part``: entity type -> list of parts.
    """
    ends = [(edge_type[0], source), (edge_type[2], destination)]
    parts = {node_part[t][i] for t, i in ends if t in node_part}
    if not parts:
        return None
    return parts.pop() if len(parts) == 1 else "cut"
