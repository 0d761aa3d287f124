"""inject and save: a tree in, whole or not at all; a tree out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

from protocol.errors import ArchiveInvalid, Busy
from protocol.limits import Limits
from protocol.messages.archives import Chunk, Inject, InjectAnswer, InjectMode, Save, SaveAnswer
from toolserver.system.disk import Disk
from toolserver.system.gate import Gate
from toolserver.system.swap import Staging
from toolserver.system.threads import whole
from toolserver.tools.call import Call

_FEED_BYTES = 256 * 1024
_PROGRESS_SECONDS = 0.2
"""Between two progress events: a bar moves five times a second."""


class Archives:
    """The handlers, and the streams behind the raw archive door."""

    def __init__(self, disk: Disk, root: Path, state_dir: Path, gate: Gate, limits: Limits) -> None:
        self._disk = disk
        self._root = root
        self._state_dir = state_dir
        self._gate = gate
        self._limits = limits
        self._injecting = False

    async def inject(self, request: Inject, call: Call) -> InjectAnswer:
        """An archive inside a message."""
        return await self.inject_bytes(request.archive, request.mode, request.digest, call)

    async def save(self, request: Save, call: Call) -> SaveAnswer:
        """The content as an archive: in events, or inside the answer when it fits."""
        packing = self._packing(request)
        kept: list[bytes] = []
        size = 0
        async with aclosing(self._pulled(packing)) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if call.streaming:
                    await call.emit(Chunk(data=chunk))
                    continue
                self._refuse_too_large(size)
                kept.append(chunk)
        packed = packing.result
        return SaveAnswer(
            archive=b"".join(kept),
            archive_bytes=size,
            files=packed.files,
            content_bytes=packed.bytes,
            digest=packed.digest,
            left_out=packed.left_out,
            changed=packed.changed,
        )

    async def packed(self, request: Save) -> AsyncIterator[bytes]:
        """The archive's bytes, as they are packed."""
        async with aclosing(self._pulled(self._packing(request))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def inject_bytes(
        self, archive: bytes, mode: InjectMode, digest: str | None, call: Call
    ) -> InjectAnswer:
        """An archive that is in memory already."""

        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, len(archive), _FEED_BYTES):
                yield archive[at : at + _FEED_BYTES]

        return await self.inject_stream(chunks(), mode, digest, call)

    async def inject_stream(
        self, chunks: AsyncIterator[bytes], mode: InjectMode, digest: str | None, call: Call
    ) -> InjectAnswer:
        """An archive as it arrives: unpacked beside the root, put in place only once it is whole."""
        if self._injecting:
            raise Busy("an archive is being injected into this workspace; wait for it")
        self._injecting = True
        begun = time.monotonic()
        staging = Staging(self._root, self._state_dir)
        try:
            directory = await whole(staging.open)
            extracted = await self._extract(directory, chunks, call)
            if digest is not None and digest != extracted.digest:
                raise ArchiveInvalid(
                    f"the archive has digest {extracted.digest}, not {digest}; nothing was changed",
                    digest=extracted.digest,
                )
            async with self._gate.exclusive():
                await whole(staging.replace if mode is InjectMode.REPLACE else staging.merge)
        finally:
            await asyncio.shield(whole(staging.discard))
            self._injecting = False
        return InjectAnswer(
            files=extracted.files,
            content_bytes=extracted.bytes,
            digest=extracted.digest,
            duration_ms=round((time.monotonic() - begun) * 1000, 3),
        )
