"""A tool server, spoken to: every operation a method, every refusal the protocol's own error.

    async with open_client("http://127.0.0.1:3001", token) as client:
        print((await client.read(path="package.json")).content)
        async with client.command.stream(command="npm test") as events:
            async for event in events: ...
            print((await events.result()).exit_code)

A client is made by ``open_client`` only. Many requests may be under way at once; each waits for its own
answer. Every wait for the connection is bounded; how long an operation may take is the operation's own field.
"""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from orchestrator.client.addresses import authorized, is_loopback, websocket_url, with_other_token
from orchestrator.client.archives import (
    get_archive,
    get_manifest,
    load_http,
    put_archive,
    refusal,
    unreachable,
)
from orchestrator.client.connection import Connection
from orchestrator.client.mailbox import PATIENCE_SECONDS
from orchestrator.client.raw import get_file, put_file
from orchestrator.client.renewing import renewing
from orchestrator.client.socket import Socket
from orchestrator.client.verbs import BY_REQUEST, Events, Stream, StreamingVerb, Verb, call, decoded
from protocol import routes
from protocol.codec import decode
from protocol.errors import NotFound, Unavailable
from protocol.messages import (
    access,
    activity,
    archives,
    audit,
    commands,
    devserver,
    diagnostics,
    edits,
    files,
    places,
    processes,
    search,
    separation,
    shells,
    terminals,
    watch,
)
from protocol.messages import checkpoints as past
from protocol.messages.base import Answer, Log, Request
from protocol.operations import OPERATIONS

__all__ = ["Client", "Stream", "load_http", "open_client", "renewing", "request_of"]

CONNECT_TIMEOUT_SECONDS = 10.0
CLOSE_TIMEOUT_SECONDS = 5.0
_MAX_RECEIVED_BYTES = 64 * 1024 * 1024
"""One frame from the tool server, which keeps its own at a quarter of this: a guard against a wrong peer."""


