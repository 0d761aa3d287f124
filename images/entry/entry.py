#!/tools/venv/bin/python -I
"""The image's first program after init: completes what the container was told, then becomes the daemon.

Two things only a container's start can know: whether anybody chose a token, and which places can be written
under ``--read-only``, a volume or a foreign ``--user``. What is set already is left alone. It all happens in
the daemon's own process and memory: no shell, no file, nothing that a command could read later.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence

STATE_PARENTS = ("/var/lib/workspace", "/run", "/tmp", "/dev/shm")
"""Where the daemon's own area may lie, best first: the container's own layer, which /app shares unless it is
a mount; then what a read-only container usually gets as tmpfs; then what every container has."""

TOKEN_VARIABLES = ("TOOL_SERVER_TOKEN", "TOOL_SERVER_TOKEN_SHA256", "TOOL_SERVER_PUBLIC_KEY")
TOKEN_FLAGS = ("--token", "--token-sha256", "--public-key")
TELLS_ONLY = frozenset(("-h", "--help", "--version"))


def lacking(
    environ: Mapping[str, str],
    argv: Sequence[str],
    writable: Callable[[str], bool],
    fresh_token: Callable[[], str],
) -> dict[str, str]:
    """The variables that are missing, with their values.

    >>> lacking({"TOOL_SERVER_TOKEN": "chosen"}, [], lambda place: place == "/tmp", lambda: "fresh")
    {'TOOL_SERVER_STATE_DIR': '/tmp/.workspace'}
    >>> lacking({"TOOL_SERVER_STATE_DIR": "/mine"}, [], lambda place: True, lambda: "fresh")
    {'TOOL_SERVER_TOKEN': 'fresh'}
    >>> lacking({}, ["--state-dir=/mine", "--token", "chosen"], lambda place: True, lambda: "fresh")
    {}
    >>> lacking({"TOOL_SERVER_TOKEN_SHA256": "9f"}, ["--state-dir=/mine"], lambda _: True, lambda: "fresh")
    {}
    >>> lacking({"TOOL_SERVER_PUBLIC_KEY": "key"}, ["--state-dir=/mine"], lambda _: True, lambda: "fresh")
    {}
    """
    given = {argument.partition("=")[0] for argument in argv}
    found = {}
    if not environ.get("TOOL_SERVER_STATE_DIR") and "--state-dir" not in given:
        parent = next(filter(writable, STATE_PARENTS), STATE_PARENTS[0])
        found["TOOL_SERVER_STATE_DIR"] = f"{parent}/.workspace"
    chosen = any(map(environ.get, TOKEN_VARIABLES)) or not given.isdisjoint(TOKEN_FLAGS)
    if not chosen:
        found["TOOL_SERVER_TOKEN"] = fresh_token()
    return found


def is_writable(place: str) -> bool:
    """Whether this user may make something in that directory, and the file system lets it."""
    return os.access(place, os.W_OK | os.X_OK)


def main() -> None:
    """Complete the environment and run the daemon in this process."""
    argv = sys.argv[1:]
    if not TELLS_ONLY.intersection(argv):
        os.umask(0o022)
        missing = lacking(os.environ, argv, is_writable, lambda: secrets.token_urlsafe(24))
        os.environ.update(missing)
        if token := missing.get("TOOL_SERVER_TOKEN"):
            # Once, on stdout, for whoever started the container; the log never has it.
            print(f"token: {token}", flush=True)
    from toolserver.__main__ import main as serve

    serve(argv)


if __name__ == "__main__":
    main()
