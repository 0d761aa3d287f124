"""What edits make of texts, in memory: against a naive model, and fact by fact."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import AlreadyExists, AmbiguousMatch, InvalidRequest, NoMatch, NotFound, ToolError
from protocol.messages.edits import AppliedEdit, Edit, EditKind, FileEdit, Rung
from protocol.paths import WorkspacePath
from tests.builder import exactly
from toolserver.tools.editing.changes import acts_of, plan
from toolserver.tools.editing.documents import document_of
from toolserver.tools.editing.matching import find
from toolserver.tools.editing.steps import steps

Tree = dict[str, bytes]


def edited(tree: Tree, *edits: FileEdit) -> tuple[Tree, list[AppliedEdit]]:
    """The files after the edits."""
    acts = acts_of(steps(Edit(edits=list(edits))))
    names = {raw: WorkspacePath(raw) for act in acts for raw in act.paths}
    before = {WorkspacePath(path): data for path, data in tree.items() if path in names.values()}
    planned = plan(acts, names, before)
    kept = {path: data for path, data in tree.items() if path not in names.values()}
    return kept | {path: file.content for path, file in planned.after.items()}, planned.applied


def change(old: str, new: str, all: bool = False, path: str = "a", **more: object) -> FileEdit:
    return FileEdit(path=path, old_text=old, new_text=new, replace_all=all, **more)  # type: ignore[arg-type]


def one(text: str | bytes, *edits: FileEdit) -> tuple[bytes, list[AppliedEdit]]:
    """One file after the edits."""
    tree, applied = edited({"a": text.encode() if isinstance(text, str) else text}, *edits)
    return tree["a"], applied


def naive(tree: dict[str, str], edits: list[FileEdit]) -> dict[str, str] | type[ToolError]:
    """What a person would do, edit by edit, on files that have a line feed after each line."""
    tree = dict(tree)
    for edit in edits:
        result = _NAIVE[edit.op or EditKind.REPLACE](tree, edit)
        if result is not None:
            return result
    return tree


def _naive_replace(tree: dict[str, str], edit: FileEdit) -> type[ToolError] | None:
    text, old, new = tree.get(edit.path or ""), edit.old_text or "", edit.new_text or ""
    if text is None:
        return NotFound
    found = re.findall(f"(?={re.escape(old)})", text)
    if not found:
        return NoMatch
    if len(found) > 1 and not edit.replace_all:
        return AmbiguousMatch
    tree[edit.path or ""] = new.join(text.split(old))
    return None


def _naive_create(tree: dict[str, str], edit: FileEdit) -> type[ToolError] | None:
    if edit.path in tree and not edit.overwrite:
        return AlreadyExists
    tree[edit.path or ""] = edit.content or ""
    return None


def _naive_delete(tree: dict[str, str], edit: FileEdit) -> type[ToolError] | None:
    return None if tree.pop(edit.path or "", None) is not None else NotFound


def _naive_move(tree: dict[str, str], edit: FileEdit) -> type[ToolError] | None:
    if edit.path not in tree:
        return NotFound
    if edit.path == edit.to:
        return InvalidRequest
    if edit.to in tree and not edit.overwrite:
        return AlreadyExists
    tree[edit.to or ""] = tree.pop(edit.path or "")
    return None


def _naive_insert(tree: dict[str, str], edit: FileEdit) -> type[ToolError] | None:
    if edit.path not in tree:
        return NotFound
    lines, after = tree[edit.path or ""].splitlines(True), edit.after_line or 0
    at = len(lines) + 1 + after if after < 0 else after
    if not 0 <= at <= len(lines):
        return InvalidRequest
    lines.insert(at, edit.new_text or "")
    tree[edit.path or ""] = "".join(lines)
    return None


def _naive_lines(tree: dict[str, str], edit: FileEdit) -> type[ToolError] | None:
    if edit.path not in tree:
        return NotFound
    lines = tree[edit.path or ""].splitlines(True)
    if not 1 <= (edit.start_line or 0) <= max(len(lines), 1) or (edit.end_line or 0) < (edit.start_line or 0):
        return InvalidRequest
    lines[(edit.start_line or 1) - 1 : edit.end_line] = [edit.new_text or ""]
    tree[edit.path or ""] = "".join(lines)
    return None


_NAIVE = {
    EditKind.REPLACE: _naive_replace,
    EditKind.CREATE: _naive_create,
    EditKind.DELETE: _naive_delete,
    EditKind.MOVE: _naive_move,
    EditKind.INSERT: _naive_insert,
    EditKind.REPLACE_LINES: _naive_lines,
}

paths = st.sampled_from(["a", "b", "c"])
texts = st.lists(st.sampled_from(["x\n", "y\n", "xy\n", "\n"]), max_size=4).map("".join)
whole_lines = st.lists(st.sampled_from(["x\n", "z\n"]), min_size=1, max_size=2).map("".join)
# No white space alone: there the ladder is more forgiving than the model.
olds = st.text(st.sampled_from("xyz"), min_size=1, max_size=2)
any_edit = st.one_of(
    st.builds(FileEdit, path=paths, old_text=olds, new_text=olds, replace_all=st.booleans()),
    st.builds(
        FileEdit, op=st.just(EditKind.CREATE), path=paths, content=whole_lines, overwrite=st.booleans()
    ),
    st.builds(FileEdit, op=st.just(EditKind.DELETE), path=paths),
    st.builds(FileEdit, op=st.just(EditKind.MOVE), path=paths, to=paths, overwrite=st.booleans()),
    st.builds(
        FileEdit,
        op=st.just(EditKind.INSERT),
        path=paths,
        after_line=st.integers(-3, 5),
        new_text=whole_lines,
    ),
    st.builds(
        FileEdit,
        op=st.just(EditKind.REPLACE_LINES),
        path=paths,
        start_line=st.integers(1, 4),
        end_line=st.integers(1, 4),
        new_text=whole_lines,
    ),
)


@given(st.dictionaries(paths, texts, max_size=3), st.lists(any_edit, min_size=1, max_size=6))
def test_any_batch_of_edits_does_what_a_naive_model_does(tree: dict[str, str], edits: list[FileEdit]) -> None:
    assert ours(tree, edits) == naive(tree, edits)


def ours(tree: dict[str, str], edits: list[FileEdit]) -> dict[str, str] | type[ToolError]:
    try:
        return {path: data.decode() for path, data in edited(_bytes(tree), *edits)[0].items()}
    except ToolError as error:
        return type(error)


def _bytes(tree: dict[str, str]) -> Tree:
    return {path: text.encode() for path, text in tree.items()}


@given(st.text(st.sampled_from("ab \t\r\n"), max_size=16), st.text(st.sampled_from("ab \t\r\n"), max_size=5))
def test_what_is_found_is_the_old_text_but_for_its_rung(text: str, old: str) -> None:
    found = find(text, old)
    if found is None:
        assert not old or not _really_in(text, old)
        return
    for start, end in found.spans:
        here = text[start:end]
        if found.rung is Rung.EXACT:
            assert here == old
        assert re.sub(r"\s", "", here) == re.sub(r"\s", "", old)


def _really_in(text: str, old: str) -> bool:
    """Other than as the second half of a CRLF."""
    return any(
        not (old[0] == "\n" and "\r" not in old and at and text[at - 1] == "\r")
        for at in range(len(text))
        if text.startswith(old, at)
    )


def test_zero_matches_is_an_error_and_never_a_success() -> None:
    message = "old text does not occur in 'a'; read the file again and copy the text exactly"
    for more in ({}, {"replace_all": True}, {"expected_count": 1}):
        with pytest.raises(NoMatch, match=exactly(message)):
            one("text", FileEdit(path="a", old_text="other", new_text="z", **more))


def test_the_first_of_several_matches_is_never_taken_silently() -> None:
    text = "x = 1\ny = 2\nx = 3\n\nif x:\n"
    message = "old text is in 'a' 3 times, on lines 1, 3, 5; add context or set replaceAll"
    with pytest.raises(AmbiguousMatch, match=exactly(message)) as caught:
        one(text, change("x", "z"))
    assert caught.value.details == {"path": "a", "lines": [1, 3, 5], "count": 3}


def test_matches_that_overlap_are_several() -> None:
    with pytest.raises(AmbiguousMatch, match="2 times, on lines 1, 2"):
        one("}\n}\n}\n", change("}\n}\n", "z\n"))


def test_at_most_twenty_lines_are_named() -> None:
    with pytest.raises(AmbiguousMatch, match=r"is in 'a' 30 times, on lines 1, 2, .*, 20, …;") as caught:
        one("x\n" * 30, change("x", "z"))
    assert (len(caught.value.details["lines"]), caught.value.details["count"]) == (20, 30)


def test_an_expected_count_holds_or_refuses() -> None:
    assert one("x x", FileEdit(path="a", old_text="x", new_text="y", expected_count=2))[0] == b"y y"
    message = "old text is in 'a' 2 times, on lines 1, 1; 3 were expected"
    with pytest.raises(AmbiguousMatch, match=exactly(message)):
        one("x x", FileEdit(path="a", old_text="x", new_text="y", expected_count=3))


def test_no_match_names_the_nearest_lines() -> None:
    with pytest.raises(NoMatch, match="nearest are lines 2 to 4: read them again") as caught:
        one("a\nb\nc\nd\n", change("b\nX\nd\n", "z"))
    assert caught.value.details["nearest"] == [2, 4]


def test_an_empty_old_text_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'oldText' is empty"):
        one("text", change("", "z"))


def test_the_new_text_is_not_searched_again() -> None:
    assert one("a a", change("a", "aa", all=True))[0] == b"aa aa"


LADDER = [
    # text, old, new, result, rung
    ("a\nb\n", "a\nb", "c", "c\n", Rung.EXACT),
    ("a\r\nb\r\n", "a\nb", "c\nd", "c\r\nd\r\n", Rung.LINE_ENDINGS),
    ("a\nb\n", "a\r\nb", "c\r\nd", "c\nd\n", Rung.LINE_ENDINGS),
    ("a\r\nb\r\n", "b", "c\nd", "a\r\nc\r\nd\r\n", Rung.EXACT),
    ("a\r\nb\nc\n", "b\nc", "x\ny", "a\r\nx\ny\n", Rung.EXACT),
    ("a  \nb\n", "a\nb\n", "a\nc\n", "a  \nc\n", Rung.TRAILING_SPACE),
    ("a\nb\n", "a \nb", "c\nb", "c\nb\n", Rung.TRAILING_SPACE),
    ("def f():\n\tx = 1\n\treturn x\n", "    x = 1\n    return x", "    return 1", None, Rung.INDENTATION),
    ("  if x:\n    y\n", "if x:\n  y\n", "if z:\n  y\n  w\n", "  if z:\n    y\n    w\n", Rung.INDENTATION),
    ("if x:\n  y\n", "    if x:\n      y\n", "    if z:\n      w\n", "if z:\n  w\n", Rung.INDENTATION),
    ("\tif x:  \r\n\t\ty\r\n", "if x:\n\ty", "if x:\n\tz", "\tif x:  \r\n\t\tz\r\n", Rung.INDENTATION),
]


@pytest.mark.parametrize(("text", "old", "new", "result", "rung"), LADDER)
def test_the_rung_is_told_and_the_rest_of_the_file_stays(
    text: str, old: str, new: str, result: str | None, rung: Rung
) -> None:
    made, (applied,) = one(text, change(old, new))
    assert applied.rung is rung
    assert made.decode() == ("def f():\n\treturn 1\n" if result is None else result)


def test_a_lower_rung_is_never_tried_when_a_higher_one_has_a_match() -> None:
    made, (applied,) = one(
        "  a\na\n", change("a\n", "b\n", path="a").__class__(path="a", old_text="\na\n", new_text="\nb\n")
    )
    assert (made, applied.rung) == (b"  a\nb\n", Rung.EXACT)


@pytest.mark.parametrize("text", ["if x:\n\treturn 1\n  return 1\n", "a \nb\na  \nb\n"])
def test_several_matches_on_a_forgiving_rung_are_ambiguous(text: str) -> None:
    old = "    return 1" if "return" in text else "a\nb\n"
    with pytest.raises(AmbiguousMatch, match="2 times"):
        one(text, change(old, old.replace("1", "2").replace("b", "c")))


def test_indentation_that_would_be_a_guess_is_refused_with_the_line() -> None:
    with pytest.raises(NoMatch, match="on line 2 it differs only in spaces or line ends"):
        one("if x:\n\treturn 1\n", change("    return 1", "return 2"))


def test_line_ends_are_changed_by_who_names_them() -> None:
    assert one("a\r\nb\r\n", change("\r\n", "\n", all=True))[0] == b"a\nb\n"
    assert one("a\nb\n", change("\n", "\r\n", all=True))[0] == b"a\r\nb\r\n"
    assert one("a\r\nb\r\n", change("\n", "\r\n", all=True))[0] == b"a\r\nb\r\n"


CHARSETS = [
    ("\ufeffné\r\ntwo".encode(), "two", "zwö\n3", "\ufeffné\r\nzwö\r\n3".encode()),
    ("\ufeffné\ntwo".encode("utf-16-le"), "two", "zwö", "\ufeffné\nzwö".encode("utf-16-le")),
    ("\ufeffné\ntwo\n".encode("utf-16-be"), "né\ntwo", "zwö", "\ufeffzwö\n".encode("utf-16-be")),
    ("le déjà vu, two\n".encode("iso-8859-1"), "two", "zwö", "le déjà vu, zwö\n".encode("iso-8859-1")),
]


@pytest.mark.parametrize(("data", "old", "new", "result"), CHARSETS)
def test_charset_mark_line_ends_and_the_missing_final_newline_are_kept(
    data: bytes, old: str, new: str, result: bytes
) -> None:
    assert one(data, change(old, new))[0] == result
    text = document_of("a", data).text
    lines = text.count("\n") + 1
    inserted, _ = one(data, FileEdit(op=EditKind.INSERT, path="a", after_line=-1, new_text="new\n"))
    ended = document_of("a", inserted)
    assert ended.text.endswith("\n") == text.endswith("\n")
    assert ended.mark == document_of("a", data).mark
    assert (ended.text.count("\n"), "\r\n" in ended.text) == (lines, "\r\n" in text)


def test_old_text_may_begin_with_the_mark_that_read_shows() -> None:
    assert one("\ufeffone\n", change("\ufeffone", "\ufefftwo"))[0] == "\ufefftwo\n".encode()


def test_a_character_that_the_charset_lacks_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="is iso-8859-1, which has no '€'"):
        one("le déjà vu, two\n".encode("iso-8859-1"), change("two", "€"))


LINES = [
    (FileEdit(op=EditKind.REPLACE_LINES, path="a", start_line=2, new_text="B"), "1\nB\n3"),
    (FileEdit(op=EditKind.REPLACE_LINES, path="a", start_line=-1, new_text="C\nD\n"), "1\n2\nC\nD"),
    (FileEdit(op=EditKind.REPLACE_LINES, path="a", start_line=1, end_line=2, new_text=""), "3"),
    (FileEdit(op=EditKind.INSERT, path="a", after_line=0, new_text="0\n"), "0\n1\n2\n3"),
    (FileEdit(op=EditKind.INSERT, path="a", after_line=1, new_text="1.5"), "1\n1.5\n2\n3"),
    (FileEdit(op=EditKind.INSERT, path="a", after_line=-1, new_text="4\n"), "1\n2\n3\n4"),
]


@pytest.mark.parametrize(("edit", "result"), LINES)
def test_lines_are_replaced_and_inserted_by_number(edit: FileEdit, result: str) -> None:
    assert one("1\n2\n3", edit)[0].decode() == result


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (FileEdit(op=EditKind.REPLACE_LINES, path="a", start_line=9, new_text="B"), "line 9 does not exist"),
        (FileEdit(op=EditKind.INSERT, path="a", after_line=9, new_text="B"), "line 9 of 'a' does not exist"),
    ],
)
def test_lines_that_are_not_there_are_refused(edit: FileEdit, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        one("1\n2\n", edit)


NEITHER = "give 'path', 'oldText' and 'newText', or a list in 'edits'"
BOTH = "give one edit by its own fields or several in 'edits', not both"
UNFIT = [
    (Edit(), NEITHER),
    (Edit(path="a", edits=[change("b", "c")]), BOTH),
    (Edit(replace_all=True, edits=[change("b", "c")]), BOTH),
    (Edit(expected_hash="x", edits=[change("b", "c")]), BOTH),
    (
        Edit(path="a", old_text="b"),
        "'replace' needs 'path', 'oldText' and 'newText'; 'newText' is missing",
    ),
    (
        Edit(op=EditKind.DELETE, path="a", new_text="b"),
        "'delete' has no use for 'newText'; it takes 'path' and 'expectedHash'",
    ),
    (Edit(op=EditKind.INSERT, path="a", new_text="b"), "'insert' needs 'path', 'afterLine' and 'newText'; "),
    (Edit(path="a", old_text="b", new_text="c", expected_count=0), "'expectedCount' is 1 or more"),
]


@pytest.mark.parametrize(("request_", "message"), UNFIT)
def test_an_edit_has_what_its_kind_needs_and_nothing_else(request_: Edit, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(message)}"):
        steps(request_)


def test_one_edit_by_its_own_fields_is_a_list_of_one() -> None:
    request = Edit(path="a", old_text="b", new_text="", replace_all=True, expected_hash="h")
    assert steps(request) == [
        FileEdit(path="a", old_text="b", new_text="", replace_all=True, expected_hash="h")
    ]
