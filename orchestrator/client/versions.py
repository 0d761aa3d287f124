"""A tool server of another build than this program: told as that, and not as a fault of the caller's.

A request made here has only names and values that this program knows. So a tool server that knows no such
operation, field or value is of another build, and changing the request would be the wrong advice.
"""

from __future__ import annotations

from protocol import __version__
from protocol.codec import field_names
from protocol.errors import Internal, InvalidRequest, NotFound, ToolError
from protocol.messages.base import Request

_FIX = (
    "rebuild its image by `make image` where it runs in one, then start the session anew by "
    "`workspace down` and `workspace up`"
)


def explained(error: ToolError, operation: str, request: Request, url: str, version: str | None) -> ToolError:
    """What to raise for what the tool server at ``url`` answered; ``version`` is None where it told none.

    >>> from protocol.messages.files import Stat
    >>> refused = InvalidRequest("unknown field 'path'; known are name", field="path")
    >>> print(explained(refused, "stat", Stat(path="a"), "http://h:1", "0.0.9").message.partition(" (")[0])
    the tool server at http://h:1 knows no field 'path' of 'stat', which this program does
    >>> explained(InvalidRequest("'limit' must be above 0", field="limit"), "list", Stat(path="a"), "", None)
    InvalidRequest("'limit' must be above 0")
    """
    lacking = _lacking(error, operation, request)
    if lacking is None:
        return error
    told = Internal(
        f"the tool server at {url} knows no {lacking}, which this program does "
        f"(version {version or 'unknown'} there, {__version__} here); {_FIX}",
        url=url,
        version=version,
        refused=error.message,
    )
    told.request_id = error.request_id
    return told


def _lacking(error: ToolError, operation: str, request: Request) -> str | None:
    match error:
        case NotFound(details={"operation": str(named)}) if named == operation:
            return f"operation {operation!r}"
        case InvalidRequest(details={"field": str(field)}) if _last(field) in field_names(type(request)):
            if error.message.startswith("unknown field "):
                return f"field {field!r} of {operation!r}"
            if error.message.startswith("invalid enum value "):
                return f"such value of {field!r} of {operation!r}"
    return None


def _last(field: str) -> str:
    """
    >>> _last("edits[...].oldText"), _last("in")
    ('oldText', 'in')
    """
    return field.rpartition(".")[2].partition("[")[0]
