"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# Machines differ: how long an example takes says nothing about the code. The same examples every time: what
# fails in a check failed because of a change. `--hypothesis-profile=searching` looks for others.
settings.register_profile("workspace-core", deadline=None, derandomize=True)
settings.register_profile("searching", deadline=None)
settings.load_profile("workspace-core")
