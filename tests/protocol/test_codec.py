"""Bytes to messages: whatever does not decode is one InvalidRequest that names the field."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import Format, ReplyFrame, RequestFrame, StreamFrame, decode, decode_params, encode
from protocol.errors import InvalidRequest
from protocol.messages.archives import Inject
from protocol.messages.commands import Command
from protocol.messages.devserver import Start
from protocol.messages.edits import Edit
from protocol.messages.files import Read, ReadMany, Stat, Write
from protocol.messages.search import Search, Where

JSON_REFUSALS = [
    (b'{"path": 1}', Read, "expected 'str', got 'int' in 'path'", "path"),
    (b"{}", Read, "required field 'path' is missing", "path"),
    (b'{"files": [{}]}', ReadMany, "required field 'files[0].path' is missing", "files[0].path"),
    (
        b'{"path": "a", "content": "", "encoding": "utf8"}',
        Write,
        "invalid enum value 'utf8' in 'encoding'; known are base64, utf-8",
        "encoding",
    ),
    (
        b'{"command": "x", "timeoutMs": 1.5}',
        Command,
        "expected 'int | null', got 'float' in 'timeoutMs'",
        "timeoutMs",
    ),
    (b'{"command": "x", "env": {"A": 1}}', Command, "expected 'str', got 'int' in 'env[...]'", "env[...]"),
    (
        b'{"dev": {"readiness": {"log": {}}}}',
        Start,
        "required field 'dev.readiness.log.pattern' is missing",
        "dev.readiness.log.pattern",
    ),
    (b'{"archive": "***"}', Inject, "invalid base64 encoded string in 'archive'", "archive"),
    (b"[]", Read, "expected 'object', got 'array'", ""),
    (b"null", Read, "expected 'object', got 'null'", ""),
    (b'{"path": "a"', Read, "the request is not valid JSON: input data was truncated", ""),
    (b'{"path": "a"} x', Read, "the request is not valid JSON: trailing characters (byte 15)", ""),
    (b"nonsense", Read, "the request is not valid JSON: invalid character (byte 4)", ""),
]


@pytest.mark.parametrize(("data", "kind", "message", "field"), JSON_REFUSALS)
def test_a_refusal_says_what_is_wrong_and_where(data: bytes, kind: type, message: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(data, kind)
    assert caught.value.message == message
    assert caught.value.details == {"field": field}


UNKNOWN_FIELDS = [
    ({"pth": "x"}, Read, "unknown field 'pth'; did you mean 'path'?", "pth"),
    (
        {"start_line": 1, "path": "x"},
        Read,
        "unknown field 'start_line'; did you mean 'startLine'?",
        "start_line",
    ),
    ({"zzz": 1}, Stat, "unknown field 'zzz'; known are path", "zzz"),
    (
        {"command": "x", "pty": {"col": 1}},
        Command,
        "unknown field 'pty.col'; did you mean 'cols'?",
        "pty.col",
    ),
    (
        {"edits": [{"oldTxt": ""}]},
        Edit,
        "unknown field 'edits[0].oldTxt'; did you mean 'oldText'?",
        "edits[0].oldTxt",
    ),
    ({"pattern": "x", "in_": "names"}, Search, "unknown field 'in_'; did you mean 'in'?", "in_"),
]


@pytest.mark.parametrize("form", ["json", "msgpack"])
@pytest.mark.parametrize(("data", "kind", "message", "field"), UNKNOWN_FIELDS)
def test_an_unknown_field_is_named_with_the_one_that_was_meant(
    form: Format, data: dict[str, Any], kind: type, message: str, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(encode(data, form), kind, form)
    assert (caught.value.message, caught.value.details["field"]) == (message, field)


INVALID_TEXT = [
    (b'{"path": "\xff"}', "json", "JSON"),
    (b'\xff\xfe{"path": "a"}', "json", "JSON"),
    (b'{"path": "\\ud800"}', "json", "JSON"),
    (b"\x81\xa4path\xa1\xff", "msgpack", "MessagePack"),
    (b"\x81\xa4path\xa3\xed\xa0\x80", "msgpack", "MessagePack"),
    (b"\xc1", "msgpack", "MessagePack"),
    (b"", "msgpack", "MessagePack"),
]


@pytest.mark.parametrize(("data", "form", "name"), INVALID_TEXT)
def test_text_that_is_not_unicode_is_refused(data: bytes, form: Format, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^the request is not valid {name}: "):
        decode(data, Read, form)


def test_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(msgspec.msgpack.encode({5: 6}), Read, "msgpack")
    assert caught.value.message == "expected 'str', got 'int', as a key"


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
@pytest.mark.parametrize(("form", "opening", "closing"), [("json", b"[", b"]"), ("msgpack", b"\x91", b"")])
def test_deep_nesting_is_refused_and_not_followed_down(
    form: Format, opening: bytes, closing: bytes, depth: int
) -> None:
    nested = opening * depth + (b"\xc0" if form == "msgpack" else b"") + closing * depth
    head = (
        b'{"id":"1","op":"read","params":' if form == "json" else b"\x83\xa2id\xa11\xa2op\xa4read\xa6params"
    )
    with pytest.raises(InvalidRequest):
        decode(head + nested + (b"}" if form == "json" else b""), RequestFrame, form)
    with pytest.raises(InvalidRequest):
        decode(nested, Read, form)


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_nothing_at_all_means_no_fields(form: Format) -> None:
    assert decode_params(b"", Edit, form) == Edit()
    assert decode_params(msgspec.Raw(b""), Edit, form) == Edit()


def test_names_are_camel_case_on_the_wire_and_in_is_in() -> None:
    request = decode(b'{"pattern": "x", "in": "names", "maxMatches": 3}', Search)
    assert (request.in_, request.max_matches) == (Where.NAMES, 3)
    assert json.loads(encode(Read(path="a", start_line=2)))["startLine"] == 2


def test_a_reply_shows_only_what_it_has() -> None:
    assert encode(ReplyFrame(id="7", result={"a": 1})) == b'{"id":"7","result":{"a":1}}'
    assert encode(StreamFrame(event={"type": "x"})) == b'{"event":{"type":"x"}}'


def test_bytes_are_base64_in_json_and_raw_in_messagepack() -> None:
    request = Inject(archive=b"\x00\xff")
    assert json.loads(encode(request))["archive"] == "AP8="
    assert b"\x00\xff" in encode(request, "msgpack")
    assert decode(encode(request, "msgpack"), Inject, "msgpack") == request


@given(
    st.builds(
        Write,
        path=st.text(),
        content=st.text(),
        expected_hash=st.none() | st.text(),
        mode=st.none() | st.integers(0, 0o777),
    ),
    st.sampled_from(["json", "msgpack"]),
)
def test_a_message_survives_the_way(message: Write, form: Format) -> None:
    assert decode(encode(message, form), Write, form) == message


@given(st.binary(max_size=64), st.sampled_from(["json", "msgpack"]))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes, form: Format) -> None:
    for kind in (RequestFrame, Read, Edit, Command, Search):
        with contextlib.suppress(InvalidRequest):
            decode(data, kind, form)
