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


class CommandLimit(Answer, frozen=True, kw_only=True):
    """A limit that the tool server was told to hold each command to."""

    name: str
    """commandOpenFiles, commandProcesses, commandMemoryBytes, commandCpus, commandCpuSeconds."""
    value: float
    holds: bool
    means: str
    """``cgroup v2`` or ``cgroup v1``: for a command with all that it starts. ``rlimit``: for each process of
    it; for commandProcesses, of the user. ``none``: it does not hold."""
    why: str
    """For what it counts, and why by no other means, for a person."""


class SeparationAnswer(Answer, frozen=True, kw_only=True):
    """What holds since the tool server's start, and as long as it runs."""

    wish: str
    """As TOOL_SERVER_SEPARATION has it."""
    tier: str
    """full, files, basic or none: the strongest of which everything holds."""
    properties: list[SeparationProperty]
    limits: list[CommandLimit] = []
    """Those that are set."""
