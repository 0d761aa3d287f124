"""A git repository in a workspace, asked by way of its tool server. It is never changed, nor locked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePosixPath

from orchestrator.client import Client
from orchestrator.workspace import git, output, raw
from orchestrator.workspace.places import Reached
from orchestrator.workspace.results import GitChange, GitChangeStatus, GitDiff
from protocol.errors import NotAFile, NotFound, ToolError, Unavailable
from protocol.messages.base import Encoding
from protocol.messages.commands import Command
from protocol.messages.files import Kind, StatAnswer


async def changes(client: Client, directory: str) -> list[GitChange]:
    """What differs from the last commit below ``directory``."""
    prefix = await _prefix(client, directory)
    return git.changes(await _git(client, directory, git.STATUS), prefix, PurePosixPath(directory))


async def diff(client: Client, reached: Reached, path: str) -> GitDiff:
    """A file as it is, and as the last commit has it."""
    directory = await _existing_above(client, path)
    top, prefix = git.top(directory, await _prefix(client, directory))
    modified = await _current(client, reached, path)
    original = await _committed(client, top, prefix, path)
    if original is None and modified is not None:
        original = await _before_it_moved(client, top, prefix, path)
    if modified is None and original is None:
        raise NotFound(f"{path!r} is neither in the workspace nor in its last commit", path=path)
    return GitDiff.of(modified, original)


async def is_directory(client: Client, path: str) -> bool:
    """Whether it is one, or a link to one."""
    entry = await _stat(client, path)
    if entry is None or entry.kind is not Kind.SYMLINK:
        return entry is not None and entry.kind is Kind.DIRECTORY
    try:
        await client.list(path=path)
    except ToolError:
        return False
    return True


async def _stat(client: Client, path: str) -> StatAnswer | None:
    try:
        return await client.stat(path=path)
    except (NotFound, NotAFile):
        return None


async def _existing_above(client: Client, path: str) -> str:
    """The nearest directory above that is there: a deleted file's own may be gone too."""
    for above in PurePosixPath(path).parents:
        if await is_directory(client, str(above)):
            return str(above)
    return "."


async def _current(client: Client, reached: Reached, path: str) -> bytes | None:
    entry = await _stat(client, path)
    if entry is None:
        return None
    if entry.kind is Kind.SYMLINK:
        return os.fsencode(entry.target or "")  # what git keeps of a link
    if entry.kind is not Kind.FILE:
        raise NotAFile(f"{path!r} is no file; git_changes lists the files below it", path=path)
    return await raw.content(reached, path)


async def _committed(client: Client, top: str, prefix: str, path: str) -> bytes | None:
    """The file's bytes in the last commit; None when it is not there, or nothing was committed yet."""
    answer, _, _ = await output.collected(client, _command(top, git.HEAD))
    if answer.exit_code != 0:
        return None
    name = prefix + str(PurePosixPath(path).relative_to(top))
    listed = await _git(client, top, ("git", "ls-tree", "--full-tree", "-z", "HEAD", "--", name))
    for entry in filter(None, listed.split(b"\0")):
        described, _, found = entry.partition(b"\t")
        _, kind, digest = described.decode().split(" ")
        if kind == "blob" and found == os.fsencode(name):
            return await _git(client, top, ("git", "cat-file", "blob", digest))
    return None


async def _before_it_moved(client: Client, top: str, prefix: str, path: str) -> bytes | None:
    for change in await changes(client, top):
        moved = change.status is GitChangeStatus.MOVED and str(change.path) == path
        if moved and change.original_path is not None:
            return await _committed(client, top, prefix, str(change.original_path))
    return None


async def _prefix(client: Client, directory: str) -> str:
    answer, stdout, stderr = await output.collected(client, _command(directory, git.PREFIX))
    if answer.exit_code != 0:
        reason = stderr.decode(errors="replace").strip().partition("\n")[0]
        raise NotFound(f"{directory!r} is in no git repository that can be read: {reason}", path=directory)
    return os.fsdecode(stdout.removesuffix(b"\n"))


async def _git(client: Client, directory: str, argv: Sequence[str]) -> bytes:
    answer, stdout, stderr = await output.collected(client, _command(directory, argv))
    if answer.exit_code != 0:
        raise Unavailable(f"git could not answer: {stderr.decode(errors='replace').strip()}", argv=[*argv])
    return stdout


def _command(directory: str, argv: Sequence[str]) -> Command:
    # Without the optional locks a look at the repository never gets into the way of whoever works in it.
    env = {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    return Command(argv=[*argv], cwd=directory, env=env, encoding=Encoding.BASE64)
