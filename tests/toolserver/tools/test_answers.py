"""Pages and answers: nothing is left out or replaced that the answer does not tell of, to the byte."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages.base import Encoding
from protocol.messages.commands import OutputAnswer, OutputStream
from toolserver.system import output
from toolserver.system.output import OutputLog
from toolserver.system.processes import Process
from toolserver.tools.answers import page_of, shown

RING = 100


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MEMORY_BYTES", 32)
    monkeypatch.setattr(output, "CHUNK_BYTES", 8)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spill")


def written(directory: Path, data: bytes, ended: bool = True) -> OutputLog:
    log = OutputLog(directory, RING, 16)
    for start in range(0, len(data), 7):
        log.append(data[start : start + 7])
    if ended:
        log.close()
    return log


def page(log: OutputLog, start: int, limit: int, encoding: Encoding) -> OutputAnswer:
    program = SimpleNamespace(id="p", stdout=log, stderr=log, running=not log.closed)
    return page_of(cast(Process, program), OutputStream.STDOUT, start, limit, encoding)


@given(st.binary(max_size=300), st.integers(0, 320), st.integers(4, 50))
def test_pages_one_after_the_other_are_what_was_written(
    directory: Path, data: bytes, start: int, limit: int
) -> None:
    log = written(directory, data)
    parts, at = [], start
    while True:
        told = page(log, at, limit, Encoding.BASE64)
        assert told.offset == min(at, len(data)) + told.missing_bytes
        parts.append(base64.b64decode(told.data))
        assert told.next_offset == told.offset + len(parts[-1])
        assert len(parts[-1]) <= limit
        at = told.next_offset
        if at >= told.end:
            break
        assert parts[-1]
    kept = b"".join(parts)
    assert data[max(start, log.start) :] == kept
    assert told.closed
    log.release()


@given(st.text(st.sampled_from("aé漢😀\n"), max_size=25), st.integers(4, 20), st.booleans())
def test_pages_of_text_are_cut_between_characters(
    directory: Path, text: str, limit: int, ended: bool
) -> None:
    data = text.encode()[-RING:].decode(errors="ignore").encode()
    log = written(directory, data, ended)
    parts, at = [], 0
    while at < len(data):
        told = page(log, at, limit, Encoding.UTF8)
        assert not told.replaced
        assert told.next_offset > at
        parts.append(told.data)
        at = told.next_offset
    assert "".join(parts).encode() == data
    log.release()


def test_a_character_that_is_not_whole_yet_waits_for_its_rest(directory: Path) -> None:
    log = written(directory, b"a\xe6\xbc", ended=False)
    told = page(log, 0, 10, Encoding.UTF8)
    assert (told.data, told.next_offset, told.end, told.replaced) == ("a", 1, 3, False)
    log.append(b"\xa2")
    assert page(log, 1, 10, Encoding.UTF8).data == "漢"
    log.release()


def test_a_character_that_never_becomes_whole_is_replaced_and_that_is_told(directory: Path) -> None:
    log = written(directory, b"a\xe6\xbc")
    told = page(log, 0, 10, Encoding.UTF8)
    assert (told.data, told.next_offset, told.replaced) == ("a\ufffd", 3, True)
    assert not page(log, 0, 10, Encoding.BASE64).replaced
    log.release()


@given(st.binary(max_size=300), st.integers(0, 200), st.integers(0, 310))
def test_an_answer_tells_where_its_middle_is_missing(
    directory: Path, data: bytes, limit: int, start: int
) -> None:
    log = written(directory, data)
    told = shown(log, start, limit, Encoding.BASE64)
    head_and_tail = base64.b64decode(told.text)
    from_start = data[start:]
    head = told.omitted_at - min(start, len(data)) if told.omitted else len(from_start)
    assert head_and_tail == from_start[:head] + from_start[head + told.omitted :]
    log.release()


def test_replaced_bytes_are_told(directory: Path) -> None:
    log = written(directory, b"a\xffb")
    assert shown(log, 0, 10, Encoding.UTF8).replaced
    assert not shown(log, 0, 10, Encoding.BASE64).replaced
    assert not shown(log, 2, 10, Encoding.UTF8).replaced
    log.release()
