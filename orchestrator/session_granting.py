"""Sessions: who else is let in, to what, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta

from orchestrator.keys import KeyRing
from orchestrator.records import SessionRecord
from orchestrator.session_finding import Finding
from orchestrator.tokens import Grant, Granted, mint, signed_address
from protocol.tokens import Scope


class Granting(Finding):
    """The part of ``Sessions`` that hands out tokens."""

    async def token(
        self,
        record: SessionRecord,
        scopes: Sequence[Scope],
        lives: timedelta,
        *,
        path: str = ".",
        port: int | None = None,
    ) -> Granted:
        """A token of a session that runs, for its user. Raises Unavailable, InvalidRequest."""
        grant = Grant(record.session_id, record.user_id, scopes, path, port)
        return await asyncio.to_thread(mint, await self._known_keys(record), grant, lives)

    async def signed_address(
        self,
        record: SessionRecord,
        path: str,
        method: str,
        lives: timedelta,
        options: Mapping[str, str] | None = None,
    ) -> str:
        """An address for one download or upload of a file, or with ``.`` of the whole workspace, once."""
        grant = Grant(record.session_id, record.user_id, path=path)
        ring, url = await self._known_keys(record), self.tool_server(record).url
        return await asyncio.to_thread(signed_address, ring, url, grant, method, lives, options)

    async def _known_keys(self, record: SessionRecord) -> KeyRing:
        """The keys, once its tool server knows them, which may be older than the active one."""
        ring = await asyncio.to_thread(KeyRing.open, self._paths)
        keys = await asyncio.to_thread(ring.public_keys)
        async with self.client(record) as client:
            await client.bind_session(session_id=record.session_id, public_keys=[key.text for key in keys])
        return ring
