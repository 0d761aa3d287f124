"""Every limit as a table for people: `docs/limits.md` is what this prints.

python -m protocol.export.limits > docs/limits.md
"""

from __future__ import annotations

import msgspec

from protocol.export.schema import field_docs
from protocol.limits import REFUSALS, Limits

_HEAD = """# Limits

Every bound of a tool server, with its default: sizes in bytes, times in milliseconds. Each is set by a
variable, `TOOL_SERVER_MAX_SOCKETS` for `maxSockets`, or a flag, `--max-sockets`. A limit that refuses a
request gives the error named here, with `details.limit` and `details.value`; one without an error leaves
out, waits, or lets the oldest go, and says so. `/metrics` counts how often each was met.

This page is written by `python -m protocol.export.limits`, out of `protocol/limits.py`.

| limit | default | error | what it bounds |
|---|---|---|---|
"""


def document() -> str:
    """The page."""
    docs = field_docs(Limits)
    return _HEAD + "".join(_row(field, docs[field.name]) for field in msgspec.structs.fields(Limits))


def wire_name(field: str) -> str:
    """As errors have it.

    >>> wire_name("max_frame_bytes")
    'maxFrameBytes'
    """
    first, *rest = field.split("_")
    return first + "".join(map(str.capitalize, rest))


def _row(field: msgspec.structs.FieldInfo, text: str) -> str:
    words = " ".join(text.split()).replace("``", "`").replace("|", "\\|")
    refusal = REFUSALS.get(field.name)
    return f"| {wire_name(field.name)} | {field.default} | {f'`{refusal}`' if refusal else ''} | {words} |\n"


if __name__ == "__main__":
    print(document(), end="")
