"""The request's edits, checked: each has what its kind needs, and nothing that would be passed over."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.errors import InvalidRequest
from protocol.messages.edits import Edit, EditKind, FileEdit
from toolserver.tools.editing import unified, v4a
from toolserver.tools.editing.patches import Section

_NEEDS: dict[EditKind, tuple[str, ...]] = {
    EditKind.REPLACE: ("path", "old_text", "new_text"),
    EditKind.REPLACE_LINES: ("path", "start_line", "new_text"),
    EditKind.INSERT: ("path", "after_line", "new_text"),
    EditKind.CREATE: ("path", "content"),
    EditKind.DELETE: ("path",),
    EditKind.MOVE: ("path", "to"),
    EditKind.PATCH: ("patch",),
}
_TAKES: dict[EditKind, tuple[str, ...]] = {
    EditKind.REPLACE: ("replace_all", "expected_count", "expected_hash"),
    EditKind.REPLACE_LINES: ("end_line", "expected_hash"),
    EditKind.INSERT: ("expected_hash",),
    EditKind.CREATE: ("overwrite", "expected_hash"),
    EditKind.DELETE: ("expected_hash",),
    EditKind.MOVE: ("overwrite", "expected_hash"),
    EditKind.PATCH: (),
}
_FIELDS = tuple(name for name in FileEdit.__struct_fields__ if name != "op")
_UNSET = (None, False)


def steps(request: Edit) -> list[FileEdit]:
    """The request's edits, whichever way it gives them. Raises InvalidRequest.

    >>> steps(Edit())
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: give 'path', 'oldText' and 'newText', or a list in 'edits'
    """
    alone = {name: getattr(request, name) for name in ("op", *_FIELDS)}
    is_alone = any(value not in _UNSET for value in alone.values())
    if is_alone and request.edits:
        raise InvalidRequest("give one edit by its own fields or several in 'edits', not both", field="edits")
    if not is_alone and not request.edits:
        raise InvalidRequest("give 'path', 'oldText' and 'newText', or a list in 'edits'", field="edits")
    given = [FileEdit(**alone)] if is_alone else request.edits
    for number, edit in enumerate(given):
        _check(edit, "" if is_alone else f"edits[{number}].")
    return given


def kind_of(edit: FileEdit) -> EditKind:
    """
    >>> kind_of(FileEdit(patch="…")).value, kind_of(FileEdit(path="a", old_text="b")).value
    ('patch', 'replace')
    """
    return edit.op or (EditKind.PATCH if edit.patch is not None else EditKind.REPLACE)


def patch_sections(patch: str) -> list[Section]:
    """A patch of either kind; raises InvalidRequest."""
    return v4a.sections(patch) if v4a.is_v4a(patch) else unified.sections(patch)


def _check(edit: FileEdit, where: str) -> None:
    kind = kind_of(edit)
    given = {name for name in _FIELDS if getattr(edit, name) not in _UNSET or _is_number(edit, name)}
    if missing := [name for name in _NEEDS[kind] if name not in given]:
        needed = listed(_NEEDS[kind])
        raise InvalidRequest(
            f"{kind.value!r} needs {needed}; {wire(missing[0])!r} is missing", field=where + wire(missing[0])
        )
    if surplus := sorted(given - {*_NEEDS[kind], *_TAKES[kind]}):
        known = listed((*_NEEDS[kind], *_TAKES[kind]))
        raise InvalidRequest(
            f"{kind.value!r} has no use for {wire(surplus[0])!r}; it takes {known}",
            field=where + wire(surplus[0]),
        )
    if edit.old_text == "":
        raise InvalidRequest("'oldText' is empty; use 'create' to create a file", field=where + "oldText")
    if edit.expected_count is not None and edit.expected_count < 1:
        raise InvalidRequest("'expectedCount' is 1 or more", field=where + "expectedCount")


def _is_number(edit: FileEdit, name: str) -> bool:
    value = getattr(edit, name)
    return isinstance(value, int) and not isinstance(value, bool)


def listed(names: Sequence[str]) -> str:
    """
    >>> listed(("path", "old_text", "to"))
    "'path', 'oldText' and 'to'"
    """
    shown = [repr(wire(name)) for name in names]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def wire(name: str) -> str:
    """A field's name as the caller writes it."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
