"""The Model Context Protocol, without a socket: one JSON-RPC message in, what to do about it out.

Two ages of the protocol are spoken, and a message tells which. Since 2026-07-28 a message says its version
and the client's abilities itself, in ``_meta``, and headers say again what it is; there is no handshake. Up
to 2025-11-25 a client introduces itself by ``initialize``. No session is kept in either: all that a request
needs is in it. Every operation is a tool of the same name. Nothing here awaits, opens or sleeps.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from protocol import __version__
from protocol.codec import decode, encode
from protocol.errors import Forbidden, InvalidRequest, NotFound, ToolError
from protocol.export.mcp import tools
from protocol.messages.base import Answer, Encoding, Request
from protocol.messages.files import ReadAnswer
from protocol.operations import OPERATIONS, Operation
from toolserver.tools.admission import Admission, refuse_beyond
from toolserver.tools.call import find_operation, read_request
from toolserver.tools.editing.aliases import spelled

STATELESS = "2026-07-28"
"""Spoken without a handshake."""
WITH_HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26")
"""Newest first; older ones know no such door."""

VERSION_HEADER, METHOD_HEADER, NAME_HEADER = "Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name"
_VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
_ABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
_SERVER_KEY = "io.modelcontextprotocol/serverInfo"

PARSE_ERROR, INVALID_MESSAGE, UNKNOWN_METHOD, INVALID_PARAMS = -32700, -32600, -32601, -32602
HEADER_MISMATCH, UNSUPPORTED_VERSION = -32020, -32022
"""JSON-RPC 2.0, and the protocol's own."""

_SPOKEN = [STATELESS, *WITH_HANDSHAKE]
_CACHED: dict[str, Any] = {"ttlMs": 60 * 60 * 1000, "cacheScope": "private"}
"""For an hour, by whoever asked: the tools change with the daemon's version only."""
_SERVER = {"name": "workspace-core", "version": __version__}
_CAPABILITIES: dict[str, Any] = {"tools": {}}
_INSTRUCTIONS = (
    "One development workspace: its files, its commands, its dev server. Paths are relative to the "
    "workspace's root. Errors are sentences that say what to do."
)

Id = str | int | None


class Message(msgspec.Struct, frozen=True):
    """A request, a notification (no id), or a client's reply (no method), which nobody here asked for."""

    jsonrpc: Literal["2.0"]
    id: Id | msgspec.UnsetType = msgspec.UNSET
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw()


