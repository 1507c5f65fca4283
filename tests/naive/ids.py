"""Ids to positions with a Python dict."""


def fill_slots(ids, slots):
    """Whether each id occurs once; the slots themselves are the kernel's own business."""
    return len(set(ids.tolist())) == len(ids)


def find_slots(values, ids, slots, out):
    """Twin of the kernel of this name."""
    place = {v: i for i, v in enumerate(ids.tolist())}
    out[:] = [place.get(v, -1) for v in values.tolist()]
    return sum(1 for v in values.tolist() if v not in place)
