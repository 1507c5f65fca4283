"""What the tests of the benches ask of their tables."""

import numpy as np


def numbers(table, column):
    """The values of a column, of which there are some, all above zero."""
    values = [row[column] for row in table.rows if row.get(column) is not None]
    assert values and all(np.isfinite(v) and v > 0 for v in values), column
    return values
