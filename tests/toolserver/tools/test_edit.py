"""Edits: the pure rule, against a naive model."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import AmbiguousMatch, InvalidRequest, NoMatch, ToolError
from protocol.messages.edits import Edit, Replacement
from tests.builder import exactly
from toolserver.tools.edit import apply_replacements, occurrences, replacements


def change(old: str, new: str, all: bool = False) -> Replacement:
    return Replacement(path="a", old_text=old, new_text=new, replace_all=all)


def naive(text: str, edits: list[Replacement]) -> tuple[str, int] | type[ToolError]:
    """What a person would do, edit by edit."""
    total = 0
    for edit in edits:
        if not edit.old_text:
            return InvalidRequest
        found = re.findall(re.escape(edit.old_text), text)
        if not found:
            return NoMatch
        if len(found) > 1 and not edit.replace_all:
            return AmbiguousMatch
        text = edit.new_text.join(text.split(edit.old_text))
        total += len(found)
    return text, total


short = st.text(st.sampled_from("ab\n"), max_size=3)
edits = st.lists(st.builds(change, short, short, st.booleans()), max_size=4)


@given(st.text(st.sampled_from("ab\n"), max_size=12), edits)
def test_edits_do_what_a_naive_model_does(text: str, edits: list[Replacement]) -> None:
    try:
        result: tuple[str, int] | type[ToolError] = apply_replacements("a", text, edits)
    except ToolError as error:
        result = type(error)
    assert result == naive(text, edits)


@given(st.text(max_size=12), st.text(max_size=3))
def test_occurrences_do_not_overlap_and_are_all_found(text: str, part: str) -> None:
    found = occurrences(text, part)
    assert len(found) == (text.count(part) if part else 0)
    assert all(text.startswith(part, at) for at in found)
    assert all(b - a >= len(part) for a, b in itertools.pairwise(found))


def test_several_matches_name_their_lines() -> None:
    text = "x = 1\ny = 2\nx = 3\n\nif x:\n"
    message = "old text is in 'a' 3 times, on lines 1, 3, 5; add context or set replaceAll"
    with pytest.raises(AmbiguousMatch, match=exactly(message)) as caught:
        apply_replacements("a", text, [change("x", "z")])
    assert caught.value.details == {"path": "a", "lines": [1, 3, 5], "count": 3}


def test_at_most_twenty_lines_are_named() -> None:
    with pytest.raises(AmbiguousMatch, match=r"is in 'a' 30 times, on lines 1, 2, .*, 20, …;") as caught:
        apply_replacements("a", "x\n" * 30, [change("x", "z")])
    assert (len(caught.value.details["lines"]), caught.value.details["count"]) == (20, 30)


def test_no_match_says_what_to_do() -> None:
    message = "old text does not occur in 'a'; read the file again and copy the text exactly"
    with pytest.raises(NoMatch, match=exactly(message)):
        apply_replacements("a", "text", [change("other", "z")])


@pytest.mark.parametrize(
    ("text", "old", "line"),
    [
        ("one\r\ntwo\r\n", "one\ntwo", 1),
        ("a\nb\t\nc", "b\nc", 2),
        ("x\n\tif y:\n\t\tz\n", "    if y:\n        z\n", 2),
    ],
)
def test_a_near_match_is_told_with_its_line(text: str, old: str, line: int) -> None:
    message = (
        f"old text does not occur in 'a'; on line {line} it differs only in spaces or line ends, "
        "copy it exactly from there"
    )
    with pytest.raises(NoMatch, match=exactly(message)):
        apply_replacements("a", text, [change(old, "z")])


def test_an_empty_old_text_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=exactly("'oldText' is empty; use 'write' to create a file")):
        apply_replacements("a", "text", [change("", "z")])


def test_later_edits_see_what_earlier_ones_made() -> None:
    assert apply_replacements("a", "one", [change("one", "two"), change("two", "three")]) == ("three", 2)


def test_the_new_text_is_not_searched_again() -> None:
    assert apply_replacements("a", "a a", [change("a", "aa", all=True)]) == ("aa aa", 2)


BOTH = "give one edit by its own fields or several in 'edits', not both"
NEITHER = "give 'path', 'oldText' and 'newText', or a list in 'edits'"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Edit(), NEITHER),
        (Edit(path="a", old_text="b"), NEITHER),
        (Edit(old_text="b", new_text="c"), NEITHER),
        (Edit(path="a", edits=[change("b", "c")]), BOTH),
        (Edit(replace_all=True, edits=[change("b", "c")]), BOTH),
        (Edit(expected_hash="x", edits=[change("b", "c")]), BOTH),
    ],
)
def test_one_edit_or_a_list_of_them(request_: Edit, message: str) -> None:
    with pytest.raises(InvalidRequest, match=exactly(message)):
        replacements(request_)


def test_one_edit_by_its_own_fields_is_a_list_of_one() -> None:
    request = Edit(path="a", old_text="b", new_text="", replace_all=True, expected_hash="h")
    assert replacements(request) == [
        Replacement(path="a", old_text="b", new_text="", replace_all=True, expected_hash="h")
    ]
