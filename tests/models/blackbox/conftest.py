"""A server that behaves, to begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.models.blackbox.serving import Served, serving


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as server:
        yield server
