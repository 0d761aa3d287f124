"""The keys that session tokens are signed by: one active, and of those before it what is public.

    data/keys/ring.json    all keys, in one file that is replaced whole
    data/keys/.lock        held by whoever replaces it

Any number of orchestrators share the ring. It is read anew whenever the file is another one, so a rotation
counts everywhere at once. A private key is gone from the disk when the next one takes over; its public half
stays until no token can be left that it signed. Keys are counted, not dated: a clock that jumps leaves their
order alone. Whatever others than the owner can read or replace is refused. No private key is ever shown: not
by ``repr``, not in an error.
"""

from __future__ import annotations

import base64
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from orchestrator.directories import private_directory
from orchestrator.durable import PART, write_private
from orchestrator.paths import PathManager
from protocol.errors import Forbidden, Unavailable
from protocol.tokens import KEY_BYTES, MAX_TOKEN_SECONDS, key_id

TOKEN_LIFE = timedelta(seconds=MAX_TOKEN_SECONDS)
"""No session token is valid for longer."""
CLOCK_SKEW = timedelta(minutes=5)
"""Clocks of two machines, and a token that was being signed while the key changed."""
_MAX_RING_BYTES = 1024 * 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class PublicKey:
    """What a signature is verified with. No secret."""

    id: str
    """The beginning of the SHA-256 of ``raw``, in hexadecimal."""
    raw: bytes
    """Ed25519, 32 bytes."""

    @property
    def text(self) -> str:
        """As it goes into an environment variable: base64."""
        return base64.b64encode(self.raw).decode()


@dataclass(frozen=True)
class Signed:
    """A signature, and by which key."""

    key_id: str
    signature: bytes
    """64 bytes."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key as it lies on disk."""

    number: int
    public: bytes
    private: bytes | None
    """None once another one is active."""
    created: datetime
    retired: datetime | None = None
    """When the next one took over."""

    @property
    def id(self) -> str:
        """Who has the public key can compute it."""
        return key_id(self.public)

    def __repr__(self) -> str:
        return f"Key({self.number}, {self.id})"


class _Ring(msgspec.Struct, frozen=True):
    keys: list[Key]
    """Oldest first; the last one is active."""


def still_needed(keys: Sequence[Key], now: datetime) -> list[Key]:
    """The active key, and of the others those that may have signed a token that is valid yet.

    >>> day = datetime(2026, 11, 21, tzinfo=UTC)
    >>> made = {"public": b"", "private": None, "created": day}
    >>> keys = [Key(number=1, retired=day, **made), Key(number=2, **made)]
    >>> [key.number for key in still_needed(keys, day + TOKEN_LIFE)]
    [1, 2]
    >>> [key.number for key in still_needed(keys, day + TOKEN_LIFE + 2 * CLOCK_SKEW)]
    [2]
    """
    *old, active = keys
    last = now - TOKEN_LIFE - CLOCK_SKEW
    return [*(key for key in old if key.retired is not None and key.retired >= last), active]


def rotated(keys: Sequence[Key], fresh: Key, now: datetime) -> list[Key]:
    """The ring with ``fresh`` as its active key. Those that are retired keep their public half only.

    One that was retired in what is now the future was so by a clock that went wrong: it counts as retired
    now, or it would stay for good.
    """
    retired = [
        msgspec.structs.replace(key, private=None, retired=min(key.retired or now, now)) for key in keys
    ]
    return still_needed([*retired, fresh], now)


