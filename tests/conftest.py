"""What all tests share: the time limit of slow ones."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests marked `slow(seconds)` that many seconds instead of the usual limit."""
    for item in items:
        slow = item.get_closest_marker("slow")
        if slow is not None:
            item.add_marker(pytest.mark.timeout(slow.args[0]))
