"""Ports for programs that listen later: nobody else comes upon them in between.

A port that the kernel chose is free for anybody else as soon as it is let go, and the kernel gives it to the
next who asks for any one: a client's end of a connection, a daemon on port 0, a container's published port.
These are below all that it chooses from, and each worker of a parallel run has some of its own.
"""

from __future__ import annotations

import itertools
import os
import random
import socket

FIRST, EACH, WORKERS = 12_000, 2_000, 10
"""Up to 32 000: Linux chooses from 32 768 on, unless it was told otherwise."""


def of_worker(name: str) -> range:
    """What a worker of pytest-xdist may choose from.

    >>> of_worker("gw0"), of_worker("gw11")
    (range(12000, 14000), range(14000, 16000))
    """
    number = int(name.removeprefix("gw") or 0) if name.startswith("gw") else 0
    first = FIRST + number % WORKERS * EACH
    return range(first, first + EACH)


def mine() -> range:
    """What this worker may choose from; for wishes of a range that no other program comes upon."""
    return of_worker(os.environ.get("PYTEST_XDIST_WORKER", ""))


def _turns() -> itertools.cycle[int]:
    ports = mine()
    # Somewhere in it: programs that a test starts choose too.
    start = random.randrange(len(ports))
    return itertools.cycle([*ports[start:], *ports[:start]])


_TURNS = _turns()


def free_port() -> int:
    """A port that nobody listens on; each is given once, as long as there are others."""
    for port in itertools.islice(_TURNS, EACH):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError(f"no port of this worker's {EACH} is free")
