"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# Machines differ: how long an example takes says nothing about the code.
settings.register_profile("workspace-core", deadline=None)
settings.load_profile("workspace-core")
