"""``workspace resume``: a session that is over runs again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.common import Options, host_options, print_json, run, tell

if TYPE_CHECKING:
    from orchestrator.resume import Resumed
    from orchestrator.sessions import Sessions


@click.command(short_help="Start a session again on the files that it left.")
@click.argument("session")
@click.option(
    "--save", "wanted", help="The save to begin from, where files are not kept: its name or number."
)
@host_options
def resume(options: Options, session: str, wanted: str | None) -> None:
    """Start SESSION again, which was stopped or whose tool server died, and its dev server with it.

    It goes on with its files where its backend keeps them, else with its workspace's latest save. It has the
    ports that it had, or the next free ones, and runs on when this returns.
    """
    result = run(_resume(options, session, wanted))
    if options.as_json:
        print_json(as_data(result))
        return
    if result.problem:
        tell(f"it is up without its dev server: {result.problem}")
    click.echo(f"{result.record.session_id} runs again")
    click.echo(f"  Preview      {result.preview_url or 'none'}")
    click.echo(f"  Tool server  {result.tool_server_url}")
    click.echo(f"  End it by    {options.command('down', result.record.session_id)}")


async def _resume(options: Options, session: str, wanted: str | None) -> Resumed:
    from orchestrator.cli.progress import observer
    from orchestrator.resume import resume
    from orchestrator.save_rules import ContentWish

    sessions, user = _sessions(options), options.user_id()
    await sessions.reconcile()
    found = (await sessions.find(user, session)).session_id
    shown = observer()
    try:
        return await resume(sessions, user, found, shown, wish=ContentWish(save=wanted))
    finally:
        shown.close()


def _sessions(options: Options) -> Sessions:
    """With node, npm and rg for its PATH, where there are some; it may not need them."""
    from orchestrator.directories import private_directory
    from orchestrator.toolchain import ToolchainError, find_toolchain

    try:
        toolchain = find_toolchain(os.environ)
    except ToolchainError as error:
        tell(f"{error} Going on: this workspace may not need it.")
        return options.sessions()
    return options.sessions(toolchain.make_bin(private_directory(options.paths().tools_dir)))


def as_data(resumed: Resumed) -> dict[str, Any]:
    """For programs."""
    record = resumed.record
    return {
        "session": record.session_id,
        "workspace": record.workspace_id,
        "user": record.user_id,
        "previewUrl": resumed.preview_url,
        "toolServerUrl": resumed.tool_server_url,
        "token": record.token,
        "problem": resumed.problem or None,
        "durationsMs": {name: round(seconds * 1000, 3) for name, seconds in resumed.seconds.items()},
    }
