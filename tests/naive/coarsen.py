"""Clusters and contraction, with dictionaries."""

LOOK = 4096


def rank(number, salt):
    """Twin of the kernel of this name."""
    return ((int(number) * 2654435769) % 2**32) ^ int(salt)


def row(graph, v, guide=()):
    """[(neighbour, edge weight)] of a node, those of another guide left out."""
    indptr, indices, edge_weight, _ = graph
    entries = range(int(indptr[v]), int(indptr[v + 1]))
    pairs = [(int(indices[e]), int(edge_weight[e]) if len(edge_weight) else 1) for e in entries]
    return [(u, w) for u, w in pairs[:LOOK] if not len(guide) or guide[u] == guide[v]]


def size(graph, v):
    """Weight of a node."""
    return int(graph[3][v]) if len(graph[3]) else 1


def propose_neighbours(graph, guide, cluster, weight, most, salt, low, high):
    """Twin of the kernel of this name; returns the wanted clusters."""
    now = list(cluster)
    for v in range(low, high):
        pairs = row(graph, v, guide)
        if pairs:
            u = min(pairs, key=lambda p: (-p[1], rank(p[0], salt)))[0]
            c = now[u] if u < v else cluster[u]
            if weight[c] + size(graph, v) <= most:
                now[v] = c
    return [int(c) for c in now[low:high]]


def propose_clusters(graph, guide, cluster, weight, most, salt, active, low, high):
    """Twin of the kernel of this name; returns the wanted clusters."""
    now = list(cluster)
    for v in range(low, high):
        if active[v]:
            mass = {}
            for u, w in row(graph, v, guide):
                c = int(now[u])
                mass[c] = mass.get(c, 0) + w
            open_ = [c for c in mass if c == cluster[v] or weight[c] + size(graph, v) <= most]
            if open_:
                now[v] = min(open_, key=lambda c, mass=mass: (-mass[c], rank(c, salt)))
    return [int(c) for c in now[low:high]]


def commit_clusters(wanted, first, graph, most, pin, cluster, weight, active):
    """Twin of the kernel of this name."""
    moved = 0
    if not pin:
        active[first : first + len(wanted)] = [False] * len(wanted)
    for i, c in enumerate(wanted):
        v = first + i
        mine, own = cluster[v], size(graph, v)
        leads = pin and mine == v and weight[mine] > own
        if c != mine and weight[c] + own <= most and not leads:
            weight[mine] -= own
            weight[c] += own
            cluster[v] = c
            moved += 1
            if not pin:
                for u, _ in row(graph, v):
                    active[u] = True
    return moved


def favourites(graph, guide, cluster, weight, salt, low, high):
    """Twin of the kernel of this name."""
    out = []
    for v in range(low, high):
        pairs = [(w, int(cluster[u])) for u, w in row(graph, v, guide) if cluster[u] != cluster[v]]
        alone = weight[cluster[v]] == size(graph, v)
        out.append(min(pairs, key=lambda p: (-p[0], rank(p[1], salt)))[1] if alone and pairs else -1)
    return out


def join_pairs(favourite, graph, most, cluster, weight):
    """Twin of the kernel of this name."""
    opened, joined = {}, 0
    for v, f in enumerate(favourite):
        own = size(graph, v)
        if f < 0 or weight[cluster[v]] != own:
            continue
        c = opened.get(f)
        if c is not None and weight[c] + own <= most:
            weight[cluster[v]] -= own
            weight[c] += own
            cluster[v] = c
            joined += 1
        else:
            opened[f] = cluster[v]
    return joined


def contract(graph, cluster, count):
    """[{neighbouring cluster: weight}] of every cluster."""
    out = [{} for _ in range(count)]
    for v in range(len(graph[0]) - 1):
        for u, w in row(graph, v):
            if cluster[u] != cluster[v]:
                mine = out[cluster[v]]
                mine[int(cluster[u])] = mine.get(int(cluster[u]), 0) + w
    return out


def sparsify(graph, tau, salt):
    """[(node, neighbour, weight)] that is kept."""
    out, n = [], len(graph[0]) - 1
    for v in range(n):
        for u, w in row(graph, v):
            z = (min(u, v) * n + max(u, v)) * 0x9E3779B97F4A7C15 + int(salt)
            z %= 2**64
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
            z ^= z >> 31
            if w >= tau or (z >> 32) * tau < w * 2**32:
                out.append((v, u, max(w, tau)))
    return out
