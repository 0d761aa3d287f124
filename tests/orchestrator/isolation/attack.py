"""Everything that a tenant's command tries on another's: ``python attack.py COORDINATES OWN_PORT``.

Prints, as JSON, for each attempt whether it got through: nothing was raised, and what it wanted was there.
The same program, run where nothing is isolated, has to get through everywhere, so that a slip in here does
not look like protection.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

SECRET = "the other's secret"
WAIT_SECONDS = 30.0
"""For what is let through on a busy machine; what is not is refused at once."""
SILENCE_SECONDS = 5.0
"""For an answer where nothing is refused, and what is not let through is lost."""
_SEIZE = 0x4206
_MULTIPATH, _SEND_BY_OPENING = 262, 0x20000000
_libc = ctypes.CDLL(None, use_errno=True)

Attempt = Callable[[], object]


def attempts(told: dict[str, Any], own_port: int) -> Iterator[tuple[str, Attempt]]:
    """By name."""
    yield from on_files(told)
    yield from on_processes(int(told["pid"]))
    yield from on_sockets(told)
    yield from on_own(own_port, int(told["lent"]))


def on_files(told: dict[str, Any]) -> Iterator[tuple[str, Attempt]]:
    """The other's files, and places that programs share."""
    secret, directory = told["files"]["root"], told["directory"]
    for name, path in told["files"].items():
        yield f"read a file in {name}", partial(_has_secret, path)
    yield "write a file", partial(_open, secret, os.O_WRONLY)
    yield "truncate a file", partial(os.truncate, secret, len(SECRET))
    yield "make a file", Path(directory, "made").touch
    yield "list a directory", partial(_list, Path(directory))
    yield "list all workspaces", lambda: Path(directory).parent in Path(directory).parents[1].iterdir()
    yield "change a file's mode", partial(Path(secret).chmod, 0o666)
    yield "open a terminal", partial(_open, told["terminal"], os.O_RDWR | os.O_NOCTTY)


def on_processes(pid: int) -> Iterator[tuple[str, Attempt]]:
    """One process of the other's."""
    process = Path(f"/proc/{pid}")
    yield "signal", partial(os.kill, pid, signal.SIGCONT)
    yield "trace", lambda: _libc.ptrace(_SEIZE, pid, None, None) == 0
    yield "read its environment", lambda: b"HOME=" in (process / "environ").read_bytes()
    yield "open its memory", partial(_open, process / "mem", os.O_RDWR)
    yield "see its directory", (process / "cwd").readlink
    yield "see its command line", lambda: b"victim.py" in (process / "cmdline").read_bytes()
    yield "change its priority", partial(os.setpriority, os.PRIO_PROCESS, pid, 19)


def on_sockets(told: dict[str, Any]) -> Iterator[tuple[str, Attempt]]:
    """What the other listens on."""
    own, any_port = told["ports"]["own"], told["ports"]["any"]
    yield "connect to its port", lambda: _connect(socket.AF_INET, ("127.0.0.1", own))
    yield "connect to its random port", lambda: _connect(socket.AF_INET, ("127.0.0.1", any_port))
    yield "connect to its tool server", lambda: _reach_tool_server(told["toolPort"])
    yield "connect by multipath TCP", lambda: _connect(socket.AF_INET, ("127.0.0.1", own), _MULTIPATH)
    yield "connect by TCP Fast Open", lambda: _open_by_sending(own)
    yield "connect to its abstract socket", lambda: _connect(socket.AF_UNIX, told["abstract"])
    yield "connect to its socket file", lambda: _connect(socket.AF_UNIX, told["socket"])
    yield "talk UDP to it", lambda: _talk(told["udp"])
    yield (
        "connect to its port by the host's address",
        lambda: _connects(told["addresses"], told["ports"]["wide"]),
    )
    yield (
        "connect to a service of the host",
        lambda: _connects(["127.0.0.1", *told["addresses"]], told["host"]),
    )
    yield "listen on any named port", lambda: _listen(_free_number(own))


def on_own(own_port: int, lent: int) -> Iterator[tuple[str, Attempt]]:
    """What has to work for everybody."""
    yield "own: write to TMPDIR", Path(os.environ["TMPDIR"], "mine").touch
    yield "own: write to /tmp", Path("/tmp", f"mine-{os.getpid()}").touch
    yield "own: listen on the dev port and be reached", lambda: _listen(own_port) and _self_reached(own_port)
    yield "own: listen on any free port", lambda: _listen(0)
    yield "own: be reached on any free port", lambda: _self_reached(0)
    yield "own: use a port that the host lends", lambda: _connect(socket.AF_INET, ("127.0.0.1", lent))
    yield "own: run a program of the system", lambda: os.system("true") == 0
    yield "own: read the system's files", Path("/etc/hosts").read_bytes
    yield "own: connect outside by HTTPS", lambda: _is_let_out(443)


def _has_secret(path: str) -> bool:
    return Path(path).read_text() == SECRET


def _open(path: str | Path, flags: int) -> None:
    os.close(os.open(path, flags))


def _list(directory: Path) -> bool:
    return bool([*directory.iterdir()])


def _connect(family: int, address: Any, protocol: int = 0) -> bool:
    with socket.socket(family, socket.SOCK_STREAM, protocol) as connection:
        connection.settimeout(WAIT_SECONDS)
        connection.connect(address)
        return connection.recv(100).decode() == SECRET


def _reach_tool_server(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), WAIT_SECONDS):
        return True


def _open_by_sending(port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(WAIT_SECONDS)
        connection.sendto(b"x", _SEND_BY_OPENING, ("127.0.0.1", port))
        return bool(connection.getpeername()[1] == port)


def _talk(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
        endpoint.settimeout(SILENCE_SECONDS)
        endpoint.sendto(b"?", ("127.0.0.1", port))
        return endpoint.recv(100).decode() == SECRET


def _listen(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        return True


def _free_number(near: int) -> int:
    """A port below the random ones that nobody listens on; judged without binding it."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    taken = {int(line.split()[1].rpartition(":")[2], 16) for line in lines}
    return next(port for port in range(20000 + near % 5000, 32000) if port not in taken)


def _self_reached(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with socket.create_connection(listener.getsockname(), WAIT_SECONDS):
            return True


def _connects(addresses: list[str], port: int) -> bool:
    return any(_succeeds(partial(_connect, socket.AF_INET, (address, port))) for address in addresses)


def _is_let_out(port: int) -> bool:
    """Nobody has to be there: that it is tried at all is the point."""
    try:
        with socket.create_connection(("127.0.0.1", port), WAIT_SECONDS):
            return True
    except ConnectionRefusedError:
        return True


def _succeeds(attempt: Attempt) -> bool:
    try:
        return attempt() is not False
    except OSError:
        return False


if __name__ == "__main__":
    coordinates = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({name: _succeeds(each) for name, each in attempts(coordinates, int(sys.argv[2]))}))
