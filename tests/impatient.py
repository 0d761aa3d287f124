"""The daemon with quick keepalives: for tests of silence that are not to last.

Run as ``python -m tests.impatient`` in place of ``python -m toolserver``.
"""

from __future__ import annotations

import toolserver.wire.http
import toolserver.wire.ws
from toolserver.__main__ import main

if __name__ == "__main__":
    # A second for an answer: a client on a busy machine is not to be taken for one that is gone.
    toolserver.wire.ws._HEARTBEAT_SECONDS = 2.0
    toolserver.wire.http._KEEPALIVE_SECONDS = 0.05
    main()
