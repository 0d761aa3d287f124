"""An older template.json, rewritten on the disk. ``protocol.template_migration`` decides what comes of it."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.directories import content_of
from orchestrator.durable import write_private
from protocol.errors import InvalidRequest
from protocol.template_migration import migrated
from protocol.templates import MAX_PACKAGE_BYTES, PACKAGE_FILE, TEMPLATE_FILE, package_object


@dataclass(frozen=True)
class Rewritten:
    """What template.json is, or would be."""

    file: Path
    template: dict[str, Any]
    remarks: tuple[str, ...]

    @property
    def text(self) -> str:
        """As it is written."""
        return json.dumps(self.template, indent=2, ensure_ascii=False) + "\n"


def migrate(directory: Path, write: bool) -> Rewritten:
    """The directory's template.json in today's form, and in its place when ``write``. Blocks.

    Raises InvalidRequest when there is none, when it is not of the older form, and when what came of it would
    not be valid; then nothing is written.
    """
    old = _object(directory / TEMPLATE_FILE)
    if old is None:
        raise InvalidRequest(f"{directory} has no {TEMPLATE_FILE}: there is nothing to migrate")
    done = migrated(old, _object(directory / PACKAGE_FILE))
    found = Rewritten(directory / TEMPLATE_FILE, done.template, done.remarks)
    if write:
        mode = stat.S_IMODE(found.file.stat().st_mode)
        write_private(found.file.resolve(), found.text.encode())
        found.file.chmod(mode)
    return found


def _object(file: Path) -> dict[str, Any] | None:
    """None when there is no such file."""
    try:
        return package_object(content_of(file, MAX_PACKAGE_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}", path=str(file)) from error
    except ValueError as error:
        raise InvalidRequest(f"{file} cannot be read: {error}", path=str(file)) from error
