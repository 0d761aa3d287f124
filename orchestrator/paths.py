"""Where the host keeps what: from ids to paths, and nothing else.

Pure: no directory is made here, no environment is read, nothing happens on import. Whoever needs a directory
makes it by ``directories.private_directory``. Ids are checked before they become part of a path: none climbs
out.

    data/db/            the registry
    data/workspaces/    USER/SESSION is a workspace's root, USER/.SESSION its own area beside it
    data/saves/         USER/WORKSPACE/NAME.tar.gz
    data/logs/          USER/SESSION.log
    data/keys/          what session tokens are signed by; no user's
    data/cache/         USER/npm, USER/store: packages of one user, never shared between users;
                        .store: those that this host installed itself, for all to read
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NewType

from protocol.errors import InvalidRequest

UserId = NewType("UserId", str)
"""A checked user id. Only ``user_id`` makes one."""
SessionId = NewType("SessionId", str)
"""A checked session id. Only ``session_id`` and ``new_session_id`` make one."""
WorkspaceId = NewType("WorkspaceId", str)
"""A checked workspace id. Only ``workspace_id`` and ``new_workspace_id`` make one."""

DEFAULT_USER = UserId("default")
DATA_VARIABLE = "DATA_DIR"
DEFAULT_DATA_DIRECTORY = "data"

# No leading dot: neither ``.`` nor ``..`` is an id, and ``.SESSION`` beside a root is no other session's.
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def user_id(raw: str) -> UserId:
    """``raw``, checked; raises InvalidRequest.

    >>> user_id("..")
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: user id '..' is refused: use 1 to 128 of A-Z a-z 0-9 . _ -, no dot first
    """
    return UserId(_checked(raw, "user id"))


def session_id(raw: str) -> SessionId:
    """``raw``, checked; raises InvalidRequest."""
    return SessionId(_checked(raw, "session id"))


def workspace_id(raw: str) -> WorkspaceId:
    """``raw``, checked; raises InvalidRequest."""
    return WorkspaceId(_checked(raw, "workspace id"))


def is_plain_name(raw: str) -> bool:
    """Whether it could be an id.

    >>> is_plain_name("astro-minimal"), is_plain_name("../x"), is_plain_name("a b")
    (True, False, False)
    """
    return _ID.fullmatch(raw) is not None


def _checked(raw: str, what: str) -> str:
    if not _ID.fullmatch(raw):
        raise InvalidRequest(
            f"{what} {raw[:200]!r} is refused: use 1 to 128 of A-Z a-z 0-9 . _ -, no dot first",
            id=raw[:200],
        )
    return raw


def new_session_id(now: datetime, randomness: bytes) -> SessionId:
    """An id that sorts by time. Two sessions of one second differ by ``randomness`` (4 bytes or more).

    >>> new_session_id(datetime(2026, 11, 21, 9, 34, 5), bytes([1, 2, 3, 255]))
    'session_20261121_093405_010203ff'
    """
    return SessionId(f"session_{now:%Y%m%d_%H%M%S}_{randomness.hex()}")


def new_workspace_id(now: datetime, randomness: bytes) -> WorkspaceId:
    """An id of its own kind, so that none is taken for a session's; otherwise as ``new_session_id``.

    >>> new_workspace_id(datetime(2026, 11, 21, 9, 34, 5), bytes([1, 2, 3, 255]))
    'workspace_20261121_093405_010203ff'
    """
    return WorkspaceId(f"workspace_{now:%Y%m%d_%H%M%S}_{randomness.hex()}")


@dataclass(frozen=True)
class SessionArea:
    """What belongs to one session and is no content of its workspace. Beside the root, on its file system."""

    directory: Path

    @property
    def home(self) -> Path:
        """HOME of everything in the sandbox."""
        return self.directory / "home"

    @property
    def temporary(self) -> Path:
        """TMPDIR of everything in the sandbox."""
        return self.directory / "tmp"

    @property
    def state(self) -> Path:
        """The daemon's own area: staging that is renamed into the root, hence on the same file system."""
        return self.directory / "state"

    @property
    def directories(self) -> tuple[Path, ...]:
        """All of them, parents first."""
        return (self.directory, self.home, self.temporary, self.state)


@dataclass(frozen=True)
class PathManager:
    """All host paths, below one data directory (absolute)."""

    base_dir: Path

    @classmethod
    def from_env(cls, environ: Mapping[str, str], cwd: Path, data_dir: Path | None = None) -> PathManager:
        """``data_dir`` if given, else DATA_DIR, else ``./data``; relative ones start at ``cwd``.

        Without ``..``: the path becomes part of mounts, rules and plans.

        >>> PathManager.from_env({}, Path("/srv")).base_dir.as_posix()
        '/srv/data'
        >>> PathManager.from_env({"DATA_DIR": "../a"}, Path("/srv/x")).base_dir.as_posix()
        '/srv/a'
        """
        chosen = data_dir or Path(environ.get(DATA_VARIABLE) or DEFAULT_DATA_DIRECTORY)
        return cls(Path(os.path.normpath(cwd / chosen)))

    def db_path(self, name: str) -> Path:
        """A database by its name, without a suffix."""
        return self.base_dir / "db" / f"{_checked(name, 'database name')}.sqlite3"

    def user_workspace_root(self, user: str) -> Path:
        """What holds all of a user's workspaces."""
        return self.base_dir / "workspaces" / user_id(user)

    def workspace_dir(self, user: str, session: str) -> Path:
        """The workspace root.

        >>> PathManager(Path("/d")).workspace_dir("ann", "s1").as_posix()
        '/d/workspaces/ann/s1'
        """
        return self.user_workspace_root(user) / session_id(session)

    def session_area(self, user: str, session: str) -> SessionArea:
        """The session's own area. Ids have no leading dot, so it is never another session's root."""
        return SessionArea(self.user_workspace_root(user) / f".{session_id(session)}")

    def saves_dir(self, user: str, workspace: str) -> Path:
        """What holds a workspace's saves."""
        return self.base_dir / "saves" / user_id(user) / workspace_id(workspace)

    @property
    def keys_dir(self) -> Path:
        """What session tokens are signed by."""
        return self.base_dir / "keys"

    def log_path(self, user: str, session: str) -> Path:
        """The daemon's log."""
        return self.base_dir / "logs" / user_id(user) / f"{session_id(session)}.log"

    @property
    def tools_dir(self) -> Path:
        """Links to node, npm and rg, first on every workspace's PATH. No user's: ids have no dot first."""
        return self.base_dir / "cache" / ".tools"

    @property
    def store_dir(self) -> Path:
        """The shared dependency store: written by this host only, read by every workspace."""
        return self.base_dir / "cache" / ".store"

    def cache_dir(self, user: str, name: str) -> Path:
        """A cache of one user: a poisoned package reaches nobody else."""
        return self.base_dir / "cache" / user_id(user) / _checked(name, "cache name")
