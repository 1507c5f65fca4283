"""Ids to positions with a Python dict."""

import itertools

import numpy as np


def fill_slots(ids, slots):
    """Whether each id occurs once; the slots themselves are the kernel's own business."""
    return len(set(ids.tolist())) == len(ids)


def find_slots(values, ids, slots, out):
    """Twin of the kernel of this name."""
    place = {v: i for i, v in enumerate(ids.tolist())}
    out[:] = [place.get(v, -1) for v in values.tolist()]
    return sum(1 for v in values.tolist() if v not in place)


def texts(data, ptr):
    """The texts of bytes and offsets, without NULs at their ends."""
    return [data[a:b].tobytes().rstrip(b"\0") for a, b in itertools.pairwise(ptr)]


def find_text(values, value_ptr, data, ptr, slots, out):
    """Twin of the kernel of this name."""
    place = {v: i for i, v in enumerate(texts(data, ptr))}
    out[:] = [place.get(v, -1) for v in texts(values, value_ptr)]
    return int(np.count_nonzero(out < 0))
