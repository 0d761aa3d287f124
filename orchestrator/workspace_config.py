"""One path policy for every provider: from a project's id to the paths that it may use, and no other.

A layout is data: where the workspace lies, where in it the project's own directory, which root both start
from. Containment is decided on components, never on string prefixes: ``/workspace/ab`` is not inside the
project ``a``. Unicode and case are left alone.

Pure: no disk is asked, no environment read, nothing happens on import. So a path found safe here is safe as a
*name*. Whether a link on the way leads out is the kernel's decision, when the tool server opens it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NewType

from orchestrator.paths import PathManager
from protocol.errors import InvalidRequest, OutsideWorkspace, ToolError
from protocol.paths import GUEST_ROOTS, WorkspacePath, workspace_path

ProjectId = NewType("ProjectId", str)
"""A checked project id. Only ``project_id`` makes one."""
GuestPath = NewType("GuestPath", str)
"""A checked path where the sandbox runs, absolute. Only ``guest_path`` and a ``WorkspaceConfig`` make one."""

ROOT_VARIABLE = "SANDBOX_WORKSPACE_ROOT"
PROVIDER_VARIABLE = "SANDBOX_PROVIDER"
CORE_IMAGE_ROOT = "/app"
"""Where the core image has its workspace."""
HOME_WORKSPACE = "workspace"
"""The directory in a guest's home that takes the operator's own directory, in other images."""

# As the ids of users and sessions: on the many-user host a project is a session.
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Layout:
    """Where things lie for one kind of provider. ``{root}`` and ``{project}`` are filled in."""

    workspace: str
    """What a tool is told is the workspace: what all of its projects share, where they share one."""
    directory: str
    """The project's own directory, from which its relative paths start and which none of them leaves."""
    root: str | None = None
    """Where it starts; None: whoever makes the config says it."""
    root_is_fixed: bool = False
    """The image decides on the root, and no variable moves it."""


LAYOUTS: Mapping[str, Layout] = {
    "shared": Layout("{root}", "{root}/{project}", root="/workspace"),
    "own_directory": Layout("{root}/{project}", "{root}/{project}", root="/workspace"),
    "core_image": Layout("{root}", "{root}", root=CORE_IMAGE_ROOT, root_is_fixed=True),
    "many_users": Layout("{root}/{project}", "{root}/{project}"),
}

PROVIDERS: Mapping[str, str] = {
    "local_process": "own_directory",
    "docker": "core_image",
    "smolmachines": "core_image",
    "kubernetes": "core_image",
    "daytona": "shared",
}
"""Provider -> its layout's name."""
DEFAULT_PROVIDER = "local_process"


def project_id(raw: str) -> ProjectId:
    """``raw``, checked; raises InvalidRequest."""
    if not _ID.fullmatch(raw):
        raise InvalidRequest(
            f"project id {raw[:200]!r} is refused: use 1 to 128 of A-Z a-z 0-9 . _ -, no dot first",
            id=raw[:200],
        )
    return ProjectId(raw)


def guest_path(raw: str, what: str = "guest path") -> GuestPath:
    """``raw``, checked, without a slash at the end; raises InvalidRequest, which names it as ``what``.

    >>> guest_path("/home/node/"), guest_path("/my projects/a")
    ('/home/node', '/my projects/a')
    >>> guest_path("x", "home")
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: home 'x' is refused: give an absolute path below /, without . and ..
    """
    names = [name for name in raw.split("/") if name]
    if not raw.startswith("/") or not names or {".", ".."}.intersection(names):
        raise InvalidRequest(f"{what} {raw!r} is refused: {_GUEST_PATH_RULE}", path=raw)
    if not raw.isprintable() or _SPECIAL.intersection(raw):
        special = " ".join(sorted(_SPECIAL))
        raise InvalidRequest(
            f"{what} {raw!r} is refused: no control characters, and none of {special}", path=raw
        )
    return GuestPath("/" + "/".join(names))


def is_guest_path(raw: str) -> bool:
    """Whether ``guest_path`` takes it.

    >>> is_guest_path("/my projects"), is_guest_path("/o'brien")
    (True, False)
    """
    try:
        return bool(guest_path(raw))
    except InvalidRequest:
        return False


_GUEST_PATH_RULE = "give an absolute path below /, without . and .."
_SPECIAL = frozenset("$`\"'\\")
"""It is written into Dockerfiles and commands, where these mean something."""


