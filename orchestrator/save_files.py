"""One save in its directory: what it is called, what stands beside it, whether it is whole, how it goes.

A save is the archive; its note tells what the archive was when it was made, and is there before it. One that
was brought in by hand has no note, and is a save all the same: its content says whether it is whole.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from orchestrator.archive_check import Checked, read_through
from orchestrator.durable import PART, write_private
from orchestrator.save_rules import Kept, SaveRecord, number_of
from orchestrator.saves import SUFFIXES
from protocol.errors import ArchiveInvalid

SUFFIX = ".tar.gz"
"""Of what is written here. Whatever else bears an archive's suffix is a save as well."""
_NOTE = ".json"
_OURS = re.compile(rf"\.\d{{4,18}}_\d{{8}}_\d{{6}}_[0-9a-f]{{8}}\.(tar\.gz|json\.[0-9a-f]{{8}})\{PART}")


def save_name_of(path: Path) -> str | None:
    """A save's name: without our own suffix, and with any other; None for what is no save.

    >>> [save_name_of(Path(name)) for name in ("a/0001_x.tar.gz", "old.tar", ".x.tar.gz", "x.json")]
    ['0001_x', 'old.tar', None, None]
    """
    if path.name.startswith(".") or not path.name.endswith(tuple(SUFFIXES)):
        return None
    return path.name.removesuffix(SUFFIX)


def _note_of(path: Path) -> Path:
    return path.with_name(f"{save_name_of(path)}{_NOTE}")


def look_at(path: Path) -> Kept | None:
    """None when it is no file, or was removed just now."""
    try:
        info = path.stat()
    except FileNotFoundError:
        return None
    if not path.is_file():
        return None
    record, changed = read_note(path), datetime.fromtimestamp(info.st_mtime, UTC)
    created = _instant(record.created) if record else changed
    return Kept(save_name_of(path) or path.name, info.st_size, created, record)


def read_note(path: Path) -> SaveRecord | None:
    try:
        record = msgspec.json.decode(_note_of(path).read_bytes(), type=SaveRecord)
        _instant(record.created)
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return None
    return record


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def write_note(directory: Path, record: SaveRecord) -> None:
    """Whole or not at all."""
    note = msgspec.json.format(msgspec.json.encode(record)) + b"\n"
    write_private(directory / f"{record.name}{_NOTE}", note)


def record_of(name: str, now: datetime, workspace: str, session: str | None, checked: Checked) -> SaveRecord:
    return SaveRecord(
        name=name,
        number=number_of(name),
        created=now.isoformat(timespec="milliseconds"),
        workspace=workspace,
        session=session,
        format=checked.format.value,
        size=checked.size,
        sha256=checked.sha256,
        digest=checked.digest,
        files=checked.files,
    )


def wrong_with(save: Kept, path: Path) -> str | None:
    """A clause for a person; None when the save is whole, and is what was written down."""
    try:
        checked = read_through(path)
    except ArchiveInvalid as error:
        return error.message
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if save.record and (checked.sha256, checked.digest) != (save.record.sha256, save.record.digest):
        return f"{path} is not what was saved: its sha256 is {checked.sha256}, not {save.record.sha256}"
    return None


def removed(path: Path) -> bool:
    """Whether it is gone now, with its note: not while somebody holds it, or the disk refuses."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        if save_name_of(path) is not None:
            _note_of(path).unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def is_leftover(path: Path, seconds: float) -> bool:
    """Whether nobody needs it, by its name and its age: a part, or the note of a save that is not there."""
    name = path.name.removesuffix(_NOTE)
    if name != path.name and number_of(name):
        ways = [path.with_name(f".{name}{SUFFIX}{PART}"), path.with_name(f"{name}{SUFFIX}")]
        ours = not any(way.exists() for way in ways)
    else:
        ours = _OURS.fullmatch(path.name) is not None
    return ours and time.time() - _changed(path) > seconds


def _changed(path: Path) -> float:
    """When, in seconds since 1970; now, for what is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
