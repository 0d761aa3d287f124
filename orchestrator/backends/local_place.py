"""Where one sandbox of this host lies: its directories, its log, and the label that tells whose it is."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from orchestrator import processes
from orchestrator.backends import Guest, GuestState
from orchestrator.directories import private_directory, remove_tree
from orchestrator.paths import PathManager, SessionArea
from protocol.errors import AlreadyExists

LABEL_FILE = "guest.json"
PID, STARTED = "pid", "started"
WRAPPER = "wrapper"
"""The process around the daemon, when there is one: ``pid:started``."""

_LOG_TAIL_CHARACTERS = 2000


@dataclass(frozen=True)
class Place:
    """One sandbox's directories and files."""

    session_id: str
    root: Path
    area: SessionArea
    log: Path

    @classmethod
    def of(cls, paths: PathManager, guest_id: str) -> Place:
        """That of a guest, by its id."""
        user, _, session = guest_id.partition("/")
        area = paths.session_area(user, session)
        return cls(session, paths.workspace_dir(user, session), area, paths.log_path(user, session))

    @property
    def stdout(self) -> Path:
        """What the daemon says first: where it listens."""
        return self.area.directory / "stdout"

    @property
    def label(self) -> Path:
        """By which any orchestrator finds it again."""
        return self.area.directory / LABEL_FILE

    def exists(self) -> bool:
        """Whether anything of it is there."""
        return self.root.exists() or self.area.directory.exists()

    def make(self, existing: bool = False) -> None:
        """All directories, private; with ``existing`` the files are there before. Raises AlreadyExists."""
        try:
            # Of two who start one session at once, one makes the first of these.
            fresh = self.area.directories if existing else (self.root, *self.area.directories)
            for directory in fresh:
                private_directory(directory, exist_ok=False)
            private_directory(self.root)
        except FileExistsError:
            raise AlreadyExists(
                f"session {self.session_id} has a directory already; remove it by `workspace down "
                f"{self.session_id} --remove`, or choose another id",
                sessionId=self.session_id,
            ) from None
        private_directory(self.log.parent)

    def remove(self, keep_root: bool) -> None:
        """All but the log; the files, too, unless ``keep_root``."""
        remove_tree(self.area.directory)
        if not keep_root:
            remove_tree(self.root)

    def write_label(self, guest: Guest) -> None:
        """Whole or not at all."""
        # Renamed into place: another orchestrator may be reading it.
        fresh = self.label.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(guest))
        fresh.replace(self.label)

    def read_label(self) -> Guest | None:
        """None where there is none, or a damaged one."""
        return read_label(self.label)

    def has_listened(self) -> bool:
        """Whether its daemon has come as far as that."""
        with contextlib.suppress(OSError):
            return self.stdout.stat().st_size > 0
        return False

    def last_lines(self) -> list[str]:
        """Of the log, as many as make some 2000 characters; none where there is no log."""
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:].strip().splitlines()
        return []


def read_label(label: Path) -> Guest | None:
    """None where there is none, or one that a crash cut short: then the marker alone finds the processes."""
    try:
        return msgspec.json.decode(label.read_bytes(), type=Guest)
    except (OSError, msgspec.DecodeError):
        return None


def observed(guest: Guest) -> Guest:
    """The same, running or dead, as its process is now."""
    pid, started = int(guest.labels.get(PID, "0")), int(guest.labels.get(STARTED, "0"))
    state = GuestState.RUNNING if processes.is_running(pid, started) else GuestState.DEAD
    return msgspec.structs.replace(guest, state=state)
