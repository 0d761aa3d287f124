"""Which packs there are: first the host's, to be read only, then those of the workspace's owner.

    DIRECTORY/KEY.pack      a pack; renamed into place when it is whole
    DIRECTORY/KEY.part      one being filled, locked by who fills it; of a killed one the lock is free again
    DIRECTORY/NAME.note     a line to be known sooner the next time, and the digest of both
    DIRECTORY/spares        trees that were unfolded in advance (see ``spares``)

Nobody is waited for: a pack that another is filling is left to that one, and one that is dropped while it is
read stays readable to who has it open. When a new one does not fit, spares go, and then the least recently
used packs; each use sets a pack's time. All methods block.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from toolserver.system.copying import held
from toolserver.system.depstore.filling import Order, Unfit, fill
from toolserver.system.depstore.pack import CorruptPack, Index, read_index
from toolserver.system.depstore.spares import NAME, Spares, is_shared_by_users

SUFFIX, _PART, _NOTE = ".pack", ".part", ".note"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_NOTE_BYTES = 4096
"""Of a note: a line about one program has some twenty, and a digest 64."""
_STALE_SECONDS = 24 * 60 * 60
"""A part that nobody has touched for so long is a killed one's."""


@dataclass(frozen=True)
class Layer:
    """One directory of packs."""

    directory: Path
    shared: bool
    """The host's: never written here."""

    @property
    def name(self) -> str:
        """For a person."""
        return "shared" if self.shared else "own"

    def told(self, error: OSError) -> str:
        """The sentence for a pack, or a place for one, that cannot be opened."""
        variable = "TOOL_SERVER_SHARED_STORE" if self.shared else "TOOL_SERVER_STORE_DIR"
        if isinstance(error, NotADirectoryError):
            return (
                f"the {self.name} store at {self.directory} is no directory; remove what is there, "
                f"or name another place in {variable}"
            )
        return (
            f"the {self.name} store at {self.directory} cannot be read ({error.strerror}); "
            f"give the tool server's user access, or name another place in {variable}"
        )


@dataclass(frozen=True)
class Found:
    """A pack, open."""

    layer: Layer
    path: Path
    fd: int
    index: Index

    @property
    def key(self) -> str:
        """What it is known by."""
        return self.path.name.removesuffix(SUFFIX)


