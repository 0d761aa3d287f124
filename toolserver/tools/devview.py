"""dev_status, dev_logs: what the dev server is about, for whoever looks."""

from __future__ import annotations

from protocol.errors import InvalidRequest, NotFound
from protocol.messages.devserver import DevLogs, DevLogsAnswer, DevStatus, DevStatusAnswer
from toolserver.tools.call import Call
from toolserver.tools.devserver import DevServer

_MAX_LOG_BYTES = 1024 * 1024


class DevView:
    """The handlers."""

    def __init__(self, dev: DevServer) -> None:
        self._dev = dev

    async def dev_status(self, request: DevStatus, call: Call) -> DevStatusAnswer:
        """How it is; followed, also how it comes to be."""
        if call.streaming and request.follow:
            life = self._dev.life
            await life.follow(call, life.changes.next if request.from_event is None else request.from_event)
        return self._dev.status()

    def dev_status_at_once(self, request: DevStatus) -> DevStatusAnswer | None:
        """The same, where nothing is to follow."""
        return None if request.follow else self._dev.status()

    async def dev_logs(self, request: DevLogs, call: Call) -> DevLogsAnswer:
        """What it printed."""
        log = self._dev.log
        if log.empty:
            raise NotFound("no dev server was started yet; 'dev_start' starts one")
        if request.from_offset < 0 or (request.max_bytes is not None and request.max_bytes < 1):
            raise InvalidRequest("'fromOffset' must be 0 or more, 'maxBytes' above 0", field="fromOffset")
        if call.streaming and request.follow:
            end = await log.follow(call, request.from_offset, self._dev.runs_on)
            return DevLogsAnswer(text="", from_offset=request.from_offset, next_offset=end)
        piece = log.read_on(request.from_offset, min(request.max_bytes or _MAX_LOG_BYTES, _MAX_LOG_BYTES))
        return DevLogsAnswer(
            text=piece.data.decode(errors="replace"),
            from_offset=piece.offset,
            next_offset=piece.offset + len(piece.data),
        )
