"""Random walks with restart as one writes them down: rows of neighbours, a dictionary of counts, whole numbers of any size."""

from .rng import hash_id


def most_visited(rows, weights, ids, start, counted, key, walks, length, restart, top):
    """``[(node, visits)]`` of one start, most visited first.

    ``rows[v]`` are the neighbours of a node, ``weights[v]`` their weights or None; the rest as in ``count_visits``.
    """
    own, visits = hash_id(key, ids[start]), {}
    for walk in range(walks):
        at = start
        for step in range(length):
            if not rows[at]:
                break
            bits = hash_id(own, walk * length + step)
            chance, end = bits % 2**32, bits // 2**32
            if weights is None:
                at = rows[at][chance * len(rows[at]) // 2**32]
            else:
                aim, total = (chance + 0.5) / 2**32 * sum_up(weights[at])[-1], sum_up(weights[at])
                at = rows[at][min(sum(t <= aim for t in total), len(total) - 1)]
            if at != start and at < counted:
                visits[at] = visits.get(at, 0) + 1
            if end < int(restart * 2**32):
                break
    return sorted(visits.items(), key=lambda item: (-item[1], hash_id(own, ids[item[0]]) >> 52, item[0]))[:top]


def sum_up(values):
    """Running sums."""
    out, total = [], 0.0
    for value in values:
        total += value
        out.append(total)
    return out
