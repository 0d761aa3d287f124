"""What ``up`` says when it is ready: where everything is, and lines that work when pasted. Pure."""

from __future__ import annotations

import json
import shlex
from typing import Any

from orchestrator.launch import Ready
from orchestrator.units import seconds_text


def as_data(ready: Ready) -> dict[str, Any]:
    """For programs."""
    record = ready.record
    return {
        "session": record.session_id,
        "workspace": record.workspace_id,
        "user": record.user_id,
        "template": record.template,
        "previewUrl": ready.preview_url,
        "toolServerUrl": ready.tool_server_url,
        "token": record.token,
        "durationsMs": {name: round(seconds * 1000, 3) for name, seconds in ready.seconds.items()},
    }


def summary(ready: Ready, name: str, example: str | None, end: str) -> str:
    """For a person: where it is, three lines to paste, how it ends."""
    rows = {
        "Preview": ready.preview_url or "none, this workspace has no dev server",
        "Tool server": ready.tool_server_url,
        "Token": ready.record.token,
        "Session": ready.record.session_id,
    }
    lines = [f"{name} is ready after {seconds_text(ready.seconds['total'])}.", ""]
    lines += [f"  {label:<12} {value}" for label, value in rows.items()]
    lines += ["", "Try it:", *(f"  {line}" for line in curl_lines(ready, example)), "", end]
    return "\n".join(lines)


def curl_lines(ready: Ready, example: str | None) -> list[str]:
    """Three lines that work when pasted into a shell."""
    url, token = ready.tool_server_url, ready.record.token
    look = ("read", {"path": example}) if example else ("search", {"pattern": "."})
    return [
        f"curl -s {url}/health",
        curl_line(url, token, *look),
        curl_line(url, token, "command", {"command": "ls -la"}),
    ]


def curl_line(url: str, token: str, operation: str, params: dict[str, Any]) -> str:
    """
    >>> curl_line("http://h:1", "T", "read", {"path": "it's"})
    'curl -s http://h:1/v1/read -H \\'Authorization: Bearer T\\' -d \\'{"path": "it\\'"\\'"\\'s"}\\''
    """
    return shlex.join(
        [
            "curl",
            "-s",
            f"{url}/v1/{operation}",
            "-H",
            f"Authorization: Bearer {token}",
            "-d",
            json.dumps(params),
        ]
    )
