"""Rows of a CSR cut into segments, row by row (see ``hasp_models.relation_csr.Rows``)."""


def cut_rows(indptr, most):
    """``(seg_ptr, seg_row, seg_out, split_row, split_ptr, slot_seg, empty)`` as lists."""
    n = len(indptr) - 1
    seg_ptr, seg_row, seg_out, split_row, split_ptr, slot_seg, empty = [0], [], [], [], [0], [], []
    for row in range(n):
        ends = list(range(indptr[row] + most, indptr[row + 1], most))
        ends += [indptr[row + 1]] if indptr[row + 1] > indptr[row] else []
        if not ends:
            empty.append(row)
        for end in ends:
            if len(ends) > 1:
                slot_seg.append(len(seg_row))
            seg_out.append(n + len(slot_seg) - 1 if len(ends) > 1 else row)
            seg_row.append(row)
            seg_ptr.append(end)
        if len(ends) > 1:
            split_row.append(row)
            split_ptr.append(len(slot_seg))
    return seg_ptr, seg_row, seg_out, split_row, split_ptr, slot_seg, empty
