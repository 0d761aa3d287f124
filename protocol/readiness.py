"""What a readiness may say: asked by the tool server before a start, and by whoever looks a template over."""

from __future__ import annotations

import re
from collections.abc import Iterator

from protocol.messages.devserver import Readiness

_MAX_PATTERN = 1000
"""Characters: enough to name a line, and soon compiled."""


def probe_kinds(readiness: Readiness) -> list[str]:
    """The kinds that a readiness names.

    >>> probe_kinds(Readiness(port=True))
    ['port']
    """
    return [kind for kind in ("http", "port", "log", "file", "command") if getattr(readiness, kind)]


def readiness_problems(readiness: Readiness) -> Iterator[tuple[str, str]]:
    """Each field that cannot be waited for, and why.

    >>> list(readiness_problems(Readiness(timeout_ms=0)))
    [('readiness.timeoutMs', 'must be above 0')]
    """
    if len(kinds := probe_kinds(readiness)) > 1:
        yield "readiness", f"takes one kind, not {' and '.join(kinds)}"
    if readiness.timeout_ms is not None and readiness.timeout_ms <= 0:
        yield "readiness.timeoutMs", "must be above 0"
    http = readiness.http
    if http is not None and not re.fullmatch(r"/[^\s]*", http.path):
        yield "readiness.http.path", "begins with / and has no spaces"
    if http is not None and http.status is not None and not 100 <= http.status <= 599:
        yield "readiness.http.status", "is from 100 to 599"
    if readiness.command is not None and not readiness.command.command.strip():
        yield "readiness.command.command", "is empty"
    pattern = readiness.log.pattern if readiness.log else ""
    if len(pattern) > _MAX_PATTERN:
        yield "readiness.log.pattern", f"has {len(pattern)} characters; {_MAX_PATTERN} are the most"
        return
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        yield "readiness.log.pattern", f"is no regular expression: {error}"
