"""Spare trees of the shared store: packages unfolded in advance, handed to a session before it asks.

    .store/spares/KEY-BOOT-HEX  a spare, this orchestrator's; no user of a session can pass that directory
    .store/locks/DIGEST         the key of the packages that a lock file of this digest came to on this host

A session's tool server cannot take one: it may only read the store, and the files are to be its own user's.
So the host moves one into the session's area, gives it to that user, and moves it on to the tool server's
state, while that starts. Which packages a workspace will ask for is guessed by its lock file; the tool server
alone knows the key, and removes what it was given for another. Whatever fails costs the time of a copy.
One comes back only from a start of which nothing ever ran: what a session could write to is no other's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator import processes
from orchestrator.dependency_store import MAX_BYTES, SPARES, SUFFIX
from orchestrator.directories import give_tree, private_directory
from orchestrator.paths import SessionArea
from protocol.package_managers import LOCK_FILES

PER_KEY = 1
"""Kept ready: whoever starts the same again within seconds gets copies."""
AFTER_SECONDS = 10.0
"""From a session's start until its spare is replaced: its dev server, up in 0.4 to 3 s when quiet, wants the
disk for itself until then."""
MAKE_SECONDS = 600.0
"""For one that is waited for: an Astro site's takes 3 s when quiet."""
_MAX_LOCK_BYTES = 64 * 1024 * 1024
"""The largest lock files have some megabytes; a gut feeling."""
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def lock_digest(directory: Path) -> str:
    """What a directory's packages are guessed by; empty when it has no lock file."""
    for name in LOCK_FILES:
        with contextlib.suppress(OSError):
            return hashlib.sha256(f"{name}\0".encode() + _content(directory / name)).hexdigest()
    return ""


def _content(path: Path) -> bytes:
    """Of a file; raises OSError for what is none, such as a fifo, which would be waited for."""
    with os.fdopen(os.open(path, _FILE), "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_LOCK_BYTES:
            raise OSError(f"{path} is no lock file")
        return file.read(_MAX_LOCK_BYTES)


def _name(key: str, which: str) -> str:
    """As the tool server writes and reads it."""
    return f"{key}-{processes.boot()[:8]}-{which}"


@dataclass(frozen=True)
class SpareTrees:
    """Those of one shared store. All methods block."""

    store: Path

    def note(self, lock: str, key: str) -> None:
        """A lock file of this digest comes to these packages."""
        directory = private_directory(self.store / "locks")
        fresh = directory / f".{secrets.token_hex(8)}"
        fresh.write_text(key)
        fresh.replace(directory / lock)

    def key_of(self, lock: str) -> str:
        """The packages that it came to; empty when nobody has warmed them."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return (self.store / "locks" / lock).read_text() if lock else ""
        return ""

    def reserve(self, lock: str, area: SessionArea, owner: int | None) -> Reserved | None:
        """Have one for a session whose tool server does not run yet; None when there is none."""
        key = self.key_of(lock)
        if not key:
            return None
        goal = area.state / SPARES
        try:
            goal.mkdir(mode=0o700)
            # Held from now on: whoever runs in the session later decides what is at that path.
            reserved = Reserved(key, area.directory / f"{SPARES}-{secrets.token_hex(8)}", owner, goal)
        except OSError:
            return None
        for each in self._of(key):
            # Another session was quicker, or it lies on another file system.
            with contextlib.suppress(OSError):
                each.rename(reserved.path)
                return reserved
        reserved.close()
        return None

    def take_back(self, area: SessionArea) -> None:
        """What was handed over to a session; only where it is certain that nothing ran as its user."""
        for tree in (area.state / SPARES).glob(_name("*", "*")):
            give_tree(tree, os.geteuid())
            os.chown(tree, os.geteuid(), os.getegid())
            tree.rename(self.store / SPARES / tree.name)

    def lacking(self, lock: str) -> str:
        """The key of packages that are there and have no spare tree; else empty.

        Whoever was to replace the last one may have been killed, or found the disk full.
        """
        key = self.key_of(lock)
        if not key or not (self.store / f"{key}{SUFFIX}").exists():
            return ""
        return "" if self._of(key) else key

    def refill(self, key: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Replace what was taken, some seconds later; a program that nobody waits for, and that ends."""
        return subprocess.Popen(
            self._command(key, AFTER_SECONDS),
            cwd="/",
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )

    def make(self, key: str) -> str:
        """Make them now, and wait; why there are none, as a sentence."""
        try:
            done = subprocess.run(
                self._command(key, 0),
                cwd="/",
                env={},
                capture_output=True,
                text=True,
                timeout=MAKE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no spare packages are made: that took more than {MAKE_SECONDS:g} s"
        return done.stderr.strip() if done.returncode else ""

    def _of(self, key: str) -> list[Path]:
        """Those of this boot: the others need not have reached the disk."""
        return sorted((self.store / SPARES).glob(_name(key, "*")))

    def _command(self, key: str, after: float) -> list[str]:
        program = (sys.executable, "-P", "-m", "toolserver.system.depstore")
        return [*program, str(self.store), key, str(PER_KEY), str(MAX_BYTES), str(after)]


class Reserved:
    """A spare in a session's area, where the host alone can write, and the place that it goes to."""

    def __init__(self, key: str, path: Path, owner: int | None, goal: Path) -> None:
        self.key, self.path = key, path
        self._owner = owner
        self._goal = os.open(goal, _DIRECTORY)
        if owner is not None:
            os.fchown(self._goal, owner, owner)

    def hand_over(self) -> None:
        """Make it the session's own; what cannot be handed over goes with the area."""
        try:
            if self._owner is not None:
                give_tree(self.path, self._owner)
                os.chown(self.path, self._owner, self._owner)
            os.rename(self.path, _name(self.key, secrets.token_hex(8)), dst_dir_fd=self._goal)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the place; again does nothing."""
        goal, self._goal = self._goal, -1
        if goal >= 0:
            os.close(goal)
