"""Fennel's rule, as its sentence says it."""

import math

from naive.coarsen import row, size


def stream_pass(graph, fixed, alpha, most, part, load):
    """Twin of the kernel of this name: every part is looked at."""
    moved = 0
    for v in range(len(part)):
        if len(fixed) and fixed[v]:
            continue
        mine, own = int(part[v]), size(graph, v)
        if mine >= 0:
            load[mine] -= own
        ties = {}
        for u, w in row(graph, v):
            if u != v and part[u] >= 0:
                ties[int(part[u])] = ties.get(int(part[u]), 0) + w
        lightest = min(range(len(load)), key=lambda p: (load[p], p))
        score = {p: ties.get(p, 0) - 1.5 * alpha * math.sqrt(load[p]) for p in range(len(load)) if load[p] + own <= most}
        stay = mine if mine >= 0 else lightest
        to = min(score, key=lambda p, score=score: (-score[p], load[p], p)) if score else stay
        moved += to != mine
        part[v] = to
        load[to] += own
    return moved
