from __future__ import annotations

import numpy as np

from modereg.report.behaviours import sorted_table


def test_the_table_reads_diagonal() -> None:
    """A permutation of the codes of a diagonal table is undone; counts become probabilities."""
    order = [2, 0, 3, 1]
    counts = (np.eye(4, dtype=int) * 10)[order]
    figures = {"code_mode_table": counts.tolist(), "code_shares": [0.25] * 4, "episodes": 80}
    table, codes = sorted_table(figures)
    assert np.array_equal(table, np.eye(4) * 0.5)
    assert [order[code] for code in codes] == [0, 1, 2, 3]
