"""Where sandboxes run: one small interface, whose comments are the contract.

A backend makes a sandbox with a running tool server in it, finds it again, says how to reach it, and ends it.
Everything else goes through the tool server, the same way everywhere: a backend never touches a file inside a
workspace. What backends cannot all do alike is told as data (``Properties``), never asked by ``isinstance``.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from orchestrator.paths import PathManager, SessionId, UserId
from orchestrator.plan import LaunchPlan
from orchestrator.spool import Spool


@dataclass(frozen=True)
class Properties:
    """What holds on a backend. Everything here is a promise that the conformance tests keep."""

    isolates_files: bool
    """Commands of one workspace cannot read another's files."""
    isolates_processes: bool
    """Nor signal or trace its processes, nor read their memory and environment."""
    isolates_network: bool
    """Nor connect to its TCP ports."""
    keeps_files: bool
    """``destroy`` can leave the workspace's files where they are, for a person to find."""
    survives_host_restart: bool
    """A sandbox runs again after the host was restarted."""
    makes_images: bool = False
    """``create`` takes a ``Launch.content``."""
    revives: bool = False
    """One that ended without being asked can be started again with its files in it: it is a ``Revives``."""
    isolation: str = ""
    """What keeps workspaces apart, for a person."""
    left_open: tuple[str, ...] = ()
    """What stays within a workspace's reach all the same, one clause each, the worst first."""


@dataclass(frozen=True)
class Host:
    """What a backend is opened with: the machine, and the data directory whose sandboxes it looks after."""

    paths: PathManager
    environ: Mapping[str, str]
    """The orchestrator's environment. A sandbox gets only what its backend picks from it."""
    tools: Path | None = None
    """A directory with node, npm and rg, for backends that have no image."""


def guest_id(user: UserId, session: SessionId) -> str:
    """The id of a session's sandbox on every backend: known before there is one, so half of one is found.

    >>> guest_id(UserId("ann"), SessionId("s1"))
    'ann/s1'
    """
    return f"{user}/{session}"


@dataclass(frozen=True)
class Launch:
    """What a backend is told about one sandbox. Ports are those inside the sandbox."""

    user_id: UserId
    session_id: SessionId
    token: str = field(repr=False)
    """The tool server's static token."""
    tool_port: int
    """0 lets the backend take any."""
    dev_port: int
    public_keys: tuple[str, ...] = ()
    """Of the keys that session tokens are signed by, the active one first."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set on top of the backend's own choice, for the tool server and all it starts. No secrets."""
    plan: LaunchPlan | None = None
    """Where content goes, whose it is, whether agents are told to trust it: read, never worked out again."""
    content: Spool | None = field(default=None, repr=False)
    """A tar.gz that is to be in the workspace from the start, by an image of its own."""
    lock: str = ""
    """What its packages are guessed by (``spares.lock_digest``); a backend may have them ready, or not."""
    existing: bool = False
    """Go on with the files that an earlier sandbox of this session has left. Only where files are kept."""

    @property
    def access(self) -> dict[str, str]:
        """What a tool server is told of whom to let in: the session, and nothing that is secret."""
        keys = {"TOOL_SERVER_PUBLIC_KEY": ",".join(self.public_keys)} if self.public_keys else {}
        return {"TOOL_SERVER_TOKEN_SHA256": self.token_sha256, "SESSION_ID": self.session_id, **keys}

    @property
    def token_sha256(self) -> str:
        """All that a tool server has to be told to know the token: nobody reads it out of a sandbox then."""
        return hashlib.sha256(self.token.encode()).hexdigest()


class GuestState(enum.Enum):
    """What a backend sees of a sandbox from outside; how far its workspace is, only the tool server knows."""

    RUNNING = "running"
    DEAD = "dead"


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """One sandbox. Plain data, so that it is kept in the registry and read by another process."""

    id: str
    """``guest_id`` of its user and session."""
    backend: str
    user_id: UserId
    session_id: SessionId
    tool_port: int
    dev_port: int
    state: GuestState = GuestState.RUNNING
    labels: dict[str, str] = {}
    """The backend's own: a process id, a container's name."""


class Endpoint(msgspec.Struct, frozen=True):
    """How a port of a sandbox is reached from here."""

    url: str
    """Base URL without a slash at the end; a path in it belongs to a proxy."""
    headers: dict[str, str] = {}
    """To be sent with every request."""


@dataclass(frozen=True)
class Destroyed:
    """What became of a sandbox."""

    found: bool
    """False when there was nothing of that id: ending twice is no error."""
    killed: int = 0
    """Processes that did not go by themselves and were killed."""
    survivors: tuple[int, ...] = ()
    """Process ids, on this host, that could not be ended. Empty unless something is wrong."""
    kept: str | None = None
    """Where the files are, when they were kept."""


class Backend(Protocol):
    """A driver. Methods may be called by several tasks, and by several orchestrators, at once."""

    @property
    def name(self) -> str:
        """As written in the registry and in configuration."""

    @property
    def properties(self) -> Properties:
        """What holds here."""

    async def create(self, launch: Launch) -> Guest:
        """A sandbox whose tool server answers, its root empty; or as it is, by ``launch.existing``.

        Raises AlreadyExists when the session has one, Unavailable when the tool server did not come up in
        time (with its last words), Busy with ``lostPort`` in its details when another program took that port
        since it was chosen; then, and when cancelled, nothing of the sandbox is left.
        """

    async def destroy(self, guest_id: str, *, keep_files: bool = False) -> Destroyed:
        """End the sandbox and every process in it, gently first; remove its files unless ``keep_files``.

        Bounded in time. Takes a guest that is dead already, half made, or gone.
        """

    async def guests(self) -> list[Guest]:
        """All sandboxes of this backend in this data directory, dead ones too, whoever made them."""

    def endpoint(self, guest: Guest, port: int) -> Endpoint:
        """Where ``port`` of the sandbox is reached. Asks nobody, and promises nothing about who listens."""


class Revives(Backend, Protocol):
    """A backend with ``properties.revives``."""

    async def revive(self, guest_id: str) -> Guest:
        """Start a dead sandbox again as it was, files and token too, until its tool server answers.

        One that runs is as well. Raises NotFound when there is none, and whatever keeps it from starting.
        """
