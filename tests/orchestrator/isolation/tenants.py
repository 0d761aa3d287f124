"""``python tenants.py DATA_DIR WISH``: two people's workspaces side by side, and one attacks the other.

A program, because isolation depends on who runs it: the tests run it as root and as somebody else. Both
workspaces have a real tool server, and everything happens by their commands. Prints what came of it as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator import processes
from orchestrator.backends import Guest, Launch
from orchestrator.backends.environment import marker
from orchestrator.backends.local import PREFORK_VARIABLE, LocalBackend, Settings
from orchestrator.client import Client, open_client
from orchestrator.isolation import reach
from orchestrator.isolation.isolation import Setting, yes
from orchestrator.isolation.tiers import Wish
from orchestrator.paths import PathManager, SessionId, UserId
from tests.orchestrator.isolation import victim
from tests.ports import free_port

HERE = Path(__file__).parent
PATIENCE_SECONDS = 60


@dataclass
class Tenant:
    """One of the two."""

    guest: Guest
    client: Client

    async def put(self, name: str, text: str) -> None:
        """A file in the workspace."""
        await self.client.write(path=name, content=text)

    async def python(self, *words: str) -> str:
        """What a program prints."""
        answer = await self.client.command(argv=[sys.executable, *words])
        assert answer.exit_code == 0, answer
        return answer.stdout

    async def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return name in {entry.path for entry in (await self.client.list()).entries}


@asynccontextmanager
async def tenant(driver: LocalBackend, user: str) -> AsyncIterator[Tenant]:
    """With a workspace of its own, gone at the end."""
    token = secrets.token_urlsafe(24)
    launch = Launch(
        user_id=UserId(user),
        session_id=SessionId(f"s{secrets.token_hex(6)}"),
        token=token,
        tool_port=0,
        dev_port=free_port(),
    )
    guest = await driver.create(launch)
    try:
        async with open_client(driver.endpoint(guest, guest.tool_port).url, token) as client:
            yield Tenant(guest, client)
    finally:
        await driver.destroy(guest.id)


async def attacked(data: Path, wish: Wish) -> dict[str, Any]:
    """Which attempts got through, and what was promised."""
    host, lent = served("0.0.0.0"), served("127.0.0.1")
    environ = {**os.environ, "WORKSPACE_HOST_PORTS": str(lent)}
    setting = replace(Setting.from_env(environ), wish=wish, allow_several_users=True)
    prefork = yes(environ, PREFORK_VARIABLE)
    driver = LocalBackend(PathManager(data), Settings(environ=environ, isolation=setting, prefork=prefork))
    async with tenant(driver, "ann") as ann, tenant(driver, "bob") as bob:
        told = {**await settled(bob), "toolPort": bob.guest.tool_port, "host": host, "lent": lent}
        told["addresses"] = [each for each in addresses() if "." in each]
        await ann.put("told.json", json.dumps(told))
        await ann.put("attack.py", (HERE / "attack.py").read_text())
        through = json.loads(await ann.python("attack.py", "told.json", str(ann.guest.dev_port)))
        uids = {_uid(each.guest) for each in (ann, bob)}
        daemon = processes.look_up(int(ann.guest.labels["pid"]))
        rights = _rights(ann.guest)
        sessions = [ann.guest.session_id, bob.guest.session_id]
    left = sorted(pid for session in sessions for pid in processes.members(marker(session)))
    return {
        "properties": asdict(driver.properties),
        "through": sorted(name for name, came in through.items() if came),
        "tried": sorted(through),
        "users": len(uids - {os.getuid()}),
        "left": left,
        "forked": daemon is not None and daemon.parent != os.getpid(),
        "rights": rights,
    }


def served(address: str) -> int:
    """The port of a service of this host, which tells its secret to everybody who can connect."""
    listener = socket.create_server((address, 0))

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(victim.SECRET.encode())

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def addresses() -> list[str]:
    """Those of this host that are not loopback."""
    return reach.host_addresses(Path("/proc/net/fib_trie").read_text(), "")


async def settled(bob: Tenant) -> dict[str, Any]:
    """Where all that he has is, once it is there."""
    await bob.put("victim.py", (HERE / "victim.py").read_text())
    line = f"{sys.executable} victim.py told.json {bob.guest.dev_port} 2>errors || touch ended"
    await bob.client.command(command=line, background=True)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await bob.has("told.json"):
            assert not await bob.has("ended"), (await bob.client.read(path="errors")).content
            await asyncio.sleep(0.05)
    found: dict[str, Any] = json.loads((await bob.client.read(path="told.json")).content)
    # By its number in a namespace of its own somebody else may be found: the attacker himself.
    found["pid"] = next(
        pid for pid in processes.members(marker(bob.guest.session_id)) if _inner_pid(pid) == found["pid"]
    )
    return found


def _inner_pid(pid: int) -> int | None:
    """A process's number in its own namespace; None when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(next(line for line in lines if line.startswith("NSpid:")).split()[-1])


def _uid(guest: Guest) -> int:
    return Path(f"/proc/{guest.labels['pid']}").stat().st_uid


def _rights(guest: Guest) -> list[str]:
    """The capabilities of its daemon: inherited, permitted, effective, ambient."""
    lines = Path(f"/proc/{guest.labels['pid']}/status").read_text().splitlines()
    told = dict(line.split(":\t", 1) for line in lines)
    return [told[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(attacked(Path(sys.argv[1]), Wish(sys.argv[2])))))
