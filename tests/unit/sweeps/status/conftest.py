from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from status_lab import Lab


@pytest.fixture
def sweep(plan: Callable[..., Any]) -> Iterator[Lab]:
    made = plan()
    found = Lab(made.path.parent, made.entries)
    yield found
    for attempt in found.held:
        attempt.close()