@dataclass(frozen=True)
class WorkspaceConfig:
    """The policy of one provider. One for all tools; make it by a class method."""

    layout: Layout
    root: GuestPath

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> WorkspaceConfig:
        """By SANDBOX_PROVIDER and SANDBOX_WORKSPACE_ROOT; raises InvalidRequest.

        >>> WorkspaceConfig.from_env({"SANDBOX_PROVIDER": "daytona"}).get_project_directory_path("a")
        '/workspace/a'
        """
        provider = environ.get(PROVIDER_VARIABLE) or DEFAULT_PROVIDER
        return cls.for_provider(provider, environ.get(ROOT_VARIABLE) or None)

    @classmethod
    def for_provider(cls, provider: str, root: str | None = None) -> WorkspaceConfig:
        """Of a provider by its name; ``root`` in place of the layout's own. Raises InvalidRequest."""
        if provider not in PROVIDERS:
            known = ", ".join(PROVIDERS)
            raise InvalidRequest(f"{PROVIDER_VARIABLE}={provider!r} is no provider: choose one of {known}")
        layout = LAYOUTS[PROVIDERS[provider]]
        if layout.root_is_fixed and root is not None:
            _refuse_moving(layout, provider, root)
            root = None
        return cls(layout, guest_path(root or layout.root or "", ROOT_VARIABLE))

    @classmethod
    def for_user(cls, paths: PathManager, user: str) -> WorkspaceConfig:
        """Of one user on the host of many: a project is one of this user's sessions."""
        # A place on this host, and never written into a Dockerfile: whatever its name, it is there.
        return cls(LAYOUTS["many_users"], GuestPath(str(paths.user_workspace_root(user))))

    def get_project_workspace_path(self, project_id: str) -> GuestPath:
        """The workspace, as tools are told of it."""
        return self._filled(self.layout.workspace, project_id)

    def get_project_directory_path(self, project_id: str) -> GuestPath:
        """The project's own directory."""
        return self._filled(self.layout.directory, project_id)

    def get_file_upload_path(self, project_id: str, filename: str) -> GuestPath:
        """Where an uploaded file goes. ``filename`` is a name, not a path; raises InvalidRequest."""
        return self.resolve_path(upload_name(filename), project_id)

    def normalize_path(self, path: str, project_id: str) -> WorkspacePath:
        """``path`` from the project's directory on, in normal form.

        Takes relative paths, and absolute ones below the directory. Raises OutsideWorkspace, or
        InvalidRequest for what no file system takes.

        >>> config = WorkspaceConfig.for_provider("docker")
        >>> [config.normalize_path(path, "p") for path in ("./a//b", "/app/a", "/workspace/a", "p/p/a")]
        ['a/b', 'a', 'a', 'p/p/a']
        """
        directory = self.get_project_directory_path(project_id)
        _refuse_unencodable(path)
        if not path.startswith("/"):
            return workspace_path(path)
        names = [name for name in path.split("/") if name not in ("", ".")]
        for base in (directory, *self._spellings()):
            above = base.split("/")[1:]
            if names[: len(above)] == above:
                return workspace_path("/".join(names[len(above) :]) or ".")
        raise OutsideWorkspace(f"{path!r} is outside of {directory}; use a path below it", path=path)

    def is_path_safe(self, path: str, project_id: str) -> bool:
        """Whether ``normalize_path`` takes it. Never raises: of a project that cannot be, nothing is safe."""
        try:
            self.normalize_path(path, project_id)
        except ToolError:
            return False
        return True

    def resolve_path(self, path: str, project_id: str) -> GuestPath:
        """The absolute path of what ``normalize_path`` took. Its names keep every character they have."""
        relative = self.normalize_path(path, project_id)
        directory = self.get_project_directory_path(project_id)
        return directory if relative == "." else GuestPath(f"{directory}/{relative}")

    def _filled(self, pattern: str, project: str) -> GuestPath:
        return GuestPath(pattern.format(root=self.root, project=project_id(project)))

    def _spellings(self) -> list[str]:
        """Prefixes that mean the directory everywhere, less those that have a meaning of their own here."""
        own = self.root
        return [base for base in GUEST_ROOTS if not (_is_below(base, own) or _is_below(own, base))]


def upload_name(filename: str) -> WorkspacePath:
    """``filename``, checked to be a base name; raises InvalidRequest or OutsideWorkspace.

    >>> upload_name("notes for Ann.txt")
    'notes for Ann.txt'
    >>> upload_name("../x")
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: '../x' is no file name: give its last part only, without a directory
    """
    # A backslash: some programs send the whole path of the machine that they run on.
    if filename in ("", ".", "..") or "/" in filename or "\\" in filename:
        raise InvalidRequest(
            f"{filename[:200]!r} is no file name: give its last part only, without a directory",
            path=filename[:200],
        )
    _refuse_unencodable(filename)
    return workspace_path(filename)


def _is_below(path: str, above: str) -> bool:
    """On components, a path being below itself.

    >>> _is_below("/a/b", "/a"), _is_below("/ab", "/a"), _is_below("/a", "/")
    (True, False, True)
    """
    return Path(path).is_relative_to(above)


def _refuse_moving(layout: Layout, provider: str, root: str) -> None:
    # Both standing spellings mean the root there, so configurations that name one are right as they are.
    if guest_path(root, ROOT_VARIABLE) not in GUEST_ROOTS:
        raise InvalidRequest(
            f"{ROOT_VARIABLE}={root!r} is refused: {provider} runs the core image, whose workspace is "
            f"{layout.root}; leave the variable out"
        )


def _refuse_unencodable(path: str) -> None:
    try:
        path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequest(f"{path[:200]!r} holds half a character, which no file system takes") from None
