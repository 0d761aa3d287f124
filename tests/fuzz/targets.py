"""What is fuzzed: functions that are given bytes from outside, and what must be true whatever the bytes are.

A target raises for a finding and returns for all else. The errors of ``protocol.errors`` are answers that a
client gets, so they are none; anything else that is raised, and any promise that does not hold, is one. Seeds
are where the search begins: one good input of each shape.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from protocol.archives import Budget, hard_link_source, member_path, permissions, refuse_leaving_symlink
from protocol.codec import encode
from protocol.errors import ToolError, Unauthorized
from protocol.limits import MIB, Limits
from protocol.messages.edits import FileEdit
from protocol.operations import OPERATIONS
from protocol.paths import ROOT, WorkspacePath, workspace_path
from protocol.tar.decoder import Decoder
from protocol.tar.header import Member
from protocol.template_migration import migrated
from protocol.templates import parse_template
from protocol.tokens import SESSION_TYPE, Claims, read_header, read_payload, refuse_untimely
from toolserver.mcp import receive
from toolserver.session import Conversation
from toolserver.system.tarballs.inflate import Inflater
from toolserver.tools.admission import EVERYTHING
from toolserver.tools.call import read_request
from toolserver.tools.editing.aliases import spelled
from toolserver.tools.editing.changes import Planned, acts_of, plan
from toolserver.tools.raw import byte_range, names

Fuzzed = Callable[[bytes], None]
LIMITS = Limits(max_archive_bytes=64 * MIB)
_OPERATIONS = list(OPERATIONS.values())
_FILE = WorkspacePath("src/a.txt")


@dataclass(frozen=True)
class Target:
    """One way in for bytes."""

    fuzz: Fuzzed
    seeds: tuple[bytes, ...]
    max_bytes: int = 2048


def json_frame(data: bytes) -> None:
    """A frame on the WebSocket is run, answered or let be; two of one id are never in flight."""
    conversation = Conversation("json", 2)
    conversation.receive(data)
    conversation.receive(data)


def msgpack_frame(data: bytes) -> None:
    """The same, in MessagePack."""
    conversation = Conversation("msgpack", 2)
    conversation.receive(data)
    conversation.receive(data)


def http_body(data: bytes) -> None:
    """The first byte chooses the operation, the others are its body."""
    if data:
        operation = _OPERATIONS[data[0] % len(_OPERATIONS)]
        with contextlib.suppress(ToolError):
            read_request(operation, spelled(operation.name, data[1:]), "json")


def mcp_message(data: bytes) -> None:
    """A message of the Model Context Protocol; the first byte chooses the headers."""
    versions = (None, "2026-07-28", "2025-11-25", "x")
    version = versions[data[0] % len(versions)] if data else None
    headers = {} if version is None else {"Mcp-Protocol-Version": [version], "Mcp-Method": ["tools/call"]}
    receive(data[1:], headers, EVERYTHING, None)


def path(data: bytes) -> None:
    """A path that is taken is relative and normal, and means itself when it is given again."""
    raw = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(ToolError):
        taken = workspace_path(raw)
        parts = taken.split("/")
        assert not taken.startswith("/")
        assert taken == ROOT or not {"", ".", ".."} & set(parts), taken
        assert "\0" not in taken
        # The names /app and /workspace mean the root, but only at the front of an absolute path.
        assert workspace_path(taken) == taken


def archive(data: bytes) -> None:
    """The first byte is the size of the pieces in which the rest arrives, packed or plain."""
    if not data:
        return
    size = data[0] * 16 + 1
    with contextlib.suppress(ToolError):
        inflater, decoder = Inflater(), Decoder()
        budget = Budget(LIMITS)
        for start in range(1, len(data), size):
            packed = data[start : start + size]
            budget.took_packed(len(packed))
            _decode(inflater.feed(packed), decoder, budget)
        _decode(inflater.finish(), decoder, budget)
        decoder.finish()


def _decode(pieces: Iterable[bytes], decoder: Decoder, budget: Budget) -> None:
    for piece in pieces:
        budget.took_unpacked(len(piece))
        for event in decoder.feed(piece):
            if isinstance(event, Member):
                budget.member(event)
                _refuse_unsafe(event)


def _refuse_unsafe(member: Member) -> None:
    with contextlib.suppress(ToolError):
        inside = member_path(member.name)
        assert inside == "." or not {"", ".", ".."} & set(inside.split("/")), member.name
        assert not permissions(member.mode) & ~0o777
        hard_link_source(inside, member.link)
    with contextlib.suppress(ToolError):
        refuse_leaving_symlink(member_path(member.name), member.link)


def patch(data: bytes) -> None:
    """A patch of either kind, applied to the file that it names first; what comes of it can be written."""
    text, _, content = data.partition(b"\0")
    with contextlib.suppress(ToolError):
        edit = FileEdit(patch=text.decode("utf-8", "replace"))
        acts = acts_of([edit])
        named = [name for act in acts for name in act.paths]
        files = {WorkspacePath(name): content for name in named[:1]}
        _writable(plan(acts, {name: WorkspacePath(name) for name in named}, files))


def exact_edit(data: bytes) -> None:
    """Text that occurs once is replaced there and nowhere else, whatever else is in the file."""
    old, new, text = [*data.decode("utf-8", "replace").split("\0", 2), "", ""][:3]
    with contextlib.suppress(ToolError):
        edit = FileEdit(path=_FILE, old_text=old, new_text=new)
        planned = plan(acts_of([edit]), {_FILE: _FILE}, {_FILE: text.encode()})
        _writable(planned)
        if old and text.count(old) == 1 and "\r" not in text + old + new and "\ufeff" not in text + old + new:
            assert planned.after[_FILE].content.decode() == text.replace(old, new), planned.applied


def _writable(planned: Planned) -> None:
    for file in planned.after.values():
        assert isinstance(file.content, bytes)


def template_json(data: bytes) -> None:
    """Read or refused; and what the older form is made into is read, or refused."""
    with contextlib.suppress(ToolError):
        parse_template(data)
    try:
        old = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if isinstance(old, dict):
        with contextlib.suppress(ToolError):
            encode(migrated(old).template)


def http_headers(data: bytes) -> None:
    """A range lies within the file; entity tags are read without an end."""
    header = data.decode("latin-1")
    # IndexError is how a range beyond the end is told, for a status of its own.
    with contextlib.suppress(ToolError, IndexError):
        found = byte_range(header, 1000)
        if found is not None:
            start, length = found
            assert 0 <= start < 1000, found
            assert 0 < length <= 1000 - start, found
    with contextlib.suppress(ToolError):
        names(header, frozenset(('"a"',)), weak=True)


def _tar() -> bytes:
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        (top / ("long" * 30)).write_bytes(b"x" * 700)
        (top / "link").symlink_to("a")
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.add(top, ".")
    return packed.getvalue()


def _message(method: str, params: dict[str, object]) -> bytes:
    return encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


_META = {"protocolVersion": "2026-07-28", "clientCapabilities": {}}
_CALL: dict[str, object] = {
    "name": "read",
    "_meta": {f"io.modelcontextprotocol/{name}": value for name, value in _META.items()},
}
_V4A = b"*** Begin Patch\n*** Update File: a\n@@\n one\n-two\n+three\n*** Add File: b\n+x\n*** End Patch\n"
_UNIFIED = b"diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n"

_CLAIMS = b'{"sid":"s","sub":"u","jti":"1","iat":1,"nbf":1,"exp":2,"scopes":["read"],"path":"src"}'


def session_token(data: bytes) -> None:
    """Whatever stands where a token should is refused by Unauthorized, or is in its time."""
    way, rest = data[:1], data[1:]
    token = rest.decode("latin-1")
    if way < b"\2":
        parts = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (*rest.split(b"\0"), b""))
        token = ".".join(parts)
    with contextlib.suppress(Unauthorized):
        read_header(token, SESSION_TYPE)
    with contextlib.suppress(Unauthorized):
        refuse_untimely(read_payload(rest.partition(b"\0")[2], Claims), 1.5)


TARGETS: dict[str, Target] = {
    "json_frame": Target(
        json_frame,
        (
            b'{"id":"1","op":"read","params":{"path":"a"}}',
            b'{"id":"1","op":"edit","params":{"edits":[{"path":"a","oldText":"x"}]},"stream":false}',
            b'{"id":"1","op":"cancel"}',
        ),
    ),
    "msgpack_frame": Target(
        msgpack_frame,
        (
            msgspec.msgpack.encode({"id": "1", "op": "write", "params": {"path": "a", "content": "x"}}),
            msgspec.msgpack.encode({"id": "1", "op": "cancel"}),
        ),
    ),
    "http_body": Target(
        http_body,
        (
            *(bytes([number]) + b'{"path":"a"}' for number in range(len(_OPERATIONS))),
            b'\x0d{"command":"str_replace","file_path":"a","old_str":"x","edits":[{"search":"a"}]}',
        ),
    ),
    "session_token": Target(
        session_token,
        (
            b'\0{"alg":"EdDSA","typ":"workspace-session+jwt","kid":"a"}\0' + _CLAIMS,
            b'\1{"alg":"EdDSA","typ":"workspace-ticket+jwt"}\0{"method":"GET"}',
            b"\2eyJhbGciOiJub25lIn0.e30.",
        ),
    ),
    "mcp_message": Target(
        mcp_message,
        (
            b"\x01" + _message("tools/call", _CALL),
            b"\x00" + _message("tools/call", {"name": "read", "arguments": {"path": "a"}}),
            b"\x02" + _message("initialize", {"protocolVersion": "2025-06-18"}),
        ),
    ),
    "path": Target(path, (b"src/a.ts", b"/app/src/../a", b"./a//b", b"/workspace/a", b"a\xff")),
    "archive": Target(
        archive, (b"\xff" + _tar(), b"\x01" + _gzip(_tar()), b"\x10" + _tar()[:1536]), 16 * 1024
    ),
    "patch": Target(patch, (_V4A + b"\0one\ntwo\n", _UNIFIED + b"\0one\ntwo\n", _V4A + b"\0 one\r\ntwo")),
    "exact_edit": Target(
        exact_edit, (b"two\0three\0one\ntwo\n", b"  a\n b\0x\0a\n  a\n b\nb", b"a \0b\0a\n")
    ),
    "template_json": Target(
        template_json,
        (
            b'{"name":"x","devCommand":"vite --port {port}","readiness":{"http":"/"},"port":4321}',
            b'{"metadata":{"name":"x"},"build":{"commands":["npm i"]},"dependencies":{"npm":["a"]}}',
            b'{"variables":{"a":{"type":"string","default":"x","pattern":"^x$"}},"substitute":["a"]}',
        ),
    ),
    "http_headers": Target(http_headers, (b"bytes=0-5", b"bytes=-3", b"bytes=7-", b'"a", W/"b"', b"*")),
}


def everything(data: bytes) -> None:
    """The first byte chooses the target."""
    if data:
        _ALL[data[0] % len(_ALL)].fuzz(data[1:])


_ALL = list(TARGETS.values())
EVERYTHING_AT_ONCE = Target(
    everything,
    tuple(bytes([number]) + seed for number, target in enumerate(_ALL) for seed in target.seeds),
    16 * 1024,
)
"""For a short search: starting the engine takes seconds."""
