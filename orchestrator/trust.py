"""What coding agents must know before they start in a workspace: that its directory is trusted.

Codex and Claude Code ask a person about every new directory, and nobody is there to answer in a sandbox. A
record for exactly the plan's ``workdir`` keeps them from asking; one for a directory above does not, where
the workspace is a git repository.

Pure: ``agent_provision_plan`` takes what is there and answers with whole files. Everything else in these
files stays as it is; what cannot be understood is never overwritten. The same input twice gives the same
bytes. ``provision`` is the thin act for a home that this host can reach; other backends place the files by
their own copy.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.placing import FileToPlace, place, read_below
from orchestrator.plan import WorkspacePlan
from protocol.errors import Conflict

CODEX_CONFIG = ".codex/config.toml"
CLAUDE_SETTINGS = ".claude.json"
"""Relative to the guest's home."""


@dataclass(frozen=True)
class AgentProvisionPlan:
    """Files to place in a guest's home before anything starts there, for the owner's eyes alone."""

    guest_home: str
    owner: str
    files: tuple[FileToPlace, ...]
    """Their paths start at ``guest_home``."""

    def guest_paths(self) -> dict[str, FileToPlace]:
        """The files by their absolute paths in the guest."""
        return {f"{self.guest_home.rstrip('/')}/{file.path}": file for file in self.files}


def agent_provision_plan(
    plan: WorkspacePlan, existing: Mapping[str, bytes] | None = None
) -> AgentProvisionPlan:
    """The files that make the agents trust ``plan.workdir``.

    ``existing`` has what the home holds of them now. Raises Conflict for one that is not what it should be.
    """
    now = existing or {}
    files = (FileToPlace(path, merge(now.get(path), plan.workdir)) for path, merge in AGENT_FILES.items())
    return AgentProvisionPlan(plan.guest_home, plan.owner, tuple(files))


def provision(plan: WorkspacePlan, home: Path) -> list[str]:
    """Read, decide, place: below ``home``, the directory that is or will be the guest's home. Blocks.

    Answers with the paths that were written; none when all was well. Raises Conflict before anything is
    written, OSError when the disk refuses.
    """
    found = {path: read_below(home, path) for path in AGENT_FILES}
    existing = {path: content for path, content in found.items() if content is not None}
    return place_all(agent_provision_plan(plan, existing), home)


def place_all(provision_plan: AgentProvisionPlan, home: Path) -> list[str]:
    """Place every file below ``home``; answers with the paths that were not so already."""
    return [file.path for file in provision_plan.files if place(home, file)]


def codex_config(existing: bytes | None, workdir: str) -> bytes:
    """Codex's configuration with ``workdir`` trusted; comments, order and everything else as they are.

    >>> print(codex_config(b"# mine", "/w").decode(), end="")
    # mine
    <BLANKLINE>
    [projects."/w"]
    trust_level = "trusted"
    """
    text = _decoded(CODEX_CONFIG, existing)
    wanted = _parsed_toml(text)
    if not existing:
        return _appended("", workdir).encode()
    entry = _below(CODEX_CONFIG, _below(CODEX_CONFIG, wanted, "projects"), workdir)
    if entry.get("trust_level") == "trusted":
        return existing
    entry["trust_level"] = "trusted"
    for write in (_appended, _edited):
        if written := _says(write, text, workdir, wanted):
            return written.encode()
    raise Conflict(
        f"~/{CODEX_CONFIG} is left as it is, because nothing can be added to it safely: set trust_level = "
        f'"trusted" under [projects."{workdir}"] by hand',
        path=CODEX_CONFIG,
    )


def claude_settings(existing: bytes | None, workdir: str) -> bytes:
    """Claude Code's settings with ``workdir`` trusted; in a fresh home also past its first questions.

    >>> claude_settings(b'{"projects": {"/w": {"hasTrustDialogAccepted": true}}}', "/w")
    b'{"projects": {"/w": {"hasTrustDialogAccepted": true}}}'
    """
    text = _decoded(CLAUDE_SETTINGS, existing)
    settings = _parsed_json(text) if existing else {"hasCompletedOnboarding": True}
    entry = _below(CLAUDE_SETTINGS, _below(CLAUDE_SETTINGS, settings, "projects"), workdir)
    if existing and entry.get("hasTrustDialogAccepted") is True:
        return existing
    entry["hasTrustDialogAccepted"] = True
    return _written_json(settings)


AGENT_FILES: Mapping[str, Callable[[bytes | None, str], bytes]] = {
    CODEX_CONFIG: codex_config,
    CLAUDE_SETTINGS: claude_settings,
}
"""Path below the guest's home -> (what is there, workdir) -> what shall be there."""


def _appended(text: str, workdir: str) -> str:
    # A plan's workdir has neither quotes nor backslashes nor control characters.
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return f'{text}{gap}[projects."{workdir}"]\ntrust_level = "trusted"\n'


def _edited(text: str, workdir: str) -> str:
    """For a table that cannot be opened again: ``projects`` inline, or an entry that is there already."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        projects: Any = document["projects"]
        if workdir not in projects:
            projects[workdir] = tomlkit.inline_table()
        projects[workdir]["trust_level"] = "trusted"
        return tomlkit.dumps(document)
    except TOMLKitError as error:
        raise ValueError("not a shape that can be edited") from error


def _says(write: Callable[[str, str], str], text: str, workdir: str, wanted: dict[str, Any]) -> str | None:
    """What ``write`` makes of it, if that is ``wanted``: no way of writing fits every shape of TOML."""
    try:
        written = write(text, workdir)
        return written if tomllib.loads(written) == wanted else None
    except ValueError:  # TOMLDecodeError is one
        return None


def _below(path: str, table: dict[str, Any], key: str) -> dict[str, Any]:
    """The table called ``key``, made where there is none."""
    below = table.setdefault(key, {})
    if not isinstance(below, dict):
        raise _unfit(path, f"{key!r} is no table")
    return below


def _decoded(path: str, content: bytes | None) -> str:
    try:
        return (content or b"").decode()
    except UnicodeDecodeError as error:
        raise _unfit(path, "it is no UTF-8") from error


def _parsed_toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _unfit(CODEX_CONFIG, f"it is no TOML: {error}") from error


def _parsed_json(text: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unfit(CLAUDE_SETTINGS, f"it is no JSON: {error}") from error
    if not isinstance(settings, dict):
        raise _unfit(CLAUDE_SETTINGS, "it is no JSON object")
    return settings


def _written_json(settings: dict[str, Any]) -> bytes:
    """As Claude Code writes it: two spaces, characters as they are, but for halves of one."""
    try:
        return json.dumps(settings, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(settings, indent=2, allow_nan=False).encode() + b"\n"
    except ValueError as error:
        raise _unfit(CLAUDE_SETTINGS, "it holds a number that JSON has not") from error


def _unfit(path: str, why: str) -> Conflict:
    return Conflict(
        f"~/{path} is left as it is, because {why}; repair it or move it away, then start again", path=path
    )
