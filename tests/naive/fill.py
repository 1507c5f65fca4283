"""Emptiest part first, as the sentence says it."""


def emptiest_first(order, weight, load, part):
    """Twin of the kernel of this name: each entity in turn goes to the part with the least load, the lowest of equals."""
    for entity, w in zip(order, weight, strict=True):
        best = 0
        for p in range(len(load)):
            if load[p] < load[best]:
                best = p
        part[entity] = best
        load[best] += w
