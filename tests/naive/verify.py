"""Marks, as the sentence says it."""


def mark(seen, ids):
    """Twin of the kernel of this name."""
    for done, at in enumerate(ids):
        if seen[at]:
            return done
        seen[at] = True
    return len(ids)
