"""What one launch does with the operator's own directory: decided once, then only read.

The intent (``WorkspaceSpec``: copy it? which one?) stays apart from the decision (``WorkspacePlan``). A
backend reads from the plan where content goes, where work starts, whose it is and what comes along; it works
none of that out again. Content is copied at launch, never mounted: the operator's files stay as they are.

``workspace_plan`` and ``launch_plan`` look at the host's ``.git``; all else is pure. No environment is read
but through a mapping handed in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from orchestrator.git_history import GIT, GitHistory, GitLayer, find_git_history
from orchestrator.workspace_config import CORE_IMAGE_ROOT, HOME_WORKSPACE, guest_path
from protocol.errors import InvalidRequest

DEFAULT_GUEST_HOME = "/home/node"
GUEST_HOME_VARIABLES = ("WORKSPACE_GUEST_HOME",)
"""The first that is set counts."""

DEFAULT_OWNER = "node:node"

_OWNER = re.compile(r"[a-z0-9_][a-z0-9_-]*(:[a-z0-9_][a-z0-9_-]*)?")
_MODE = re.compile(r"[0-7]{3,4}")


@dataclass(frozen=True)
class WorkspaceSpec:
    """What was asked for."""

    copy_cwd: bool
    """Take the operator's own directory along."""
    user_cwd: Path
    """That directory, absolute."""


@dataclass(frozen=True)
class GuestProfile:
    """What an image says of itself."""

    guest_home: str = DEFAULT_GUEST_HOME
    workspace: str | None = None
    """Where the workspace is, whether anything is copied or not. None: below the home when something is."""
    owner: str = DEFAULT_OWNER
    """Whose everything is there."""


CORE_IMAGE = GuestProfile(workspace=CORE_IMAGE_ROOT)


@dataclass(frozen=True)
class WorkspacePlan:
    """The decision. Backend-neutral; raises InvalidRequest for what no backend could do."""

    enabled: bool
    """Content is copied."""
    host_path: Path
    """Where from: the operator's directory on this host."""
    guest_home: str
    guest_path: str
    """Where to."""
    workdir: str
    """Where work starts, and what coding agents are told to trust."""
    owner: str = DEFAULT_OWNER
    """USER or USER:GROUP, by names or numbers in the guest: of everything copied."""
    mode: str = "755"
    """Of ``guest_path`` itself, octal; what is in it keeps its own."""
    copy_contents: bool = True
    copy_git: bool = True
    has_host_git_dir: bool = False
    """``host_path`` has a ``.git``, of whatever kind."""

    def __post_init__(self) -> None:
        for name in ("guest_home", "guest_path", "workdir"):
            guest_path(getattr(self, name), name)
        if not _OWNER.fullmatch(self.owner):
            raise InvalidRequest(f"owner {self.owner!r} is refused: give USER or USER:GROUP, as node:node")
        if not _MODE.fullmatch(self.mode):
            raise InvalidRequest(f"mode {self.mode!r} is refused: give three or four octal digits, as 755")
        if self.enabled and not self.host_path.is_absolute():
            raise InvalidRequest(f"{str(self.host_path)!r} is refused: give the directory's absolute path")

    @property
    def copies_contents(self) -> bool:
        """The directory's files go along."""
        return self.enabled and self.copy_contents

    @property
    def copies_git(self) -> bool:
        """The directory's history goes along, to ``<guest_path>/.git``."""
        return self.enabled and self.copy_git and self.has_host_git_dir

    def takes(self, path: str) -> bool:
        """Whether ``path``, relative to ``host_path``, comes along.

        >>> plan = WorkspacePlan(True, Path("/p"), "/h", "/h/w", "/h/w", copy_git=False)
        >>> plan.takes("src/.git"), plan.takes(".gitignore"), plan.takes(".git/HEAD")
        (True, True, False)
        """
        return self.copies_git if path.partition("/")[0] == GIT else self.copies_contents


