"""Patches in the V4A envelope: a corpus written from the grammar, what they do and why they are refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from protocol.errors import ToolError
from protocol.messages.edits import Edit, Rung
from protocol.paths import WorkspacePath
from toolserver.tools.editing.changes import acts_of, plan
from toolserver.tools.editing.steps import steps

Tree = dict[str, str]
PY = "class A:\n    def f(self):\n        return 1\n\n\nclass B:\n    def f(self):\n        return 1\n"


def patched(tree: Tree, patch: str) -> tuple[Tree, list[Rung]]:
    acts = acts_of(steps(Edit(patch=patch)))
    names = {raw: WorkspacePath(raw) for act in acts for raw in act.paths}
    before = {WorkspacePath(path): text.encode() for path, text in tree.items()}
    planned = plan(acts, names, before)
    after: Tree = {path: file.content.decode() for path, file in planned.after.items()}
    return after, [each.rung for each in planned.applied]


def envelope(*lines: str) -> str:
    return "\n".join(["*** Begin Patch", *lines, "*** End Patch"])


def update(*lines: str, path: str = "a") -> str:
    return envelope(f"*** Update File: {path}", *lines)


@dataclass(frozen=True)
class Good:
    name: str
    before: Tree
    patch: str
    after: Tree
    rung: Rung = Rung.EXACT


GOOD = [
    Good("add", {}, envelope("*** Add File: n/x", "+1", "+", "+2"), {"n/x": "1\n\n2\n"}),
    Good("add empty", {}, envelope("*** Add File: x"), {"x": ""}),
    Good("delete", {"a": "1\n", "b": "2\n"}, envelope("*** Delete File: a"), {"b": "2\n"}),
    Good("update", {"a": "1\n2\n3\n"}, update("@@", " 1", "-2", "+two", " 3"), {"a": "1\ntwo\n3\n"}),
    Good("first @@ may be left out", {"a": "1\n2\n"}, update("-2", "+two"), {"a": "1\ntwo\n"}),
    Good("remove only", {"a": "1\n2\n3\n"}, update("@@", " 1", "-2", " 3"), {"a": "1\n3\n"}),
    Good("add between", {"a": "1\n3\n"}, update("@@", " 1", "+2", " 3"), {"a": "1\n2\n3\n"}),
    Good("remove all", {"a": "1\n2\n"}, update("-1", "-2"), {"a": ""}),
    Good(
        "several hunks in order",
        {"a": "1\n2\n3\n4\n5\n"},
        update("@@", "-1", "+one", "@@", "-5", "+five"),
        {"a": "one\n2\n3\n4\nfive\n"},
    ),
    Good(
        "the same text twice, a hunk for each",
        {"a": "x\n-\ny\nx\n-\nz\n"},
        update("@@", " x", "--", " y", "@@", " x", "--", " z"),
        {"a": "x\ny\nx\nz\n"},
    ),
    Good(
        "an anchor picks the place",
        {"a": PY},
        update("@@ class B:", "     def f(self):", "-        return 1", "+        return 2"),
        {"a": PY[:-2] + "2\n"},
    ),
    Good(
        "anchors one below the other",
        {"a": PY},
        update("@@ class B:", "@@     def f(self):", "-        return 1", "+        return 2"),
        {"a": PY[:-2] + "2\n"},
    ),
    Good(
        "the anchor of a method is below that of its class",
        {"a": PY},
        update("@@ class A:", "@@ def f(self):", "-        return 1", "+        return 2"),
        {"a": PY.replace("1", "2", 1)},
    ),
    Good(
        "end of file",
        {"a": "x\ny\nx\n"},
        update("@@", "-x", "+z", "*** End of File"),
        {"a": "x\ny\nz\n"},
    ),
    Good("added at the end without an anchor", {"a": "1\n"}, update("@@", "+2"), {"a": "1\n2\n"}),
    Good("added below an anchor", {"a": "1\n3\n"}, update("@@ 1", "+2"), {"a": "1\n2\n3\n"}),
    Good("added to an empty file", {"a": ""}, update("@@", "+1"), {"a": "1\n"}),
    Good(
        "added at the end of file",
        {"a": "1\n2\n"},
        update("@@", "+3", "*** End of File"),
        {"a": "1\n2\n3\n"},
    ),
    Good("move", {"a": "1\n"}, update("*** Move to: d/b"), {"d/b": "1\n"}),
    Good("move and change", {"a": "1\n"}, update("*** Move to: b", "@@", "-1", "+2"), {"b": "2\n"}),
    Good(
        "several files",
        {"a": "1\n", "b": "2\n"},
        envelope("*** Update File: a", "-1", "+one", "*** Delete File: b", "*** Add File: c", "+3"),
        {"a": "one\n", "c": "3\n"},
    ),
    Good(
        "one file twice",
        {"a": "1\n2\n"},
        envelope("*** Update File: a", "-1", "+one", "*** Update File: a", " one", "-2", "+two"),
        {"a": "one\ntwo\n"},
    ),
    Good("an empty line is context", {"a": "1\n\n2\n"}, update("@@", " 1", "", "-2"), {"a": "1\n\n"}),
    Good("no final newline stays so", {"a": "1\n2"}, update("@@", "-2", "+two"), {"a": "1\ntwo"}),
    Good("no final newline, added at the end", {"a": "1"}, update("@@", "+2"), {"a": "1\n2"}),
    Good(
        "CRLF stays",
        {"a": "1\r\n2\r\n"},
        update("-2", "+two", "+3"),
        {"a": "1\r\ntwo\r\n3\r\n"},
        Rung.LINE_ENDINGS,
    ),
    Good("a patch in CRLF", {"a": "1\n2\n"}, update("-2", "+two").replace("\n", "\r\n"), {"a": "1\ntwo\n"}),
    Good(
        "trailing spaces",
        {"a": "1  \n2\n"},
        update("@@", " 1", "-2", "+two"),
        {"a": "1  \ntwo\n"},
        Rung.TRAILING_SPACE,
    ),
    Good(
        "indentation",
        {"a": "if x:\n\tone()\n\ttwo()\n"},
        update("@@", "     one()", "-    two()", "+    three()"),
        {"a": "if x:\n\tone()\n\tthree()\n"},
        Rung.INDENTATION,
    ),
    Good(
        "numbers in a head mean nothing",
        {"a": "1\n2\n"},
        update("@@ -9,1 +9,1 @@", "-2", "+two"),
        {"a": "1\ntwo\n"},
    ),
    Good("white space around the envelope", {"a": "1\n"}, "\n " + update("-1", "+2") + "\n\n", {"a": "2\n"}),
    Good("a line of stars is content", {"a": "*** x\n"}, update("-*** x", "+***"), {"a": "***\n"}),
    Good("a line of @@ is content", {"a": "@@ x\n"}, update("-@@ x", "+@@"), {"a": "@@\n"}),
    Good("characters beyond ASCII", {"a": "é\n"}, update("-é", "+ü→"), {"a": "ü→\n"}),
]


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_patch_does_what_it_says(case: Good) -> None:
    after, rungs = patched(case.before, case.patch)
    assert after == case.after
    assert all(rung is case.rung for rung in rungs)


BAD = [
    (
        "not ended",
        {"a": "1\n"},
        "*** Begin Patch\n*** Update File: a\n-1",
        "invalid_request",
        "does not end with",
    ),
    ("nothing in it", {}, envelope(), "invalid_request", "line 1 of the patch: the patch changes no file"),
    (
        "no such head",
        {},
        envelope("*** Rename File: a"),
        "invalid_request",
        "line 2 of the patch: '*** Rename",
    ),
    (
        "text before a head",
        {},
        envelope("hello"),
        "invalid_request",
        "line 2 of the patch: 'hello' begins no file",
    ),
    ("no name", {}, envelope("*** Add File:  "), "invalid_request", "a file's name is missing"),
    ("no name to move to", {"a": ""}, update("*** Move to:  ", "+1"), "invalid_request", "name is missing"),
    (
        "no hunk",
        {"a": "1\n"},
        update(),
        "invalid_request",
        "line 2 of the patch: the update of 'a' has no hunk",
    ),
    ("a hunk of context", {"a": "1\n"}, update("@@", " 1"), "invalid_request", "neither removes nor adds"),
    ("no mark", {"a": "1\n"}, update("@@", "x1"), "invalid_request", "begins with neither ' ', '-' nor '+'"),
    ("no mark in an added file", {}, envelope("*** Add File: x", "1"), "invalid_request", "begin with '+'"),
    (
        "added again",
        {"a": "1\n"},
        envelope("*** Add File: a", "+1"),
        "already_exists",
        "'a' is there already",
    ),
    ("deleted twice", {"a": ""}, envelope(*["*** Delete File: a"] * 2), "not_found", "nothing at 'a'"),
    ("update of nothing", {}, update("-1", "+2"), "not_found", "there is nothing at 'a'"),
    (
        "moved onto a file",
        {"a": "", "b": ""},
        update("*** Move to: b"),
        "already_exists",
        "'b' is there already",
    ),
    (
        "no match",
        {"a": "1\n"},
        update("-2", "+3"),
        "no_match",
        "the hunk on line 3 of the patch does not occur",
    ),
    ("nearest lines", {"a": "1\n2\n3\n"}, update(" 2", "-9", "+x"), "no_match", "nearest are lines 2 to 3"),
    ("ambiguous", {"a": "x\ny\nx\n"}, update("-x", "+z"), "ambiguous_match", "2 times, on lines 1, 3"),
    (
        "ambiguous anchor",
        {"a": PY},
        update("@@ def f(self):", "-        return 1"),
        "ambiguous_match",
        "lines 2, 7",
    ),
    ("no such anchor", {"a": PY}, update("@@ class C:", "-x"), "no_match", "has no line 'class C:'"),
    ("not at the end", {"a": "x\ny\n"}, update("-x", "+z", "*** End of File"), "no_match", "at its end"),
    ("hunks out of order", {"a": "1\n2\n"}, update("-2", "+x", "@@", "-1", "+y"), "no_match", "line 5"),
    ("binary", {"a": "\0"}, update("-x", "+y"), "not_a_file", "is not text"),
    (
        "the second file fails",
        {"a": "1\n", "b": "2\n"},
        envelope("*** Update File: a", "-1", "+x", "*** Update File: b", "-9", "+y"),
        "no_match",
        "does not occur in 'b'",
    ),
]


@pytest.mark.parametrize(
    ("before", "patch", "code", "message"), [case[1:] for case in BAD], ids=[c[0] for c in BAD]
)
def test_a_patch_that_cannot_be_applied_is_refused(before: Tree, patch: str, code: str, message: str) -> None:
    with pytest.raises(ToolError) as caught:
        patched(before, patch)
    assert caught.value.code == code
    assert message in caught.value.message


def test_the_corpus_is_large_enough_to_mean_something() -> None:
    assert len(GOOD) + len(BAD) >= 40