@dataclass
class Store:
    """All layers, the first one that has a pack is taken."""

    layers: tuple[Layer, ...]
    max_bytes: int
    """Of the own layer, its spares included."""
    max_spares: int = 1
    """Of each pack."""
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def own(self) -> Layer | None:
        """The one that is filled."""
        return next((layer for layer in self.layers if not layer.shared), None)

    def find(self, key: str, root: str, complaints: list[str]) -> Iterator[Found]:
        """The packs of ``key`` that serve a workspace at ``root``; what is wrong with others is told.

        Each is open until the next one is asked for.
        """
        for layer in self.layers:
            path = layer.directory / f"{key}{SUFFIX}"
            try:
                fd = os.open(path, _READ)
            except FileNotFoundError:
                continue
            except OSError as error:
                complaints.append(layer.told(error))
                continue
            with held(fd):
                try:
                    index = read_index(fd)
                except (CorruptPack, OSError) as error:
                    complaints.append(self.drop(layer, path, str(error)))
                    continue
                if index.bound and index.root != root:
                    complaints.append(f"the {layer.name} store's packages are good for {index.root} only")
                    continue
                with contextlib.suppress(OSError):
                    os.utime(path)
                yield Found(layer, path, fd, index)

    def drop(self, layer: Layer, path: Path, reason: str) -> str:
        """A corrupt pack goes; the sentence to tell. The host's own can only be passed over."""
        if layer.shared:
            return f"a pack of the shared store is passed over, for {reason}; warm it again"
        with contextlib.suppress(OSError):
            path.unlink()
        return f"a pack of the own store was removed, for {reason}"

    def note(self, name: str, complaints: list[str]) -> str | None:
        """A line noted for later sessions of the same owner; one that is damaged is told and not believed."""
        if self.own is None:
            return None
        try:
            with held(os.open(self.own.directory / f"{name}{_NOTE}", _READ)) as fd:
                data = os.read(fd, _MAX_NOTE_BYTES)
        except OSError:
            return None  # what is wrong with the place itself, ``find`` tells
        line = data.partition(b"\n")[0].decode(errors="replace")
        if data == _noted(name, line):
            return line
        complaints.append("a note of the own store was damaged; what it said is found out anew")
        return None

    def note_down(self, name: str, line: str) -> None:
        """Have ``note`` say it from now on, if it can be written."""
        if self.own is None or self.note(name, []) == line:
            return
        part = self.own.directory / f"{secrets.token_hex(8)}{_PART}"
        with contextlib.suppress(OSError):
            self.own.directory.mkdir(mode=0o770, parents=True, exist_ok=True)
            # Whole or not at all: others read it at any time.
            part.write_bytes(_noted(name, line))
            part.replace(self.own.directory / f"{name}{_NOTE}")

    def has(self, key: str) -> bool:
        """Whether a pack of this key is there."""
        return any((layer.directory / f"{key}{SUFFIX}").exists() for layer in self.layers)

    def fill(self, key: str, tree: int, root: str, changed_before_ns: int) -> Index:
        """Pack ``tree`` into the own layer; raises Unfit, OSError."""
        if self.own is None:
            raise Unfit("this workspace has no store of its own")
        directory = self.own.directory
        directory.mkdir(mode=0o770, parents=True, exist_ok=True)
        part = directory / f"{key}{_PART}"
        with self._locked(part) as out:
            index = fill(Order(tree, root, changed_before_ns, self.max_bytes, self.stop), out)
            if index.bound:
                raise Unfit("a file in it holds the path of this workspace")
            self._make_room(directory, os.fstat(out).st_size)
            os.fchmod(out, 0o440)
            part.replace(directory / f"{key}{SUFFIX}")
        return index

    @property
    def spares(self) -> Spares | None:
        """Those of the own layer; None where one user's would be of no use to the next."""
        if self.own is None or is_shared_by_users(self.own.directory):
            return None
        return Spares(self.own.directory / NAME)

    def make_spare(self, key: str, root: str) -> None:
        """Unfold a pack for who comes next; raises CorruptPack, Unfit, OSError when there will be none."""
        spares = self.spares
        if spares is None or self.own is None:
            raise Unfit("there is no place for spares")
        if spares.count(key) >= self.max_spares:
            raise Unfit("there is one already")
        for found in self.find(key, root, []):
            used = sum(size for _, size, _ in _packs(self.own.directory)) + self._size_of_spares(spares)
            if used + found.index.content_bytes > self.max_bytes:
                raise Unfit(f"the store would hold more than {self.max_bytes} bytes")
            return spares.make(key, found.fd, found.index, self.stop)
        raise Unfit("its pack is gone")

    def _size_of_spares(self, spares: Spares) -> int:
        """As of their packs: they hold the same."""
        return sum(self._size_of(key) for key in spares.oldest_first())

    def _size_of(self, key: str) -> int:
        for layer in self.layers:
            with contextlib.suppress(OSError):
                return (layer.directory / f"{key}{SUFFIX}").stat().st_size
        return 0

    @contextlib.contextmanager
    def _locked(self, part: Path) -> Iterator[int]:
        with held(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o660)) as out:
            try:
                fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unfit("another workspace keeps the same packages at this moment") from None
            if not _is_at(part, out):
                # Between its opening and its lock it was made whole: what is open here is the pack.
                raise Unfit("another workspace has kept the same packages just now")
            os.ftruncate(out, 0)
            try:
                yield out
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def _make_room(self, directory: Path, size: int) -> None:
        packs = sorted(_packs(directory))
        used = size + sum(each for _, each, _ in packs)
        if (spares := self.spares) is not None:
            for key in reversed(spares.oldest_first()):
                kept = self._size_of(key)
                if used + kept > self.max_bytes or not kept:
                    spares.drop(key)
                else:
                    used += kept
        for _, freed, path in packs:
            if used <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            used -= freed
        _remove_stale(directory)


def _noted(name: str, line: str) -> bytes:
    """What is in the note; its name too, so that one in another's place is none.

    >>> _noted("a", "v24.1.0").splitlines()[0], _noted("a", "v24.1.0") == _noted("b", "v24.1.0")
    (b'v24.1.0', False)
    """
    digest = hashlib.sha256(f"{name}\n{line}".encode()).hexdigest()
    return f"{line}\n{digest}\n".encode()


def _is_at(path: Path, fd: int) -> bool:
    """Whether what is open is still what has that name."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _packs(directory: Path) -> Iterator[tuple[float, int, Path]]:
    for path in directory.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            info = path.stat()
            yield info.st_mtime, info.st_size, path


def _remove_stale(directory: Path) -> None:
    for path in directory.glob(f"*{_PART}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
