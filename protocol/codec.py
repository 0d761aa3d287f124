"""Bytes to messages and back, JSON and MessagePack, strictly.

Whatever does not decode is an InvalidRequest that names the field, never another exception.
"""

from __future__ import annotations

import difflib
import enum
import functools
import re
import struct
from collections.abc import Hashable
from typing import Any, Literal, TypeVar, cast

import msgspec

from protocol.errors import ErrorBody, InvalidRequest

Format = Literal["json", "msgpack"]
T = TypeVar("T")

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`(?: - at `\$\.?(?P<where>.*)`)?")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`(?: - at `\$\.?(?P<where>.*)`)?")
_AT = re.compile(r"(?P<what>.*) - at `(?P<key>key` in `)?\$\.?(?P<where>.*)`", re.DOTALL)
_EMPTY_BYTES, _EMPTY_TEXT = b"\xc4\x00", b"\xa0"
_BYTES, _TEXT = 0xC6, 0xDB
"""MessagePack's marks of what has its length in 32 bits."""
_MALFORMED = re.compile(r"\w+(?: data)? is malformed: ")


class RequestFrame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``{"id", "op", "params"}``: a caller's frame on a WebSocket; ``op`` may be ``cancel`` or ``renew``."""

    id: str
    op: str
    params: msgspec.Raw = msgspec.Raw(b"")
    stream: bool = True
    """Without it no events are sent, and the answer holds what they would have told."""


class StreamFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One object of an HTTP stream: exactly one of ``event``, ``result`` and ``error``."""

    event: Any = None
    result: Any = None
    error: ErrorBody | None = None


class ReplyFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The tool server's frame on a WebSocket: the same, behind the request's id, ``""`` when it has none."""

    id: str
    event: Any = None
    result: Any = None
    error: ErrorBody | None = None


class RawReplyFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A reply as a client first sees it: its content still to be decoded for the operation it belongs to."""

    id: str = ""
    event: msgspec.Raw = msgspec.Raw(b"")
    result: msgspec.Raw = msgspec.Raw(b"")
    error: ErrorBody | None = None


@functools.cache
def _decoder(kind: Any, form: Format) -> msgspec.json.Decoder[Any] | msgspec.msgpack.Decoder[Any]:
    return msgspec.json.Decoder(kind) if form == "json" else msgspec.msgpack.Decoder(kind)


_ENCODERS: dict[Format, msgspec.json.Encoder | msgspec.msgpack.Encoder] = {
    "json": msgspec.json.Encoder(),
    "msgpack": msgspec.msgpack.Encoder(),
}


def encode(message: Any, form: Format = "json") -> bytes:
    """``message`` as bytes.

    >>> encode({"b": 1})
    b'{"b":1}'
    """
    return _ENCODERS[form].encode(message)


def opened(message: Any, size: int) -> bytes:
    """``message`` in MessagePack, up to the content of its last field: ``size`` bytes that are to follow.

    The field is an empty string or empty bytes in ``message``. So a large content need not be copied; that of
    a string is UTF-8, which is for the caller to know.

    >>> opened({"a": b""}, 2) + b"\\xff\\0" == b"\\x81\\xa1a" + b"\\xc6\\0\\0\\0\\2" + b"\\xff\\0"
    True
    >>> decode(opened({"a": ""}, 3) + b"b\\nc", dict, "msgpack")
    {'a': 'b\\nc'}
    """
    begun = encode(message, "msgpack")
    if begun.endswith(_EMPTY_BYTES):
        return begun[: -len(_EMPTY_BYTES)] + struct.pack(">BI", _BYTES, size)
    return begun[: -len(_EMPTY_TEXT)] + struct.pack(">BI", _TEXT, size)


def decode(data: bytes | bytearray | memoryview | msgspec.Raw, kind: type[T], form: Format = "json") -> T:
    """``data`` as a ``kind``; raises InvalidRequest with the field's path in ``details``."""
    try:
        decoded: T = _decoder(cast(Hashable, kind), form).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explained(error, kind, form) from None
    return decoded


