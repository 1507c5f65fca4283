"""Moves between parts, every gain counted anew."""

from naive.coarsen import row, size


def ties_of(graph, part, v):
    """{part: weight of the edges of ``v`` into it}."""
    out = {}
    for u, w in row(graph, v):
        out[int(part[u])] = out.get(int(part[u]), 0) + w
    return out


def cut(graph, part):
    """Weight of the edges between parts, each edge once."""
    both = sum(w for v in range(len(part)) for u, w in row(graph, v) if part[u] != part[v])
    return both // 2


def loads(graph, part, num_parts):
    """Weight of every part."""
    return [sum(size(graph, v) for v in range(len(part)) if part[v] == p) for p in range(num_parts)]


def propose_moves(graph, part, load, most, active, low, high):
    """Twin of the kernel of this name."""
    out = []
    for v in range(low, high):
        mine, own = int(part[v]), size(graph, v)
        ties = ties_of(graph, part, v)
        choice = [(-ties.get(mine, 0), load[mine], -1, mine)]
        if active[v]:
            choice += [(-t, load[p] + own, p, p) for p, t in ties.items() if p != mine and load[p] + own <= most]
        out.append(min(choice)[3])
    return out


def commit_moves(wanted, first, graph, most, part, load, active):
    """Twin of the kernel of this name: the cut before less the cut after."""
    before = cut(graph, part)
    active[first : first + len(wanted)] = [False] * len(wanted)
    for i, to in enumerate(wanted):
        v = first + i
        mine, own = int(part[v]), size(graph, v)
        if to == mine or load[to] + own > most:
            continue
        ties = ties_of(graph, part, v)
        gain = ties.get(to, 0) - ties.get(mine, 0)
        if gain > 0 or (gain == 0 and load[to] + own < load[mine]):
            part[v] = to
            load[mine] -= own
            load[to] += own
            for u, _ in row(graph, v):
                active[u] = True
    return before - cut(graph, part)


def best_move(graph, part, load, most, v):
    """Twin of the kernel of this name: (gain, part), or None."""
    ties = ties_of(graph, part, v)
    mine = int(part[v])
    options = [(-t, load[p], p) for p, t in ties.items() if p != mine and load[p] + size(graph, v) <= most]
    if not options:
        return None
    t, _, p = min(options)
    return -t - ties.get(mine, 0), p


def search(graph, most, order, patience, look, part, load):
    """Twin of the kernel of this name, without a budget: the best node is looked for among all, every time."""
    before, done = cut(graph, part), set()
    degree = [len(row(graph, v)) for v in range(len(part))]
    for seed in order:
        first = None if seed in done else best_move(graph, part, load, most, seed)
        if first is None:
            continue
        queue, trail, keep, now, best = {int(seed): first[0]}, [], 0, 0, 0
        while queue and len(trail) - keep < patience:
            v = min(queue, key=lambda v, queue=queue: (-queue[v], v))
            move = best_move(graph, part, load, most, v)
            if move is not None and move[0] < queue[v]:
                queue[v] = move[0]
                continue
            del queue[v]
            if move is None:
                continue
            trail.append((v, int(part[v])))
            done.add(v)
            load[part[v]] -= size(graph, v)
            load[move[1]] += size(graph, v)
            part[v] = move[1]
            now += move[0]
            if now > best:
                best, keep = now, len(trail)
            for u, _ in row(graph, v):
                better = best_move(graph, part, load, most, u)
                if u not in done and degree[u] <= look and better is not None:
                    queue[u] = better[0]
        for v, origin in reversed(trail[keep:]):
            load[part[v]] -= size(graph, v)
            load[origin] += size(graph, v)
            part[v] = origin
    return before - cut(graph, part)


def rebalance(graph, most, order, part, load):
    """Twin of the kernel of this name."""
    for v in order:
        own = size(graph, v)
        if load[part[v]] <= most or own == 0:
            continue
        move = best_move(graph, part, load, most, v)
        to = move[1] if move is not None else min(range(len(load)), key=lambda p: (load[p], p))
        if load[to] + own <= most or load[to] + own < load[part[v]]:
            load[part[v]] -= own
            load[to] += own
            part[v] = to
