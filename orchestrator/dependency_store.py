"""The shared dependency store: packs that this host made itself, for every workspace to read.

Nobody's workspace can put anything here: what one user has installed is not to be run by another. A pack's
content is checked by each tool server that takes it; here it is only named, bounded and put in place whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.directories import private_directory, remove_tree
from protocol.errors import Internal

SUFFIX = ".pack"
SPARES = "spares"
"""Trees unfolded in advance (see ``orchestrator.spares``): in a store, and in a tool server's state."""
MAX_BYTES = 8 * 1024**3
"""Of all packs and spares together: some forty large sets of packages; then spares go, and the least recently
used packs."""
_KEY = re.compile(r"[0-9a-f]{64}")
_PASS = 0o011
_UNFINISHED = "making-"
"""Begins the names of spares that are not whole; whoever makes the next one removes them."""


@dataclass(frozen=True)
class SharedStore:
    """The packs in ``directory``, which is made when the first one comes."""

    directory: Path
    max_bytes: int = MAX_BYTES

    def has_packs(self) -> bool:
        """Whether there is anything to share."""
        return next(self.directory.glob(f"*{SUFFIX}"), None) is not None

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> Path:
        """A pack under its key, whole or not at all; raises Internal for what is no key."""
        if not _KEY.fullmatch(key):
            raise Internal(f"{key!r} is no key of a dependency store")
        self.make()
        part = self.directory / f".{key}-{secrets.token_hex(4)}"
        try:
            with part.open("xb") as out:
                async for chunk in chunks:
                    out.write(chunk)  # ours to wait for: nothing else goes on while a store is warmed
                out.flush()
                os.fsync(out.fileno())
            part.chmod(0o444)
            self._make_room(part.stat().st_size)
            return part.rename(self.directory / f"{key}{SUFFIX}")
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def make(self) -> None:
        """The directory: to be read by who knows a key, listed by its owner."""
        private_directory(self.directory)
        self.directory.chmod(self.directory.stat().st_mode & 0o7777 | _PASS)

    def _make_room(self, size: int) -> None:
        packs = sorted(_packs(self.directory))
        used = size + sum(each for _, each, _ in packs)
        sizes = {path.name.removesuffix(SUFFIX): each for _, each, path in packs}
        for spare in self._spares_oldest_last():
            kept = sizes.get(spare.name.partition("-")[0], 0)  # one holds what its pack does
            if kept and used + kept <= self.max_bytes:
                used += kept
            else:
                _remove(spare)
        for _, freed, path in packs:
            if used > self.max_bytes:
                path.unlink(missing_ok=True)
                used -= freed

    def _spares_oldest_last(self) -> list[Path]:
        found = []
        for path in (self.directory / SPARES).glob("[0-9a-f]*-*"):
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_ctime_ns, path))
        return [path for _, path in sorted(found, reverse=True)]


def _remove(spare: Path) -> None:
    """Under a name that nobody takes: a session is not to get what is half removed, nor after a kill."""
    gone = spare.with_name(f"{_UNFINISHED}{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):  # a session was quicker
        spare.rename(gone)
        remove_tree(gone)


def _packs(directory: Path) -> Iterator[tuple[float, int, Path]]:
    for path in directory.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            info = path.stat()
            # Those who read it may not set its time; the file system notes once a day that they did.
            yield max(info.st_mtime, info.st_atime), info.st_size, path