@dataclass(frozen=True)
class LaunchPlan:
    """All that is decided before a sandbox is made: the intent, and what became of it."""

    spec: WorkspaceSpec
    workspace_plan: WorkspacePlan
    git_history: GitHistory
    """How ``.git`` is put together, where it is not simply there."""
    trust_agents: bool = False
    """Coding agents are told that they may work in ``workdir``."""

    def at(self, profile: GuestProfile) -> LaunchPlan:
        """The same decisions for a sandbox whose places are known only when it is made."""
        plan = _placed(self.spec, profile)
        mine = self.workspace_plan
        kept = {name: getattr(mine, name) for name in ("mode", "copy_contents", "copy_git")}
        return replace(self, workspace_plan=replace(plan, has_host_git_dir=mine.has_host_git_dir, **kept))

    def takes(self, path: str) -> bool:
        """Whether ``path``, relative to the directory, comes along: nothing that ties a history to its place.

        >>> spec = WorkspaceSpec(copy_cwd=True, user_cwd=Path("/nowhere"))
        >>> plan = replace(workspace_plan(spec), has_host_git_dir=True)
        >>> launch = LaunchPlan(spec, plan, GitHistory())
        >>> [launch.takes(path) for path in (".git/HEAD", ".git/worktrees", ".git/index.lock", "index.lock")]
        [True, False, False, True]
        """
        top, _, below = path.partition("/")
        stays = top == GIT and below and not GitLayer(Path(GIT)).takes(below)
        return self.workspace_plan.takes(path) and not stays


class KeptPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What of a plan holds for as long as its session: places, owner, trust. What was copied is there by now.

    Plain data, for the registry.
    """

    guest_home: str
    guest_path: str
    workdir: str
    owner: str
    mode: str
    trust_agents: bool

    @classmethod
    def of(cls, plan: LaunchPlan) -> KeptPlan:
        """
        >>> kept = KeptPlan.of(launch_plan(WorkspaceSpec(copy_cwd=False, user_cwd=Path("/nowhere"))))
        >>> kept.workdir, KeptPlan.of(kept.launch_plan()) == kept
        ('/app', True)
        """
        places = {name: getattr(plan.workspace_plan, name) for name in cls.__struct_fields__[:-1]}
        return cls(**places, trust_agents=plan.trust_agents)

    def launch_plan(self) -> LaunchPlan:
        """For starting the session again: the same places and trust, and nothing to copy."""
        nowhere = Path("/")
        places = {name: getattr(self, name) for name in self.__struct_fields__[:-1]}
        plan = WorkspacePlan(enabled=False, host_path=nowhere, **places)
        return LaunchPlan(WorkspaceSpec(False, nowhere), plan, GitHistory(), self.trust_agents)


def guest_home(environ: Mapping[str, str]) -> str:
    """The home that the environment names, else the usual one; raises InvalidRequest.

    >>> guest_home({}), guest_home({"WORKSPACE_GUEST_HOME": "/root/"})
    ('/home/node', '/root')
    """
    for name in GUEST_HOME_VARIABLES:
        if environ.get(name):
            return guest_path(environ[name], name)
    return DEFAULT_GUEST_HOME


def workspace_plan(
    spec: WorkspaceSpec, guest_home: str = DEFAULT_GUEST_HOME, workspace: str | None = None
) -> WorkspacePlan:
    """Decide. ``workspace`` is an image's own place for content; without it ``<guest_home>/workspace``.

    Looks whether the host has a ``.git``; nothing else is asked of the disk.

    >>> plan = workspace_plan(WorkspaceSpec(copy_cwd=True, user_cwd=Path("/nowhere")), "/home/node")
    >>> plan.guest_path, plan.workdir, plan.has_host_git_dir
    ('/home/node/workspace', '/home/node/workspace', False)
    """
    plan = _placed(spec, GuestProfile(guest_home, workspace))
    return replace(plan, has_host_git_dir=os.path.lexists(spec.user_cwd / GIT))


def launch_plan(
    spec: WorkspaceSpec,
    profile: GuestProfile = CORE_IMAGE,
    *,
    copy_git: bool = True,
    trust_agents: bool = False,
) -> LaunchPlan:
    """Decide, having looked whether the directory and its history are there to be copied.

    Raises InvalidRequest with the way out; ``copy_git=False`` leaves the history behind.
    """
    plan = workspace_plan(spec, profile.guest_home, profile.workspace)
    plan = replace(plan, copy_git=copy_git, owner=profile.owner)
    if plan.enabled and not plan.host_path.is_dir():
        raise InvalidRequest(f"{plan.host_path} is no directory: there is nothing to copy from it")
    history = find_git_history(plan.host_path) if plan.copies_git else GitHistory()
    return LaunchPlan(spec, plan, history, trust_agents)


def _placed(spec: WorkspaceSpec, profile: GuestProfile) -> WorkspacePlan:
    """Where things go; pure."""
    home = guest_path(profile.guest_home, "guest_home")
    place = profile.workspace or (f"{home}/{HOME_WORKSPACE}" if spec.copy_cwd else home)
    return WorkspacePlan(
        enabled=spec.copy_cwd,
        host_path=spec.user_cwd,
        guest_home=home,
        guest_path=place,
        workdir=place,
        owner=profile.owner,
    )
