r"""The names that agents know for the fields of ``edit``, taken at the HTTP door; the schema has only ours.

>>> spelled("edit", b'{"file_path":"a","old_string":"x","new_string":"y"}')
b'{"path":"a","oldText":"x","newText":"y"}'
>>> spelled("edit", b'{"command":"insert","path":"a","insert_line":2,"new_str":"y"}')
b'{"path":"a","op":"insert","afterLine":2,"newText":"y"}'
>>> spelled("edit", b'{"path":"a","file_text":"old_str"}')
b'{"path":"a","op":"create","content":"old_str"}'
>>> spelled("edit", b'{"edits":[{"path":"a","search":"x","replace":"y","replace_all":true}]}')
b'{"edits":[{"path":"a","oldText":"x","newText":"y","replaceAll":true}]}'
>>> spelled("edit", b'{"path":"a","old_str":"x","oldText":"y"}')
b'{"path":"a","old_str":"x","oldText":"y"}'
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_OURS = {
    "file_path": "path",
    "old_str": "oldText",
    "old_string": "oldText",
    "search": "oldText",
    "new_str": "newText",
    "new_string": "newText",
    "replace": "newText",
    "insert_text": "newText",
    "replace_all": "replaceAll",
    "expected_replacements": "expectedCount",
    "dry_run": "dryRun",
}
_OF_A_KIND = {"insert_line": ("insert", "afterLine"), "file_text": ("create", "content")}
"""Names that also say what is to be done."""
_COMMANDS = ("str_replace", "insert", "create")
_ANY = re.compile(rb'"(?:' + "|".join((*_OURS, *_OF_A_KIND)).encode() + rb')"\s*:')


def spelled(operation: str, body: bytes) -> bytes:
    """The body of a request in our own names; as it is when there is nothing, or no sense, to translate."""
    if operation != "edit" or not _ANY.search(body):
        return body
    try:
        params = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body
    return msgspec.json.encode(_of_request(params))


def _of_request(params: Any) -> Any:
    if not isinstance(params, dict):
        return params
    made = _of_edit(params)
    if isinstance(made.get("edits"), list):
        made["edits"] = [_of_edit(each) if isinstance(each, dict) else each for each in made["edits"]]
    return made


def _of_edit(edit: dict[str, Any]) -> dict[str, Any]:
    """What is named twice stays as it is, to be refused."""
    made: dict[str, Any] = {}
    for name, value in edit.items():
        kind, ours = _OF_A_KIND.get(name, (None, _OURS.get(name, name)))
        if name == "command" and value in _COMMANDS:
            continue
        if ours in made or (ours != name and ours in edit):
            return edit
        if kind is not None:
            made["op"] = kind
        made[ours] = value
    return made
