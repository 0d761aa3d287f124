"""``workspace up``: from a template, a directory or an archive to a page that answers."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.common import Options, Refused, host_options, print_json

if TYPE_CHECKING:
    from orchestrator.client import Client
    from orchestrator.launch import Ready
    from orchestrator.ports import Wish
    from orchestrator.records import SessionRecord
    from orchestrator.sessions import PortWishes, Sessions
    from orchestrator.templates import Source

_EXAMPLES = ("index.html", "package.json", "README.md")
"""Files worth reading first, for the printed curl line."""
_PORT = click.IntRange(0, 65535)


@click.command(short_help="Bring a workspace up and show its page.")
@click.argument("source")
@click.option("--port", type=_PORT, help="The tool server's port: 3001 or any free one; 0 for any.")
@click.option(
    "--dev-port", type=click.IntRange(1, 65535), help="The dev server's port: 4321 or any free one."
)
@click.option("--detach", is_flag=True, help="Leave it running and return.")
@click.option("--remove", is_flag=True, help="Remove the workspace's files when it ends.")
@host_options
def up(
    options: Options, source: str, port: int | None, dev_port: int | None, detach: bool, remove: bool
) -> None:
    """Bring a workspace up from SOURCE, show how to reach it, and wait for Ctrl-C.

    SOURCE is the name of a template, a directory (a copy of it is taken), or an archive (.tar.gz, .tar.zst,
    .tar), such as a save. Files are kept when it ends, unless --remove is given.
    """
    import asyncio

    from orchestrator.templates import find_source, template_roots

    cwd = Path.cwd()
    found = find_source(source, template_roots(cwd), cwd)
    user = options.user_id()
    wishes = port_wishes(found, port, dev_port)
    sessions = options.sessions(_tools(options, found))
    code = asyncio.run(_Up(sessions, options, detach, remove).run(user, found, wishes))
    raise click.exceptions.Exit(code)


def port_wishes(source: Source, port: int | None, dev_port: int | None) -> PortWishes:
    """A port that was asked for is taken or refused; one that nobody asked for gives way."""
    from orchestrator.ports import DEV_PORTS, TOOL_PORTS, Wish
    from orchestrator.sessions import PortWishes
    from protocol.routes import DEFAULT_DEV_PORT, DEFAULT_PORT

    tool: Wish = Wish(DEFAULT_PORT, TOOL_PORTS) if port is None else Wish(port)
    liked = source.template.port or DEFAULT_DEV_PORT
    dev: Wish = Wish(liked, DEV_PORTS) if dev_port is None else Wish(dev_port)
    return PortWishes(tool=tool, dev=dev)


def _tools(options: Options, source: Source) -> Path | None:
    """A directory with node, npm and rg for the workspace's PATH; None when it can do without."""
    from orchestrator.directories import private_directory
    from orchestrator.toolchain import ToolchainError, find_toolchain

    try:
        toolchain = find_toolchain(os.environ)
    except ToolchainError as error:
        if (source.path / "package.json").is_file():
            raise
        click.echo(f"{error} Going on: this workspace may not need it.", err=True)
        return None
    return toolchain.make_bin(private_directory(options.paths().tools_dir))


class _Up:
    """One ``up``, from the first stage to the last process gone."""

    def __init__(self, sessions: Sessions, options: Options, detach: bool, remove: bool) -> None:
        self._sessions = sessions
        self._options = options
        self._detach = detach
        self._remove = remove

    async def run(self, user: Any, source: Source, wishes: PortWishes) -> int:
        """The exit code."""
        from orchestrator.cli.signals import StopSignals

        with StopSignals() as stop:
            ready = await self._launch(user, source, wishes, stop)
            if ready is None:
                return 128 + stop.number
            try:
                async with self._sessions.client(ready.record) as client:
                    self._show(ready, source, await _example(client))
                    if self._detach:
                        return 0
                    await stop.or_until(client.wait_closed())
            except BaseException:
                await self._end(ready.record)
                raise
            if stop.number:
                return await self._end(ready.record)
            return await self._ended_by_itself(ready.record)

    async def _launch(self, user: Any, source: Source, wishes: PortWishes, stop: Any) -> Ready | None:
        """None when a signal came first; then nothing is left of it."""
        from orchestrator.backends.local import NAME
        from orchestrator.cli.progress import observer
        from orchestrator.launch import launch

        shown = observer()
        try:
            result: Ready | None = await stop.or_until(
                launch(self._sessions, user, source, wishes, shown, NAME)
            )
        finally:
            shown.close()
        return result

    def _show(self, ready: Ready, source: Source, example: str | None) -> None:
        if self._options.as_json:
            print_json(as_data(ready))
            return
        down = self._options.command("down", ready.record.session_id)
        end = f"It runs on; end it by: {down}" if self._detach else "Ctrl-C stops everything."
        click.echo(summary(ready, source.name, example, end))

    async def _end(self, record: SessionRecord) -> int:
        click.echo("stopping…", err=True)
        outcome = await self._sessions.end(record, keep_files=not self._remove)
        if outcome.kept:
            click.echo(self._kept(record.session_id, outcome.kept), err=True)
        if outcome.survivors:
            pids = " ".join(map(str, outcome.survivors))
            raise Refused(f"these processes would not end: {pids}; end them by `kill -9 {pids}`")
        return 0

    def _kept(self, session: str, root: str) -> str:
        """Where the files are, and what can be done about it."""
        up, down = self._options.command("up", root), self._options.command("down", session, "--remove")
        return f"files kept in {root}\n  go on with them: {up}\n  remove them:     {down}"

    async def _ended_by_itself(self, record: SessionRecord) -> int:
        from orchestrator.records import LIVE, State

        now = {
            each.record.session_id: each for each in await self._sessions.list(record.user_id, stopped=True)
        }
        seen = now.get(record.session_id)
        if seen is None or seen.record.state not in LIVE or seen.record.state is State.STOPPING:
            click.echo("stopped by another `workspace down`", err=True)
            return 0
        await self._end(record)
        raise Refused(f"the tool server ended; its log is {self._sessions.log_path(record)}")


async def _example(client: Client) -> str | None:
    """A file to read."""
    from protocol.messages.files import Kind

    entries = (await client.list()).entries
    names = [entry.path for entry in entries if entry.kind is Kind.FILE]
    return next((name for name in (*_EXAMPLES, *names) if name in names), None)


def as_data(ready: Ready) -> dict[str, Any]:
    """For programs."""
    record = ready.record
    return {
        "session": record.session_id,
        "user": record.user_id,
        "template": record.template,
        "previewUrl": ready.preview_url,
        "toolServerUrl": ready.tool_server_url,
        "token": record.token,
        "durationsMs": {name: round(seconds * 1000, 3) for name, seconds in ready.seconds.items()},
    }


def summary(ready: Ready, name: str, example: str | None, end: str) -> str:
    """For a person: where it is, three lines to paste, how it ends."""
    from orchestrator.units import seconds_text

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
