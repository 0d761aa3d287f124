"""Takes ripgrep's place, and tries all that a search is not for; one word for each, as its complaint."""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.toolserver.system.attacks import own_a_pipe, signals, tried

FILE = Path("mine.txt")


def attempts() -> Iterator[tuple[str, Callable[[], object]]]:
    yield "read a file", FILE.read_bytes
    yield "write a file", functools.partial(FILE.write_text, "x")
    yield "cut a file", functools.partial(os.truncate, FILE, 0)
    yield "remove a file", FILE.unlink
    yield "move a file", functools.partial(FILE.rename, "theirs.txt")
    yield "link a file", functools.partial(os.link, FILE, "linked.txt")
    yield "make a file", Path("new.txt").touch
    yield "make a directory", Path("new").mkdir
    yield "make a fifo", functools.partial(os.mkfifo, "fifo")
    for family in ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"):
        kind = socket.SOCK_RAW if family == "AF_NETLINK" else socket.SOCK_DGRAM
        yield f"a socket, {family}", functools.partial(socket.socket, getattr(socket, family), kind)
    daemon = os.getppid()
    tasks = sorted(int(each.name) for each in Path(f"/proc/{daemon}/task").iterdir())
    yield "own a pipe", functools.partial(own_a_pipe, daemon)
    for thread in tasks:
        yield from signals(daemon, thread)
    children = (Path(f"/proc/{daemon}/task/{each}/children").read_text().split() for each in tasks)
    for other in {int(pid) for each in children for pid in each} - {os.getpid()}:
        yield "signal a command", functools.partial(os.kill, other, 0)


def main() -> int:
    found: dict[str, str] = {}
    for what, act in attempts():
        outcome = tried(act)
        if found.get(what, "refused") == "refused":
            found[what] = outcome
    print(json.dumps(found), file=sys.stderr)
    return 2
