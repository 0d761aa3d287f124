"""A template's files with its variables put in: checked before anything is started, packed for the originals.

Only what template.json lists is read, and only plain files: somebody else may have written it.
The directory itself is never written to.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.templates import Source, SourceKind
from protocol.errors import InvalidRequest
from protocol.limits import MIB
from protocol.paths import workspace_path
from protocol.template_variables import Value, placeholders, resolved, substituted
from protocol.templates import Template

MAX_SUBSTITUTED_BYTES = 1 * MIB
"""One listed file, which is held in memory: source text, not data."""


def with_values(source: Source, given: Mapping[str, Value]) -> Source:
    """The same, with what was chosen for its variables. Blocks.

    Raises InvalidRequest, before anything is started, for an unknown variable, for a value that is not of its
    type, for a variable that is needed and has none, and for a listed file that cannot be read.
    """
    if source.kind is SourceKind.ARCHIVE:
        if given:
            raise InvalidRequest(
                f"{source.name} is an archive, sent in as it is: variables are for a template or a directory"
            )
        return source
    chosen = replace(source, given=dict(given))
    substituted_files(chosen)
    return chosen


def substituted_files(source: Source) -> dict[str, bytes]:
    """The listed files that change, with their new content. Blocks; raises as ``with_values`` does."""
    template = source.template
    values = resolved(template.variables, source.given)
    found = {}
    for path in template.substitute:
        content = _content(source.path, path)
        _refuse_missing(source, path, placeholders(content) & template.variables.keys() - values.keys())
        if (put_in := substituted(content, values)) != content:
            found[str(workspace_path(path))] = put_in
    return found


def listed_placeholders(directory: Path, template: Template) -> dict[str, set[str]]:
    """What stands in double braces in each listed file that is there. Blocks."""
    listed = [path for path in template.substitute if (directory / workspace_path(path)).exists()]
    return {path: placeholders(_content(directory, path)) for path in listed}


def _refuse_missing(source: Source, path: str, missing: set[str]) -> None:
    for name in sorted(missing):
        raise InvalidRequest(
            f"{source.name} needs a value for {name!r}, which {path} has: give one by --set {name}=VALUE",
            variable=name,
        )


def _content(directory: Path, path: str) -> bytes:
    file = directory / workspace_path(path)
    try:
        # Looked at first: to open a fifo would wait for its other end.
        info = file.lstat()
        if not stat.S_ISREG(info.st_mode):
            raise InvalidRequest(f"substitute lists {path!r}, which is no plain file", path=path)
        if info.st_size > MAX_SUBSTITUTED_BYTES:
            raise InvalidRequest(
                f"substitute lists {path!r}, which has more than {MAX_SUBSTITUTED_BYTES} bytes",
                path=path,
            )
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as opened:
            return opened.read()
    except OSError as error:
        raise InvalidRequest(
            f"substitute lists {path!r}, which cannot be read: {error.strerror}", path=path
        ) from error
