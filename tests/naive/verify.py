"""Marks, as the sentence says it."""


def mark(words, ids):
    """Twin of the kernel of this name."""
    for done, at in enumerate(ids):
        if words[at // 8] & (1 << (at % 8)):
            return done
        words[at // 8] |= 1 << (at % 8)
    return len(ids)
