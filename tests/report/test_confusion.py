from __future__ import annotations

import numpy as np
import pytest

from cake_cli.report.canvas import DARK, png
from cake_cli.report.confusion import confusion, draw_confusion


def test_shows_all_of_few_classes() -> None:
    found = confusion([[8, 2], [0, 5]], ("cat", "dog"))
    assert found is not None
    assert found.is_whole
    assert (found.agreed, found.samples) == (13, 15)
    assert found.pairs == (("cat", "dog", 2),)
    np.testing.assert_allclose(found.shares, [[0.8, 0.2], [0, 1]])


def test_shows_the_most_confused_of_many_classes() -> None:
    counts = np.diag(np.full(60, 10))
    counts[41, 7] = 6
    counts[3, 58] = 4
    found = confusion(counts.tolist(), tuple(map(str, range(60))))
    assert found is not None
    assert len(found.names) == 20
    assert {"41", "7", "3", "58"} <= set(found.names)
    assert found.pairs == (("41", "7", 6), ("3", "58", 4))
    assert found.shares[found.names.index("41"), found.names.index("7")] == pytest.approx(6 / 16)


@pytest.mark.parametrize("matrix", [None, [], [[1]], "x", [[0, 0], [0, 0]], [[1, 2], [3]]])
def test_nothing_where_there_is_no_table(matrix: object) -> None:
    assert confusion(matrix, ("cat", "dog")) is None


def test_draws_names_that_the_font_lacks() -> None:
    found = confusion([[8, 2], [0, 5]], ("日本$x$", "_\n\t"))
    assert found is not None
    assert png(draw_confusion(found, DARK)).startswith(b"\x89PNG")