class Client:
    """One tool server. Methods take the fields of the operation's request as keywords."""

    def __init__(self, connection: Connection, base_url: str, headers: Mapping[str, str]) -> None:
        self.connection = connection
        self.base_url = base_url
        self._headers = dict(headers)

    read = Verb(files.Read, files.ReadAnswer)
    read_many = Verb(files.ReadMany, files.ReadManyAnswer)
    write = Verb(files.Write, files.WriteAnswer)
    list = Verb(files.List, files.ListAnswer)
    stat = Verb(files.Stat, files.StatAnswer)
    mkdir = Verb(places.Mkdir, places.MkdirAnswer)
    move = Verb(places.Move, places.MoveAnswer)
    copy = Verb(places.Copy, places.CopyAnswer)
    remove = Verb(places.Remove, places.RemoveAnswer)
    chmod = Verb(places.Chmod, places.ChmodAnswer)
    checkpoint = Verb(past.Checkpoint, past.CheckpointAnswer)
    checkpoints = Verb(past.Checkpoints, past.CheckpointsAnswer)
    checkpoint_diff = Verb(past.CheckpointDiff, past.CheckpointDiffAnswer)
    rollback = Verb(past.Rollback, past.RollbackAnswer)
    undo = Verb(past.Undo, past.RollbackAnswer)
    redo = Verb(past.Redo, past.RollbackAnswer)
    activity = Verb(activity.Activity, activity.ActivityAnswer)
    audit = StreamingVerb(audit.Audit, audit.AuditAnswer, Events[audit.AuditLine])
    separation = Verb(separation.Separation, separation.SeparationAnswer)
    watch = StreamingVerb(watch.Watch, watch.WatchAnswer, Events[watch.WatchEvent])
    search = StreamingVerb(search.Search, search.SearchAnswer, Events[search.Matches])
    edit = Verb(edits.Edit, edits.EditAnswer)
    replace = Verb(edits.Replace, edits.ReplaceAnswer)
    command = StreamingVerb(commands.Command, commands.CommandAnswer, Events[commands.CommandEvent])
    attach = StreamingVerb(commands.Attach, commands.CommandAnswer, Events[commands.CommandEvent])
    output = Verb(commands.Output, commands.OutputAnswer)
    send_input = Verb(commands.SendInput, commands.SendInputAnswer)
    stop = Verb(processes.Stop, processes.StopAnswer)
    signal = Verb(processes.Signal, processes.SignalAnswer)
    wait = Verb(processes.Wait, processes.WaitAnswer)
    ports = StreamingVerb(processes.Ports, processes.PortsAnswer, Events[processes.PortEvent])
    processes = Verb(processes.Processes, processes.ProcessesAnswer)
    shell = StreamingVerb(shells.Shell, shells.ShellAnswer, Events[shells.ShellEvent])
    shell_output = Verb(shells.ShellOutput, shells.ShellOutputAnswer)
    shell_restart = Verb(shells.ShellRestart, shells.ShellRestartAnswer)
    shell_stop = Verb(shells.ShellStop, shells.ShellStopAnswer)
    shells = Verb(shells.Shells, shells.ShellsAnswer)
    terminal_open = Verb(terminals.TerminalOpen, terminals.TerminalOpenAnswer)
    terminal_attach = StreamingVerb(
        terminals.TerminalAttach, terminals.TerminalAttachAnswer, Events[terminals.TerminalEvent]
    )
    resize = Verb(terminals.Resize, terminals.ResizeAnswer)
    terminals = Verb(terminals.Terminals, terminals.TerminalsAnswer)
    inject = StreamingVerb(archives.Inject, archives.InjectAnswer, Events[archives.Unpacked])
    save = StreamingVerb(archives.Save, archives.SaveAnswer, Events[archives.Chunk])
    install = StreamingVerb(devserver.Install, devserver.InstallAnswer, Events[Log])
    dev_start = StreamingVerb(devserver.DevStart, devserver.DevStatusAnswer, Events[Log])
    dev_stop = Verb(devserver.DevStop, devserver.DevStatusAnswer)
    dev_status = StreamingVerb(devserver.DevStatus, devserver.DevStatusAnswer, Events[devserver.DevChange])
    dev_feedback = Verb(diagnostics.DevFeedback, diagnostics.DevFeedbackAnswer)
    dev_logs = StreamingVerb(devserver.DevLogs, devserver.DevLogsAnswer, Events[Log])
    start = StreamingVerb(devserver.Start, devserver.StartAnswer, Events[devserver.StartEvent])

    revoke = Verb(access.Revoke, access.RevokeAnswer)
    bind_session = Verb(access.BindSession, access.BindSessionAnswer)

    async def renew(self, token: str) -> access.RenewalAnswer:
        """Keep this client's connection open by another session token of the same user.

        ``put_archive`` and what else goes over HTTP bring it from now on as well.
        """
        request_id, mailbox = await self.connection.send(
            "renew", access.Renewal(token=token), wants_events=False
        )
        try:
            raw = await mailbox.outcome()
        finally:
            if not mailbox.finished:
                self.connection.cancel_soon(request_id)
        renewed: access.RenewalAnswer = decoded(self.connection, raw, access.RenewalAnswer)
        self._headers = with_other_token(self._headers, token)
        return renewed

    async def call(self, request: Request) -> Answer:
        """Ask with a request made elsewhere (``request_of``): for whoever does not know which beforehand."""
        return await call(self.connection, request)

    def stream(self, request: Request) -> Stream[Any, Answer]:
        """Like ``call``, with the events."""
        return Stream(self.connection, BY_REQUEST[type(request)], request)

    async def wait_closed(self) -> None:
        """Wait until the connection is gone, whoever closed it."""
        await self.connection.wait_closed()

    async def put_archive(
        self,
        chunks: AsyncIterable[bytes] | bytes,
        mode: archives.InjectMode = archives.InjectMode.REPLACE,
        digest: str | None = None,
    ) -> archives.InjectAnswer:
        """Send an archive of any size over HTTP; in place whole, or nothing changed and an error."""
        return await put_archive(self.base_url, self._headers, chunks, mode, digest)

    def get_archive(
        self,
        format: archives.ArchiveFormat = archives.ArchiveFormat.GZIP,
        exclude: Sequence[str] = (),
        include: Sequence[str] = (),
        *,
        times: archives.Times | None = None,
        since: str | None = None,
    ) -> AsyncIterator[bytes]:
        """The workspace's content over HTTP, chunk by chunk, with the rules that ``save`` takes.

        ``since`` is the digest of an earlier save: only what differs from it comes, as a delta.
        """
        save = archives.Save(format=format, exclude=[*exclude], include=[*include], times=times, since=since)
        return get_archive(self.base_url, self._headers, save)

    async def get_manifest(
        self, digest: str | None = None
    ) -> tuple[archives.ManifestHead, Sequence[archives.ManifestEntry]]:
        """What a save held: paths, sizes, hashes. Of the newest one when no digest is given."""
        return await get_manifest(self.base_url, self._headers, digest)

    async def put_file(
        self,
        path: str,
        chunks: AsyncIterable[bytes] | bytes,
        mode: int | None = None,
        *,
        if_match: str | None = None,
        only_new: bool = False,
    ) -> files.WriteAnswer:
        """Write one file of any size over HTTP; whole, or nothing changed and an error.

        ``if_match`` is the hash that ``read`` told: raises Conflict when the file is another by now.
        ``only_new`` raises Conflict when there is one.
        """
        conditions = {"If-Match": f'"{if_match}"'} if if_match else {}
        conditions |= {"If-None-Match": "*"} if only_new else {}
        return await put_file(self.base_url, self._headers, path, chunks, mode, conditions)

    def get_file(self, path: str) -> AsyncIterator[bytes]:
        """One file's bytes over HTTP, of any size, chunk by chunk."""
        return get_file(self.base_url, self._headers, path)


