"""Caches by their definitions: least recently used as an ordered dict, and the most hits that any cache can have, by search."""

from collections import OrderedDict
from functools import cache
from itertools import combinations


def lru(batches, capacity, tie):
    """Hits per batch. All rows of a batch are looked up, then all are used, those of the smallest ``tie`` last."""
    held, hits = OrderedDict(), []
    for batch in batches:
        hits.append(sum(key in held for key in batch))
        for key in sorted(batch, key=tie, reverse=True):
            held.pop(key, None)
            held[key] = True
        while len(held) > capacity:
            held.popitem(last=False)
    return hits


def most_hits(batches, capacity):
    """Over every choice of what to hold after every batch."""
    batches = [frozenset(b) for b in batches]

    @cache
    def best(step, held):
        if step == len(batches):
            return 0
        there = sorted(held | batches[step])
        after = combinations(there, min(capacity, len(there)))
        return len(held & batches[step]) + max(best(step + 1, frozenset(c)) for c in after)

    return best(0, frozenset())


def walks(edges, nodes, hops):
    """Walks of ``hops`` edges that end at each node: edges are ((type, id), (type, id)) pairs."""
    count = dict.fromkeys(nodes, 1)
    for _ in range(hops):
        arriving = dict.fromkeys(nodes, 0)
        for source, destination in edges:
            arriving[destination] += count[source]
        count = arriving
    return count
