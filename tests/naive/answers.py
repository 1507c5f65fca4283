"""Which partners of an in-batch softmax are no wrong answers, pair by pair."""


def answers(links, pairs, same_type):
    """A list of rows of bool: ``links`` are pairs ``(a, b)``, ``pairs`` are ``(left, right)``."""
    known = set(links)
    return [
        [i != j and ((a, b) in known or (same_type and a == b)) for j, (_, b) in enumerate(pairs)]
        for i, (a, _) in enumerate(pairs)
    ]