def request_of(operation: str, params: bytes) -> Request:
    """The request that ``params`` (JSON, ``b""`` for none) are; raises NotFound or InvalidRequest.

    >>> request_of("read", b'{"path": "a"}').path
    'a'
    """
    found = OPERATIONS.get(operation)
    if found is None:
        close = difflib.get_close_matches(operation, OPERATIONS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(OPERATIONS)}"
        raise NotFound(f"no operation {operation!r}; {hint}", operation=operation)
    return decode(params or b"{}", found.request)


@asynccontextmanager
async def open_client(
    url: str,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    close_timeout_seconds: float = CLOSE_TIMEOUT_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
) -> AsyncIterator[Client]:
    """A client of the tool server at ``url`` (http or https, a path in front allowed).

    ``headers`` are those an endpoint asks for. ``patience_seconds`` is how long one stream that nobody reads
    may hold up the others (``mailbox``). Raises Unavailable, or what the tool server refused the connection
    with, such as Unauthorized.
    """
    base_url = url.rstrip("/")
    sent = authorized(headers or {}, token)
    socket = await _connected(base_url, sent, connect_timeout_seconds, close_timeout_seconds)
    async with Connection(socket, base_url, close_timeout_seconds, patience_seconds) as connection:
        yield Client(connection, base_url, sent)


async def _connected(
    base_url: str, headers: Mapping[str, str], connect_seconds: float, close_seconds: float
) -> Socket:
    try:
        socket = await connect(
            websocket_url(base_url),
            subprotocols=[Subprotocol(routes.SUBPROTOCOL_MSGPACK)],
            additional_headers=headers,
            open_timeout=connect_seconds,
            close_timeout=close_seconds,
            max_size=_MAX_RECEIVED_BYTES,
            # Packing costs more than loopback and most networks gain; archives are packed already.
            compression=None,
            # A proxy for the internet is no way to this machine.
            proxy=None if is_loopback(base_url) else True,
            create_connection=Socket,
        )
    except InvalidStatus as error:
        raise refusal(error.response.status_code, bytes(error.response.body or b""), base_url) from None
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI, EOFError) as error:
        raise unreachable(base_url, error) from error
    if socket.subprotocol != routes.SUBPROTOCOL_MSGPACK:
        await socket.close()
        raise Unavailable(f"{base_url} does not speak {routes.SUBPROTOCOL_MSGPACK}; is it a tool server?")
    assert isinstance(socket, Socket)  # as ``create_connection`` has it
    return socket
