"""Separation: what commands in a workspace cannot do to its tool server."""

from __future__ import annotations

from protocol.messages.base import Answer, Request


class Separation(Request, frozen=True, kw_only=True):
    """Tell what commands are kept from, and by which means."""


class SeparationProperty(Answer, frozen=True, kw_only=True):
    """One thing that a command cannot do, or can."""

    name: str
    """no_new_privileges, memory, signals, abstract_sockets, daemon_files, daemon_programs, own_user."""
    holds: bool
    why: str
    """By which means, or what is missing, for a person."""


class SeparationAnswer(Answer, frozen=True, kw_only=True):
    """What holds since the tool server's start, and as long as it runs."""

    wish: str
    """As TOOL_SERVER_SEPARATION has it."""
    tier: str
    """full, files, basic or none: the strongest of which everything holds."""
    properties: list[SeparationProperty]
