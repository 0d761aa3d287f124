"""Everything that can be refused, in one tree, for both sides of the wall.

    ToolError                     code                status  retryable
    ├── InvalidRequest            invalid_request        400  no
    ├── Unauthorized              unauthorized           401  no
    ├── Forbidden                 forbidden              403  no
    ├── OutsideWorkspace          outside_workspace      403  no
    ├── NotFound                  not_found              404  no
    ├── NotAFile                  not_a_file             409  no
    ├── AlreadyExists             already_exists         409  no
    ├── Conflict                  conflict               409  no
    ├── NoMatch                   no_match               422  no
    ├── AmbiguousMatch            ambiguous_match        422  no
    ├── TooLarge                  too_large              413  no
    ├── ArchiveInvalid            archive_invalid        422  no
    ├── ArchiveUnsafe             archive_unsafe         422  no
    ├── InstallFailed             install_failed         422  no
    ├── DevServerFailed           dev_server_failed      422  no
    ├── Timeout                   timeout                504  yes
    ├── Cancelled                 cancelled              499  yes
    ├── Busy                      busy                   503  yes
    ├── RateLimited               rate_limited           429  yes
    ├── NoSpace                   no_space               507  no
    ├── Unavailable               unavailable            503  yes
    └── Internal                  internal               500  no

The daemon raises one, a door sends its body, and a client raises the same class again. A message is a
sentence that a person or an agent can act on; ``details`` holds the data. A published code keeps its meaning.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The ``error`` object of an answer, the same on every door."""

    code: str
    message: str
    details: dict[str, Any] = {}
    retryable: bool = False
    request_id: str = ""


class ToolError(Exception):
    """A refusal. ``details`` holds JSON values only, by the names they have on the wire.

    >>> NotFound("no process 'x'", process_id="x").details
    {'processId': 'x'}
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = {_on_the_wire(name): value for name, value in details.items()}
        self.request_id = ""
        """Of the request that was refused; on the asking side only. The tool server's log has the same."""

    def body(self, request_id: str = "") -> ErrorBody:
        """What is sent: the class's code, this message, these details."""
        return ErrorBody(
            code=self.code,
            message=self.message,
            details=self.details,
            retryable=self.retryable,
            request_id=request_id,
        )


def _on_the_wire(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


class InvalidRequest(ToolError):
    """The request itself is wrong: its form, a field, a value."""

    code, status = "invalid_request", 400


class Unauthorized(ToolError):
    """No token, or not one that this tool server takes."""

    code, status = "unauthorized", 401


class Forbidden(ToolError):
    """The token is good, but not for this."""

    code, status = "forbidden", 403


class OutsideWorkspace(ToolError):
    """The path, or a link on it, leaves the workspace root."""

    code, status = "outside_workspace", 403


class NotFound(ToolError):
    """There is nothing of that name: a path, an operation, a process, a program."""

    code, status = "not_found", 404


class NotAFile(ToolError):
    """The path is there but is not of the kind that the operation needs."""

    code, status = "not_a_file", 409


class AlreadyExists(ToolError):
    """Something of that name is there, and was not to be replaced."""

    code, status = "already_exists", 409


class Conflict(ToolError):
    """The content, or the state, is not the one that the request expected."""

    code, status = "conflict", 409


class NoMatch(ToolError):
    """The text to replace does not occur."""

    code, status = "no_match", 422


class AmbiguousMatch(ToolError):
    """The text to replace occurs several times."""

    code, status = "ambiguous_match", 422


class TooLarge(ToolError):
    """A limit in bytes or in number was passed; ``details`` names it and its value."""

    code, status = "too_large", 413


class ArchiveInvalid(ToolError):
    """The archive is damaged, cut short, empty or not an archive."""

    code, status = "archive_invalid", 422


class ArchiveUnsafe(ToolError):
    """The archive is readable, but a member of it would reach outside the workspace."""

    code, status = "archive_unsafe", 422


class InstallFailed(ToolError):
    """The package manager failed; ``details`` carries its own last lines."""

    code, status = "install_failed", 422


class DevServerFailed(ToolError):
    """The dev server ended, never answered, or could not start."""

    code, status = "dev_server_failed", 422


class Timeout(ToolError):
    """A clock ran out; ``details`` names the clock and its value."""

    code, status, retryable = "timeout", 504, True


class Cancelled(ToolError):
    """The caller asked for it to end."""

    code, status, retryable = "cancelled", 499, True


class Busy(ToolError):
    """Something that excludes this is under way."""

    code, status, retryable = "busy", 503, True


class RateLimited(ToolError):
    """More requests than the limit allows; ``details`` names it."""

    code, status, retryable = "rate_limited", 429, True


class NoSpace(ToolError):
    """The disk, or the workspace's share of it, is full. Nothing was changed."""

    code, status = "no_space", 507


class Unavailable(ToolError):
    """The tool server could not be reached, or went away before it answered. Raised by clients."""

    code, status, retryable = "unavailable", 503, True


class Internal(ToolError):
    """Our fault: never sent for something the caller did."""

    code, status = "internal", 500


BY_CODE: dict[str, type[ToolError]] = {kind.code: kind for kind in ToolError.__subclasses__()}


def from_body(body: ErrorBody) -> ToolError:
    """The error that ``body`` tells of, to be raised on the asking side; a code not known here is Internal.

    >>> from_body(NotFound("no file a.txt", path="a.txt").body("r1"))
    NotFound('no file a.txt')
    """
    error = BY_CODE.get(body.code, Internal)(body.message)
    error.details, error.request_id = body.details, body.request_id
    return error
