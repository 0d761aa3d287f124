"""What a tenant has that others must not reach: ``python victim.py FILE PORT`` makes it all, and waits.

Run in a workspace by its own commands. FILE, when it is there, says as JSON where everything is.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
from pathlib import Path
from typing import Any

SECRET = "the other's secret"


def main(file: Path) -> None:
    """Does not end by itself."""
    root = Path.cwd()
    places = {"root": root, "home": Path(os.environ["HOME"]), "tmp": Path("/tmp"), "shm": Path("/dev/shm")}
    files = {name: str(_written(place / f"secret-{secrets.token_hex(8)}")) for name, place in places.items()}
    controller, terminal = os.openpty()
    told: dict[str, Any] = {"files": files, "pid": os.getpid(), "directory": str(root)}
    told["terminal"] = os.ttyname(terminal)
    told["ports"] = {"own": _tcp(int(sys.argv[2])), "any": _tcp(0), "wide": _tcp(0, "0.0.0.0")}
    told["udp"] = _udp()
    told["abstract"] = _unix(f"\0victim-{os.getpid()}")
    told["socket"] = _unix(str(root / "socket"))
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(told))
    fresh.rename(file)
    threading.Event().wait()
    os.close(controller)


def _written(path: Path) -> Path | None:
    try:
        path.write_text(SECRET)
    except OSError:
        return None  # its own tier does not let it
    path.chmod(0o666)
    return path


def _tcp(port: int, address: str = "127.0.0.1") -> int:
    listener = socket.create_server((address, port))
    _answer(listener)
    return int(listener.getsockname()[1])


def _unix(name: str) -> str:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen()
    if not name.startswith("\0"):
        Path(name).chmod(0o777)
    _answer(listener)
    return name


def _answer(listener: socket.socket) -> None:
    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(SECRET.encode())

    threading.Thread(target=serve, daemon=True).start()


def _udp() -> int:
    endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    endpoint.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            _, sender = endpoint.recvfrom(100)
            endpoint.sendto(SECRET.encode(), sender)

    threading.Thread(target=serve, daemon=True).start()
    return int(endpoint.getsockname()[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
