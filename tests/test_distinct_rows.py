"""Rows: which, each once. (What gathers them is held by the tests of building and of merging.)"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hasp.rows import distinct


@given(st.lists(st.integers(0, 20)))
def test_distinct_keys_ascend(keys):
    assert distinct(np.array(keys, dtype=np.int64)).tolist() == sorted(set(keys))
