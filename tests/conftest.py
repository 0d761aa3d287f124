"""What all tests share."""

from __future__ import annotations

import gc

import pytest
from hypothesis import settings

# Machines differ: how long an example takes says nothing about the code. The same examples every time: what
# fails in a check failed because of a change. `--hypothesis-profile=searching` looks for others.
settings.register_profile("workspace-core", deadline=None, derandomize=True)
settings.register_profile("searching", deadline=None)
settings.load_profile("workspace-core")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Journeys first, the rest in the order of their files.

    A journey takes a minute alone: begun last, it has one process wait for another. Small files end best.
    """
    items.sort(key=lambda item: item.get_closest_marker("journey") is None)


def pytest_collection_finish() -> None:
    """Keep all that was collected out of the searches for garbage: it stays to the end."""
    gc.collect()
    gc.freeze()
