"""What the tests of the page share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers.browsing import visiting


@pytest.fixture
def open_page(url: str) -> Iterator[Callable[..., Any]]:
    """Opens the page at the module's `url`."""
    with visiting(url) as open_:
        yield open_
