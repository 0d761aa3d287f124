"""The daemon with quick keepalives: for tests of silence that are not to last.

Run as ``python -m tests.impatient`` in place of ``python -m toolserver``.
"""

from __future__ import annotations

import os

import toolserver.wire.http
import toolserver.wire.ws
from toolserver.__main__ import main

HEARTBEAT = "TESTS_HEARTBEAT_SECONDS"
"""Two of them without it: half of that is for an answer."""

if __name__ == "__main__":
    toolserver.wire.ws._HEARTBEAT_SECONDS = float(os.environ.get(HEARTBEAT, "2"))
    toolserver.wire.http._KEEPALIVE_SECONDS = 0.05
    main()
