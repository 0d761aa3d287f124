"""Small archives for tests of what is done with them."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from protocol.errors import Unavailable

PIECE_BYTES = 4096


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A plain tar, without the padding after its end mark."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = buffer.getvalue().rstrip(b"\0")
    return content + bytes(-len(content) % 512 + 1024)


def save_of(text: str, extra_bytes: int = 20_000) -> bytes:
    """A tar.gz with ``text`` in page.txt, and so many bytes that do not compress."""
    tar = tar_of({"page.txt": text.encode(), "noise": os.urandom(extra_bytes)})
    return gzip.compress(tar, compresslevel=1)


def text_in(archive: bytes) -> str:
    """Of page.txt."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        file = found.extractfile("page.txt")
        assert file is not None
        return file.read().decode()


def names_in(archive: Path) -> set[str]:
    """Of all members of a tar.gz."""
    with tarfile.open(archive) as found:
        return set(found.getnames())


async def pieces(data: bytes, *, fails: bool = False) -> AsyncIterator[bytes]:
    """As it comes over the wire; with ``fails`` it breaks off at the end."""
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]
    if fails:
        raise Unavailable("gone")
