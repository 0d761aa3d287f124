"""Bytes as text: lines, ranges, diffs."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InvalidRequest
from protocol.messages.base import Encoding
from tests.builder import exactly
from toolserver.tools.text import as_text, content_hash, decoded, encoded, line_range, lines_of


def test_the_hash_names_its_kind() -> None:
    assert content_hash(b"abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("data", [b"\xff", b"a\0b", b"\xed\xa0\x80", b"\xc3"])
def test_what_is_not_text_goes_as_base64(data: bytes) -> None:
    assert encoded(data) == (base64.b64encode(data).decode(), Encoding.BASE64)
    assert as_text(data) is None


@given(st.binary(max_size=40))
def test_content_survives_the_way_out_and_back(data: bytes) -> None:
    assert decoded(*encoded(data)) == data


def test_wrong_base64_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"^'content' is not valid base64: ") as caught:
        decoded("***", Encoding.BASE64)
    assert caught.value.details == {"field": "content"}


text_with_ends = st.text(st.sampled_from("ab\r\n\x0c\x0b\u2028\x85"), max_size=20)


@given(text_with_ends)
def test_lines_joined_are_the_text_and_only_line_feeds_end_them(text: str) -> None:
    lines = lines_of(text)
    assert "".join(lines) == text
    assert all("\n" not in line[:-1] for line in lines)
    assert len(lines) == text.count("\n") + (not text.endswith("\n") and bool(text))


RANGES = [
    (10, None, None, (1, 10)),
    (10, 3, 3, (3, 3)),
    (10, 3, None, (3, 10)),
    (10, None, 4, (1, 4)),
    (10, -3, None, (8, 10)),
    (10, -3, -2, (8, 9)),
    (10, 2, 99, (2, 10)),
    (0, 1, None, (1, 0)),
    (0, None, None, (1, 0)),
    (1, -1, -1, (1, 1)),
]


@pytest.mark.parametrize(("total", "start", "end", "expected"), RANGES)
def test_a_range_counts_from_one_or_from_the_end(
    total: int, start: int | None, end: int | None, expected: tuple[int, int]
) -> None:
    assert line_range(total, start, end) == expected


REFUSED_RANGES = [
    (10, 11, None, "line 11 does not exist; the file has 10 lines"),
    (10, 0, None, "line 0 does not exist; lines count from 1, or from -1 for the last"),
    (10, -11, None, "line -11 does not exist; the file has 10 lines"),
    (10, 5, 4, "the range ends (line 4) before it begins (line 5)"),
    (10, 1, 0, "line 0 does not exist; lines count from 1, or from -1 for the last"),
    (10, 5, -8, "the range ends (line 3) before it begins (line 5)"),
    (10, 1, -11, "line -11 does not exist; the file has 10 lines"),
    (1, 2, None, "line 2 does not exist; the file has 1 line"),
    (0, 2, None, "line 2 does not exist; the file is empty"),
    (0, -1, None, "line -1 does not exist; the file is empty"),
]


@pytest.mark.parametrize(("total", "start", "end", "message"), REFUSED_RANGES)
def test_a_range_that_is_not_there_is_refused(
    total: int, start: int | None, end: int | None, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=exactly(message)) as caught:
        line_range(total, start, end)
    assert caught.value.details == {"totalLines": total}


lines = st.text(st.sampled_from("ab\n"), max_size=12)


@given(lines, st.integers(-5, 14) | st.none(), st.integers(-5, 14) | st.none())
def test_a_range_is_what_counting_gives(text: str, start: int | None, end: int | None) -> None:
    all_lines = lines_of(text)
    try:
        first, last = line_range(len(all_lines), start, end)
    except InvalidRequest:
        return
    total = len(all_lines)
    from_ = 1 if start is None else start if start > 0 else total + 1 + start
    to = total if end is None else end if end > 0 else total + 1 + end
    expected = [line for number, line in enumerate(all_lines, 1) if from_ <= number <= to]
    assert all_lines[first - 1 : last] == expected
