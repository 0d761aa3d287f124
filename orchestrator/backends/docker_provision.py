"""What agents must know, put into a container that is made and not yet started.

Home is a volume then already, filled from the image; so the engine's own copy reaches it under a read-only
root too, before any program of the workspace runs. (Into a tmpfs it would succeed and not be there.) The
rules for what is there already are those of ``trust``.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable

from orchestrator.backends.docker_engine import Engine
from orchestrator.placing import MAX_BYTES, FileToPlace
from orchestrator.plan import LaunchPlan
from orchestrator.trust import AGENT_FILES, agent_provision_plan
from protocol.errors import Conflict, InvalidRequest

_ACCOUNTS = ("/etc/passwd", "/etc/group")


async def provision(engine: Engine, container: str, plan: LaunchPlan) -> None:
    """Merge the agents' files into the container's home, of the plan's owner. Raises Conflict."""
    workspace = plan.workspace_plan
    found = {path: await _read(engine, container, f"{workspace.guest_home}/{path}") for path in AGENT_FILES}
    existing = {path: content for path, content in found.items() if content is not None}
    decided = agent_provision_plan(workspace, existing)
    fresh = [file for file in decided.files if existing.get(file.path) != file.content]
    if fresh:
        users, groups = [(await _read(engine, container, path) or b"").decode() for path in _ACCOUNTS]
        ids = numbers(decided.owner, users, groups)
        await engine.put(container, decided.guest_home, archive_of(fresh, ids, existing))


def numbers(owner: str, users: str, groups: str) -> tuple[int, int]:
    """The numbers of USER or USER:GROUP, as a container's account files have them; raises InvalidRequest.

    >>> users, groups = "node:x:1000:1001::/home/node:/bin/sh", "staff:x:50:"
    >>> numbers("node", users, groups), numbers("node:staff", users, groups), numbers("7:8", "", "")
    ((1000, 1001), (1000, 50), (7, 8))
    """
    user, _, group = owner.partition(":")
    account = _account(user, users)
    uid = int(user) if user.isdecimal() else _number(account, 2, owner)
    if group.isdecimal():
        return uid, int(group)
    return uid, _number(_account(group, groups), 2, owner) if group else _number(
        account or [""] * 4, 3, owner
    )


def _account(name: str, lines: str) -> list[str]:
    """The line that begins with ``name``, in its fields."""
    return next((line.split(":") for line in lines.splitlines() if line.partition(":")[0] == name), [])


def _number(fields: list[str], place: int, owner: str) -> int:
    if len(fields) <= place:
        raise InvalidRequest(f"the image knows no owner {owner!r}; name one by its numbers, as 1000:1000")
    return int(fields[place] or 0)


def archive_of(files: Iterable[FileToPlace], ids: tuple[int, int], existing: Iterable[str] = ()) -> bytes:
    """A tar of ``files`` and of the directories that they may lack, all of one owner."""
    buffer = io.BytesIO()
    there = {above for path in existing for above in _above(path)}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in files:
            for directory in _above(file.path):
                if directory not in there:
                    tar.addfile(_owned(directory, 0o700, ids, tarfile.DIRTYPE))
                    there.add(directory)
            member = _owned(file.path, file.mode, ids, tarfile.REGTYPE)
            member.size = len(file.content)
            tar.addfile(member, io.BytesIO(file.content))
    return buffer.getvalue()


def _above(path: str) -> list[str]:
    """
    >>> _above("a/b/c"), _above("c")
    (['a', 'a/b'], [])
    """
    names = path.split("/")[:-1]
    return ["/".join(names[: end + 1]) for end in range(len(names))]


def _owned(name: str, mode: int, ids: tuple[int, int], kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, mode
    member.uid, member.gid = ids
    return member


async def _read(engine: Engine, container: str, path: str) -> bytes | None:
    archive = await engine.read(container, path)
    if archive is None:
        return None
    member = archive.next()
    content = archive.extractfile(member) if member and member.isreg() and member.size <= MAX_BYTES else None
    if content is None:
        raise Conflict(f"{path} of the image is left as it is, because it is no file: remove it", path=path)
    return content.read()
