"""inject and save: a tree in, whole or not at all; a tree out."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path

from protocol.codec import encode
from protocol.errors import ArchiveInvalid, Busy, Conflict, NoSpace, TooLarge
from protocol.exclusions import Exclusions
from protocol.limits import Limits
from protocol.manifests import Entry
from protocol.messages.archives import (
    Chunk,
    Inject,
    InjectAnswer,
    InjectMode,
    Save,
    SaveAnswer,
    Times,
    Unpacked,
)
from protocol.paths import ROOT
from toolserver.system.ahead import ahead
from toolserver.system.delta import putting
from toolserver.system.disk import Disk
from toolserver.system.gate import Gate
from toolserver.system.manifests import Manifests, Writing
from toolserver.system.swap import Staging
from toolserver.system.tarballs import FIXED_TIME, Extracted, Extraction, Packed, Packing
from toolserver.system.threads import taken, whole
from toolserver.tools.call import Call
from toolserver.tools.manifests import base_of, head_of, line_of

log = logging.getLogger("toolserver.archives")

_FEED_BYTES = 256 * 1024
_PROGRESS_SECONDS = 0.2
"""Between two progress events: a bar moves five times a second."""


class Archives:
    """The handlers, and the streams behind the raw archive door."""

    def __init__(
        self,
        disk: Disk,
        state_dir: Path,
        gate: Gate,
        limits: Limits,
        replacing: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """``replacing``: in it nothing lives that needs the old content, nor begins: the dev server."""
        self._disk = disk
        self._state_dir = state_dir
        self._gate = gate
        self._limits = limits
        self._manifests = Manifests(state_dir, limits)
        self._replacing = replacing
        self._injecting = False
        self._saving = 0
        self._tidying: asyncio.Task[None] | None = None
        self._closing = threading.Event()

    async def inject(self, request: Inject, call: Call) -> InjectAnswer:
        """An archive inside a message."""
        return await self.inject_bytes(request.archive, request.mode, request.digest, call)

    async def save(self, request: Save, call: Call) -> SaveAnswer:
        """The content as an archive: in events, or inside the answer when it fits."""
        kept: list[bytes] = []
        size = 0
        packed: list[Packed] = []
        async with aclosing(self.packed(request, packed.append)) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if call.streaming:
                    await call.emit(Chunk(data=chunk))
                    continue
                self._refuse_too_large(size)
                kept.append(chunk)
        result = packed[0]
        return SaveAnswer(
            archive=b"".join(kept),
            archive_bytes=size,
            files=result.files,
            content_bytes=result.content_bytes,
            digest=result.digest,
            left_out=result.left_out,
            changed=result.changed,
            tree=result.tree,
            removed=result.removed,
        )

    async def packed(
        self, request: Save, result: Callable[[Packed], None] = lambda _: None
    ) -> AsyncGenerator[bytes]:
        """The archive's bytes, as they are packed; then ``result``, and its manifest is kept."""
        rules = Exclusions.default().with_rules(exclude=request.exclude, include=request.include)
        base = await whole(base_of, self._manifests, request)
        if base is not None:
            rules = Exclusions.default().with_rules(exclude=base.exclude, include=base.include)
        times = base.times if base else request.times
        writing = Writing()
        async with self._tree() as root:
            packing = Packing(
                root,
                rules,
                request.format,
                mtime=FIXED_TIME if times is Times.FIXED else None,
                note=writing.add,
                base=base,
            )
            async with aclosing(ahead(_pulled(packing))) as chunks:
                async for chunk in chunks:
                    yield chunk
        packed = packing.result
        await whole(self._keep, partial(self._manifests.keep, writing, head_of(request, base, packed)))
        result(packed)

    async def manifest(self, digest: str | None) -> AsyncGenerator[bytes]:
        """What a save held, the newest if none is named: lines of JSON, the head first. Raises NotFound."""
        head = await whole(self._manifests.head, digest)
        yield encode(head) + b"\n"
        blocks = self._manifests.blocks(head.digest)
        try:
            while (block := await whole(next, blocks, None)) is not None:
                yield await whole(_lines, block)
        finally:
            await whole(blocks.close)

    def _keep(self, keep: Callable[[], None]) -> None:
        try:
            keep()
        except OSError as error:  # the save is whole all the same
            log.warning("a save's manifest was not kept", extra={"data": {"reason": str(error)}})

    async def inject_bytes(
        self, archive: bytes, mode: InjectMode, digest: str | None, call: Call
    ) -> InjectAnswer:
        """An archive that is in memory already."""

        async def chunks() -> AsyncGenerator[bytes]:
            for at in range(0, len(archive), _FEED_BYTES):
                yield archive[at : at + _FEED_BYTES]

        return await self.inject_stream(chunks(), mode, digest, call)

    async def inject_stream(
        self, chunks: AsyncGenerator[bytes], mode: InjectMode, digest: str | None, call: Call
    ) -> InjectAnswer:
        """An archive as it arrives: unpacked beside the root, put in place only once it is whole."""
        if self._injecting:
            raise Busy("an archive is being injected into this workspace; wait for it")
        self._injecting = True
        begun = time.monotonic()
        staging = Staging(self._disk.root, self._state_dir, self._closing.is_set)
        try:
            await self._tidied()
            directory = await whole(staging.open)
            extracted = await self._extract(directory, chunks, call)
            if digest is not None and digest != extracted.digest:
                raise ArchiveInvalid(
                    f"the archive has digest {extracted.digest}, not {digest}; nothing was changed",
                    digest=extracted.digest,
                )
            _refuse_other_mode(mode, extracted)
            await whole(self._refuse_past_share, extracted, mode)
            await self._put_in_place(staging, mode, extracted)
        except BaseException:
            await asyncio.shield(whole(staging.discard))
            raise
        finally:
            self._injecting = False
        # The old tree may be a large node_modules: it is removed after the answer.
        self._tidying = asyncio.create_task(whole(staging.discard))
        return InjectAnswer(
            files=extracted.files,
            content_bytes=extracted.bytes,
            digest=extracted.digest,
            duration_ms=round((time.monotonic() - begun) * 1000, 3),
        )

    async def close(self) -> None:
        """Leave what is still to be removed to the next start."""
        self._closing.set()
        await self._tidied()

    async def _tidied(self) -> None:
        if self._tidying is None:
            return
        await asyncio.wait([self._tidying])
        if (error := self._tidying.exception()) is not None:
            log.warning("an old tree could not be removed", extra={"data": {"reason": str(error)}})
        self._tidying = None

    async def _put_in_place(self, staging: Staging, mode: InjectMode, extracted: Extracted) -> None:
        self._refuse_while_saving()
        replacing = self._replacing() if mode is InjectMode.REPLACE else nullcontext()
        async with replacing, self._gate.exclusive():
            self._refuse_while_saving()
            await whole(self._way(staging, mode, extracted))

    def _way(self, staging: Staging, mode: InjectMode, extracted: Extracted) -> Callable[[], None]:
        if mode is InjectMode.REPLACE:
            return staging.replace
        if extracted.delta is None:
            return staging.merge
        delta, removed = extracted.delta, extracted.removed
        plan = partial(putting, delta=delta, removed=removed, limits=self._limits)
        return partial(staging.put, plan)

    def _refuse_past_share(self, extracted: Extracted, mode: InjectMode) -> None:
        """Of what the workspace may take: a replaced tree goes, one that is merged into stays."""
        limit = self._limits.max_workspace_bytes
        if mode is not InjectMode.REPLACE:
            self._disk.room.need_share("for the archive", extracted.bytes)
        elif limit and extracted.bytes > limit:
            raise NoSpace(
                f"the archive's content has {extracted.bytes} bytes, and the workspace may take {limit}",
                limit="maxWorkspaceBytes",
                value=limit,
                needed_bytes=extracted.bytes,
            )

    def _refuse_while_saving(self) -> None:
        if self._saving:
            raise Busy("a save of this workspace is being read, and must not mix two trees; try again")

    async def _extract(self, directory: Path, chunks: AsyncGenerator[bytes], call: Call) -> Extracted:
        told = time.monotonic()
        extraction = await taken(Extraction.abort, Extraction, directory, self._limits)
        try:
            async with aclosing(ahead(chunks)) as pieces:
                async for chunk in pieces:
                    await whole(extraction.feed, chunk)
                    if time.monotonic() - told > _PROGRESS_SECONDS:
                        told = time.monotonic()
                        await call.emit(_progress(extraction))
            extracted = await whole(extraction.finish)
        finally:
            # A piece may be under way still, and it is waited for.
            await whole(extraction.abort)
        await call.emit(_progress(extraction))
        return extracted

    @asynccontextmanager
    async def _tree(self) -> AsyncIterator[int]:
        """The root, a descriptor: no injection swaps what is in it meanwhile."""
        async with self._gate.shared():
            root = await taken(os.close, self._disk.open, ROOT, os.O_RDONLY | os.O_DIRECTORY)
            self._saving += 1
        try:
            yield root
        finally:
            self._saving -= 1
            os.close(root)

    def _refuse_too_large(self, size: int) -> None:
        """An archive in one message: base64 makes four bytes of three, and the frame has a bound."""
        limit = self._limits.max_frame_bytes // 2
        if size > limit:
            raise TooLarge(
                f"the archive has more than {limit} bytes, too many for one message; "
                "use GET /v1/archive, or ask for events",
                limit="maxFrameBytes",
                value=self._limits.max_frame_bytes,
            )


async def _pulled(packing: Packing) -> AsyncGenerator[bytes]:
    """The archive's chunks, each made on a worker thread."""
    try:
        while (chunk := await whole(next, packing, None)) is not None:
            yield chunk
    finally:
        await whole(packing.close)


def _refuse_other_mode(mode: InjectMode, extracted: Extracted) -> None:
    """A delta taken for a whole tree would remove all that it does not name."""
    if extracted.delta is not None and mode is not InjectMode.DELTA:
        raise Conflict(
            f"the archive is a delta since save {extracted.delta.since} and no whole tree: inject that save "
            "first, then this with mode 'delta'; nothing was changed",
            since=extracted.delta.since,
        )
    if extracted.delta is None and mode is InjectMode.DELTA:
        raise ArchiveInvalid(
            "the archive is no delta; put it in by mode 'replace' or 'merge'; nothing was changed"
        )


def _lines(block: Iterable[Entry]) -> bytes:
    return b"".join(encode(line_of(entry)) + b"\n" for entry in block)


def _progress(extraction: Extraction) -> Unpacked:
    return Unpacked(
        files=extraction.files, content_bytes=extraction.content_bytes, archive_bytes=extraction.packed_bytes
    )