@dataclass
class KeyRing:
    """All keys of one data directory. Its methods block."""

    _path: Path
    _keys: list[Key] = field(default_factory=list, repr=False)
    _seen: tuple[int, ...] = field(default=(), repr=False)
    """Which file ``_keys`` were read from."""

    @classmethod
    def open(cls, paths: PathManager, now: datetime | None = None) -> KeyRing:
        """The ring of a data directory; made with a first key when there is none.

        Raises Forbidden when others can reach the keys, Unavailable when they cannot be read.
        """
        ring = cls(paths.keys_dir / "ring.json")
        private_directory(ring._path.parent)
        _refuse_open_directory(ring._path.parent)
        if not ring._path.exists():
            with ring._locked():
                if not ring._path.exists():  # asked again: another may just have made it
                    ring._write([_new_key(1, _instant(now))])
        ring._refresh()
        return ring

    @property
    def active(self) -> PublicKey:
        """What is signed with from now on; the newest."""
        key = self._refresh()[-1]
        return PublicKey(key.id, key.public)

    def public_keys(self, now: datetime | None = None) -> tuple[PublicKey, ...]:
        """All that a token may be signed by, the active one first."""
        keys = still_needed(self._refresh(), _instant(now))
        return tuple(PublicKey(key.id, key.public) for key in reversed(keys))

    def sign(self, data: bytes) -> Signed:
        """Sign by the active key."""
        # It costs a command 20 ms, and most sign nothing.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = self._refresh()[-1]
        assert key.private is not None  # ``_read`` takes no other ring
        return Signed(key.id, Ed25519PrivateKey.from_private_bytes(key.private).sign(data))

    def rotate(self, now: datetime | None = None, *, instead_of: str | None = None) -> PublicKey:
        """Make a new key the active one, and drop those that no valid token can be signed by.

        ``instead_of`` is the id of the key that shall not be active any more: of several who ask that at
        once, one makes the new key and the others get it.
        """
        with self._locked():
            keys = self._refresh()
            if instead_of is None or keys[-1].id == instead_of:
                at = _instant(now)
                self._write(rotated(keys, _new_key(keys[-1].number + 1, at), at))
        return self.active

    def _refresh(self) -> list[Key]:
        """The keys, read again if the file is another one."""
        try:
            info = self._path.stat(follow_symlinks=False)
            if (seen := _identity(info)) != self._seen:
                self._keys, self._seen = _read(self._path), seen
        except OSError as error:
            raise Unavailable(
                f"the signing keys {self._path} cannot be read: {error.strerror}", path=str(self._path)
            ) from error
        return self._keys

    def _write(self, keys: list[Key]) -> None:
        for left in self._path.parent.glob(f".{self._path.name}.*{PART}"):
            left.unlink()  # by somebody who was killed: whoever writes holds the lock
        write_private(self._path, msgspec.json.encode(_Ring(keys)))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all who replace the ring; it takes them milliseconds. A kill lets go of it."""
        lock = os.open(self._path.with_name(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _new_key(number: int, now: datetime) -> Key:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    return Key(number=number, public=public, private=private.private_bytes_raw(), created=now)


def _read(path: Path) -> list[Key]:
    """What is in the file that was checked: between a look and the opening it might be another one."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(file, "rb") as opened:
        _refuse_open_file(path, os.fstat(file))
        data = opened.read(_MAX_RING_BYTES)
    try:
        keys = msgspec.json.decode(data, type=_Ring).keys
        sound = [len(key.public) == KEY_BYTES for key in keys]
        if not keys or not all(sound) or len(keys[-1].private or b"") != KEY_BYTES:
            raise ValueError
    except ValueError:
        # Without its cause, whose text may hold a piece of the file.
        raise Unavailable(
            f"the signing keys {path} are damaged: move the file away, and new ones are made; every session "
            "token that was handed out then has to be fetched again",
            path=str(path),
        ) from None
    return keys


def _identity(info: os.stat_result) -> tuple[int, ...]:
    return info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size, info.st_mode, info.st_uid


def _refuse_open_directory(path: Path) -> None:
    info = path.stat(follow_symlinks=False)
    if not stat.S_ISDIR(info.st_mode):
        raise Forbidden(
            f"{path} is no directory; signing keys are kept in none but a real one", path=str(path)
        )
    _refuse_foreign(path, info)
    if info.st_mode & _OTHERS:
        raise Forbidden(
            f"others than its owner reach the signing keys in {path} (its mode is {_mode(info)}): close it "
            f"by `chmod 700 {path}`",
            path=str(path),
        )


def _refuse_open_file(path: Path, info: os.stat_result) -> None:
    _refuse_foreign(path, info)
    if info.st_mode & _OTHERS:
        raise Forbidden(
            f"others than its owner reach the signing keys {path} (its mode is {_mode(info)}): whoever read "
            f"them can sign tokens. Remove the file, and new ones are made; or, if nobody did, "
            f"close it by `chmod 600 {path}`",
            path=str(path),
        )


def _refuse_foreign(path: Path, info: os.stat_result) -> None:
    if info.st_uid != os.geteuid():
        raise Forbidden(
            f"{path} belongs to user {info.st_uid}, who can change it, and not to user {os.geteuid()}, who "
            f"runs this: give it back by `chown {os.geteuid()} {path}`",
            path=str(path),
        )


def _mode(info: os.stat_result) -> str:
    return f"{stat.S_IMODE(info.st_mode):04o}"


def _instant(now: datetime | None) -> datetime:
    return now or datetime.now(UTC)
