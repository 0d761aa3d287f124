"""A source as an archive, ready to be sent: a directory is packed, an archive is sent as it is."""

from __future__ import annotations

import asyncio
import glob
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from orchestrator.archive import archive_directory
from orchestrator.directories import private_directory
from orchestrator.plan import GuestProfile, LaunchPlan, WorkspaceSpec, guest_home, launch_plan
from orchestrator.plan_archive import NO_RULES, plan_archive
from orchestrator.spool import Spool
from orchestrator.substitution import substituted_files
from orchestrator.templates import Source, SourceKind
from orchestrator.units import count_text, size_text
from orchestrator.workspace_config import CORE_IMAGE_ROOT
from protocol.errors import InvalidRequest

_READ_BYTES = 256 * 1024
_SESSION_DEPTH = 3
"""workspaces/USER/SESSION, as ``orchestrator.paths`` has it."""
_NAMED = 5
"""Of what was left out: enough to see what it is about."""


@dataclass(frozen=True)
class Packed:
    """An archive: packed here, or a file as it is."""

    content: Spool | Path
    digest: str | None
    """``sha256:…`` of the uncompressed tar, when it was packed here."""
    note: str
    """For a person."""
    remarks: tuple[str, ...] = ()
    """What a person should know of it."""
    files: int = 0
    content_bytes: int = 0
    """Of what is in it, when it was packed here."""

    def spool(self) -> Spool:
        """What was packed here, as a tar.gz; raises InvalidRequest for a file as it is."""
        if isinstance(self.content, Spool):
            return self.content
        raise InvalidRequest(f"{self.content} is sent in as it is; only a directory goes into an image")

    async def chunks(self) -> AsyncIterator[bytes]:
        """Its bytes, piece by piece."""
        if isinstance(self.content, Spool):
            async for chunk in self.content.chunks():
                yield chunk
            return
        with await asyncio.to_thread(self.content.open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, _READ_BYTES):
                yield chunk


def planned(
    source: Source,
    environ: Mapping[str, str] = MappingProxyType({}),
    *,
    copy_git: bool = True,
    trust_agents: bool = False,
) -> LaunchPlan:
    """What a launch from this source does; of the operator's own directory it takes a copy.

    Raises InvalidRequest with the way out, as for a history that cannot come along.
    """
    spec = WorkspaceSpec(copy_cwd=source.kind is SourceKind.DIRECTORY, user_cwd=source.path)
    profile = GuestProfile(guest_home(environ), CORE_IMAGE_ROOT)
    return launch_plan(spec, profile, copy_git=copy_git, trust_agents=trust_agents)


def packed(source: Source, data_dir: Path, plan: LaunchPlan | None = None) -> Packed:
    """Blocking: reads the whole of a directory, but for ``data_dir`` when that is in it.

    Raises InvalidRequest for one of which nothing is left. Of somebody's own directory, links that lead out
    are left out with a remark: they are right where they are. In a template they are a mistake. Where a plan
    copies that directory, the plan says what comes along.
    """
    if source.kind is SourceKind.ARCHIVE:
        return Packed(source.path, None, size_text(source.path.stat().st_size))
    _refuse_the_hosts_own(source.path, data_dir)
    exclusions = source.exclusions.with_rules(_inside(source.path, data_dir))
    contents = substituted_files(source)
    # On the disk that the workspaces are on: the system's own place for such files may be memory.
    spool = Spool(lambda: private_directory(data_dir / "cache"))
    if plan is not None and plan.workspace_plan.enabled:
        always = NO_RULES.with_rules(source.template.files.exclude)
        archive = plan_archive(plan, exclusions, always, spool, contents)
    else:
        lenient = source.kind is SourceKind.DIRECTORY
        archive = archive_directory(source.path, exclusions, lenient=lenient, contents=contents, spool=spool)
    if not archive.entries:
        raise InvalidRequest(
            f"{source.path} is empty, but for what copies leave out: put a file into it, or name another"
        )
    note = f"{count_text(archive.files, 'file')}, {size_text(spool.size)}"
    remarks = tuple(_remarks(archive.left_out))
    return Packed(spool, archive.digest, note, remarks, archive.files, archive.content_bytes)


def _remarks(left_out: Sequence[str]) -> Iterator[str]:
    """
    >>> list(_remarks(["a", "b", "c", "d", "e", "f", "g"]))
    ['left out: a', 'left out: b', 'left out: c', 'left out: d', 'left out: e', 'left out: 2 more like these']
    """
    yield from (f"left out: {why}" for why in left_out[:_NAMED])
    if len(left_out) > _NAMED:
        yield f"left out: {len(left_out) - _NAMED} more like these"


def _inside(directory: Path, data_dir: Path) -> list[str]:
    """The rule that keeps the data directory out: else ``workspace up .`` would copy all workspaces.

    >>> _inside(Path("/p"), Path("/p/data")), _inside(Path("/p"), Path("/srv/data"))
    (['/data'], [])
    """
    below = data_dir.resolve()
    return [glob.escape(f"/{below.relative_to(directory).as_posix()}")] if directory in below.parents else []


def _refuse_the_hosts_own(directory: Path, data_dir: Path) -> None:
    """Of the data directory only a workspace's own content is ever copied: the rest holds everybody's tokens.

    >>> _refuse_the_hosts_own(Path("/p/data/workspaces/ann/session_1/src"), Path("/p/data"))
    >>> _refuse_the_hosts_own(Path("/p/data/db"), Path("/p/data"))
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: /p/data/db is in the data directory, /p/data, which holds all users' \
workspaces and the tokens of their sessions: name a directory outside, or that of one session
    """
    own = data_dir.resolve()
    if directory != own and own not in directory.parents:
        return
    if len(parts := directory.relative_to(own).parts) >= _SESSION_DEPTH and parts[0] == "workspaces":
        return
    where = "is" if directory == own else "is in"
    raise InvalidRequest(
        f"{directory} {where} the data directory, {own}, which holds all users' workspaces and the tokens of "
        f"their sessions: name a directory outside, or that of one session"
    )