def decode_params(data: bytes | msgspec.Raw, kind: type[T], form: Format = "json") -> T:
    """Like ``decode``, where nothing at all means no fields.

    >>> from protocol.messages.files import List
    >>> decode_params(b"", List).path
    '.'
    """
    if not memoryview(data):
        data = encode({}, form)
    return decode(data, kind, form)


def explained(error: Exception, kind: Any, form: Format) -> InvalidRequest:
    """The sentence, and the path of the field, behind a decoder's error."""
    text = str(error)
    if unknown := _UNKNOWN.fullmatch(text):
        return _unknown_field(unknown["name"], unknown["where"] or "", kind)
    if missing := _MISSING.fullmatch(text):
        path = _below(missing["where"] or "", missing["name"])
        return InvalidRequest(f"required field {path!r} is missing", field=path)
    if isinstance(error, msgspec.ValidationError):
        return _wrong_value(text, kind)
    name = "JSON" if form == "json" else "MessagePack"
    return InvalidRequest(f"the request is not valid {name}: {_lower(_MALFORMED.sub('', text))}", field="")


def _wrong_value(text: str, kind: Any) -> InvalidRequest:
    found = _AT.fullmatch(text)
    what, where = (found["what"], found["where"]) if found else (text, "")
    key = ", as a key" if found and found["key"] else ""
    place = f" in {where!r}" if where else ""
    choices = field_choices(kind, where) if text.startswith("Invalid enum value") else []
    hint = f"; known are {', '.join(choices)}" if choices else ""
    return InvalidRequest(f"{_lower(what)}{key}{place}{hint}", field=where)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:].replace("`", "'")


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _unknown_field(name: str, where: str, kind: Any) -> InvalidRequest:
    path = _below(where, name)
    close = difflib.get_close_matches(name, sorted(field_names(kind)), n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(field_names(kind)))}"
    return InvalidRequest(f"unknown field {path!r}{hint}", field=path)


def field_names(kind: Any) -> set[str]:
    """All names that a Struct takes on the wire, those of the Structs inside it too.

    >>> from protocol.messages.files import Stat
    >>> field_names(Stat)
    {'path'}
    """
    found: set[str] = set()
    seen: set[Any] = set()

    def visit(node: Any) -> None:
        if isinstance(node, msgspec.inspect.StructType) and node.cls not in seen:
            seen.add(node.cls)
            found.update(field.encode_name for field in node.fields)
            for field in node.fields:
                visit(field.type)
        elif isinstance(node, msgspec.inspect.UnionType):
            for one in node.types:
                visit(one)
        elif isinstance(node, msgspec.inspect.ListType):
            visit(node.item_type)

    visit(msgspec.inspect.type_info(kind))
    return found


def field_choices(kind: Any, where: str) -> list[str]:
    """The values that the field at ``where`` takes, when it is one of an enumeration.

    >>> from protocol.messages.files import Write
    >>> field_choices(Write, "encoding")
    ['base64', 'utf-8']
    """
    nodes = [msgspec.inspect.type_info(kind)]
    for name in filter(None, re.sub(r"\[[^]]*\]", ".*", where).split(".")):
        nodes = [below for node in nodes for below in _members(node, name)]
    return sorted(str(member.value) for node in nodes for member in _enum_members(node))


def _members(node: Any, name: str) -> list[Any]:
    """What is found at ``name`` below a type; ``*`` means an element."""
    if isinstance(node, msgspec.inspect.UnionType):
        return [below for each in node.types for below in _members(each, name)]
    if isinstance(node, msgspec.inspect.ListType) and name == "*":
        return [node.item_type]
    if isinstance(node, msgspec.inspect.StructType):
        return [field.type for field in node.fields if field.encode_name == name]
    return []


def _enum_members(node: Any) -> list[enum.Enum]:
    if isinstance(node, msgspec.inspect.UnionType):
        return [member for each in node.types for member in _enum_members(each)]
    return list(node.cls) if isinstance(node, msgspec.inspect.EnumType) else []
