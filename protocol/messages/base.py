"""The three kinds of message.

A request refuses fields it does not know: a misspelt option must not pass in silence. Answers and events
take them, so that an older client reads a newer tool server. On the wire every name is camelCase.
A string below a field is its description in the published schema.
"""

from __future__ import annotations

import enum

import msgspec


class Request(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a caller asks."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What comes back, once, last."""


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag=str.lower):
    """What comes on the way, in order, zero or more times; ``type`` says which."""


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A piece of a request."""


class Encoding(enum.Enum):
    """How bytes stand in a string field."""

    UTF8 = "utf-8"
    BASE64 = "base64"


class GapReason(enum.Enum):
    """Why bytes were not sent."""

    LOST = "lost"
    """They are no longer kept."""
    SKIPPED = "skipped"
    """The reader was too slow, and had asked for that: ``output`` gives them while they are kept."""


class Gap(Event, frozen=True, kw_only=True, tag="gap"):
    """Output that is left out here: these bytes of ``stream`` do not come."""

    stream: str
    offset: int
    """Where the gap begins, in bytes from the start of the stream."""
    missing_bytes: int
    reason: GapReason = GapReason.LOST


class Log(Event, frozen=True, kw_only=True, tag="log"):
    """Text that a tool of the workspace printed while it worked."""

    source: str
    """``install`` or ``dev_server``."""
    text: str
    next_offset: int | None = None
    """Of the byte after this text, in this program's log: where to go on."""
    number: int | None = None
    """Among the events of ``start``; null elsewhere."""