class Params(msgspec.Struct, frozen=True):
    """What is read of any method's parameters."""

    name: str | None = None
    arguments: msgspec.Raw = msgspec.Raw()
    protocol_version: str | None = msgspec.field(name="protocolVersion", default=None)
    meta: dict[str, Any] = msgspec.field(name="_meta", default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """Answer with this status and body; no body for what is only taken note of."""

    status: int
    body: bytes | None = None


@dataclass(frozen=True)
class CallTool:
    """Run ``operation``, and answer by ``result`` or ``failure``."""

    id: Id
    operation: Operation
    request: Request
    progress_token: str | int | None
    stateless: bool
    """Then hanging up is the client's way to cancel; of an older one it says nothing."""

    def result(self, answer: Answer) -> bytes:
        """The message that ends the call."""
        return _outcome(self.id, _content(answer), answer, self.stateless, failed=False)

    def failure(self, error: ToolError, request_id: str) -> bytes:
        """The message that ends it badly: a model can read it, and mend its next call."""
        return _failure(self.id, error, request_id, self.stateless)

    def progress(self, seconds: float) -> bytes:
        """A sign of life."""
        message = f"{self.operation.name} has been running for {seconds:.0f} s"
        params = {"progressToken": self.progress_token, "progress": seconds, "message": message}
        return encode({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})


class Refused(Exception):
    """An error of the protocol itself, not of a tool."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


def receive(
    body: bytes, headers: Mapping[str, Sequence[str]], admission: Admission, wanted: frozenset[str] | None
) -> Reply | CallTool:
    """What to do about a message.

    ``headers`` are all values of the three above, by name; ``wanted`` are the tools that the client limits
    itself to, None for all of them.
    """
    try:
        message = decode(body, Message)
    except InvalidRequest as error:
        return _unreadable(body, error)
    if message.method is None or message.id is msgspec.UNSET:
        return Reply(202)
    stateless = False
    try:
        params = _params(message)
        stateless = _is_stateless(params, headers)
        if stateless:
            _refuse_contradiction(message.method, params, headers)
        return _act(message.id, message.method, params, stateless, _Offer(admission, wanted))
    except Refused as refused:
        status = 404 if refused.code == UNKNOWN_METHOD else 400
        # Before 2026-07-28 a 404 would tell a client that its session is gone.
        plain = refused.code in (UNKNOWN_METHOD, INVALID_PARAMS) and not stateless
        return Reply(200 if plain else status, _error(message.id, refused.code, str(refused), refused.data))


@dataclass(frozen=True)
class _Offer:
    """Which tools there are for this caller."""

    admission: Admission
    wanted: frozenset[str] | None

    def tools(self) -> list[dict[str, Any]]:
        """In the order of the table; none that would be refused to this token anyway."""
        return [tool for name, tool in tools().items() if self._wants(name) and self._may(OPERATIONS[name])]

    def refuse(self, name: str) -> None:
        """Raise Refused for a tool that the client itself left out."""
        if not self._wants(name):
            raise Refused(INVALID_PARAMS, f"{name[:100]!r} is not among the tools that the address asks for")

    def _wants(self, name: str) -> bool:
        return self.wanted is None or name in self.wanted

    def _may(self, operation: Operation) -> bool:
        try:
            refuse_beyond(self.admission, operation)
        except Forbidden:
            return False
        return True


def _act(id: Id, method: str, params: Params, stateless: bool, offer: _Offer) -> Reply | CallTool:
    if method == "tools/call":
        return _call(id, params, stateless, offer)
    result: dict[str, Any]
    if method == "tools/list":
        result = {"tools": offer.tools()}
        cached = _CACHED
    elif method == "server/discover":
        result = {"supportedVersions": _SPOKEN, "capabilities": _CAPABILITIES}
        result["instructions"] = _INSTRUCTIONS
        cached = _CACHED
    elif method == "initialize" and not stateless:
        result, cached = _introduction(params), {}
    elif method == "ping" and not stateless:
        result, cached = {}, {}
    else:
        raise Refused(UNKNOWN_METHOD, f"there is no method {method[:100]!r} here; there are tools only")
    return Reply(200, _success(id, result | cached if stateless else result, stateless))


def _introduction(params: Params) -> dict[str, Any]:
    version = params.protocol_version
    return {
        "protocolVersion": version if version in WITH_HANDSHAKE else WITH_HANDSHAKE[0],
        "capabilities": _CAPABILITIES,
        "serverInfo": _SERVER,
        "instructions": _INSTRUCTIONS,
    }


def _call(id: Id, params: Params, stateless: bool, offer: _Offer) -> Reply | CallTool:
    name = params.name
    if name is None:
        raise Refused(INVALID_PARAMS, "'params.name' is missing: the tool to call")
    offer.refuse(name)
    try:
        operation = find_operation(name)
    except NotFound as error:
        raise Refused(INVALID_PARAMS, str(error)) from None
    arguments = _given(params.arguments)
    try:
        request = read_request(operation, spelled(name, arguments), "json")
    except InvalidRequest as error:
        # A tool's error, and none of the protocol: the model that wrote the arguments is to see it.
        return Reply(200, _failure(id, error, "", stateless))
    token = params.meta.get("progressToken")
    return CallTool(id, operation, request, token if isinstance(token, str | int) else None, stateless)


def _params(message: Message) -> Params:
    try:
        return decode(_given(message.params) or b"{}", Params)
    except InvalidRequest as error:
        raise Refused(INVALID_PARAMS, f"params: {error}") from None


def _given(raw: msgspec.Raw) -> bytes:
    """What there is of an optional object; nothing where there is none, in either way to say so."""
    given = bytes(raw)
    return b"" if given == b"null" else given


def _is_stateless(params: Params, headers: Mapping[str, Sequence[str]]) -> bool:
    """Which age; raises Refused for one that is not spoken here."""
    given = params.meta.get(_VERSION_KEY)
    version = given if given is not None else next(iter(headers.get(VERSION_HEADER, ())), None)
    if version is None or version in WITH_HANDSHAKE:
        return False
    if version == STATELESS:
        return True
    data = {"supported": _SPOKEN, "requested": version}
    raise Refused(UNSUPPORTED_VERSION, f"spoken here are {', '.join(_SPOKEN)}, not {version!r}"[:300], data)


def _refuse_contradiction(method: str, params: Params, headers: Mapping[str, Sequence[str]]) -> None:
    """What stands in front of us decides by the headers, and we by the body: they have to say the same."""
    missing = [key for key in (_VERSION_KEY, _ABILITIES_KEY) if key not in params.meta]
    if missing:
        raise Refused(INVALID_PARAMS, f"'params._meta' lacks {' and '.join(map(repr, missing))}")
    expected = {VERSION_HEADER: params.meta[_VERSION_KEY], METHOD_HEADER: method}
    if method == "tools/call":
        expected[NAME_HEADER] = params.name
    for header, value in expected.items():
        given = [_plain(each) for each in headers.get(header, ())]
        if given != [value]:
            raise Refused(
                HEADER_MISMATCH, f"the header {header} has to be there once, and say {value!r}"[:300]
            )


def _plain(value: str) -> str | None:
    """A header's value as it was meant: what no header can hold comes as base64.

    >>> _plain("read"), _plain("=?base64?cmVhZA==?="), _plain("=?base64?*?=")
    ('read', 'read', None)
    """
    if not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    try:
        return base64.b64decode(value[9:-2], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _failure(id: Id, error: ToolError, request_id: str, stateless: bool) -> bytes:
    body = error.body(request_id)
    return _outcome(id, [_text(body.message)], {"error": body}, stateless, failed=True)


def _outcome(
    id: Id, content: list[dict[str, Any]], structured: Any, stateless: bool, *, failed: bool
) -> bytes:
    result = {"content": content, "structuredContent": structured, "isError": failed}
    return _success(id, result, stateless)


def _content(answer: Answer) -> list[dict[str, Any]]:
    """What a model is shown: the answer as JSON, and a picture as a picture."""
    if (
        isinstance(answer, ReadAnswer)
        and answer.media_type.startswith("image/")
        and answer.encoding is Encoding.BASE64
    ):
        picture = {"type": "image", "data": answer.content, "mimeType": answer.media_type}
        return [picture, _text(encode(msgspec.structs.replace(answer, content="")).decode())]
    return [_text(encode(answer).decode())]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _success(id: Id, result: dict[str, Any], stateless: bool) -> bytes:
    if stateless:
        result = {"resultType": "complete", **result, "_meta": {_SERVER_KEY: _SERVER}}
    return encode({"jsonrpc": "2.0", "id": id, "result": result})


def _error(id: Id, code: int, message: str, data: object = None) -> bytes:
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return encode({"jsonrpc": "2.0", "id": id, "error": error})


def _unreadable(body: bytes, error: InvalidRequest) -> Reply:
    try:
        loose = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Reply(400, _error(None, PARSE_ERROR, f"the body is not JSON: {error}"))
    if isinstance(loose, list):
        return Reply(400, _error(None, INVALID_MESSAGE, "send one message at a time: batches are not taken"))
    return Reply(400, _error(None, INVALID_MESSAGE, f"the body is no JSON-RPC message: {error}"))
