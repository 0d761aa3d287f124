"""``workspace up``: from a template, a directory or an archive to a page that answers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import completing
from orchestrator.cli.again import Again, again_options
from orchestrator.cli.common import Options, host_options, tell
from orchestrator.cli.copying import Copying, copying_options
from orchestrator.cli.idle import DURATION
from orchestrator.cli.setting import set_option

if TYPE_CHECKING:
    from orchestrator.ports import Wish
    from orchestrator.sessions import PortWishes
    from orchestrator.templates import Source

LOCAL = "local"
_PORT = click.IntRange(0, 65535)


@click.command(short_help="Bring a workspace up and show its page.")
@click.argument("source", required=False, shell_complete=completing.sources)
@click.option("--port", type=_PORT, help="The tool server's port: 3001 or any free one; 0 for any.")
@click.option(
    "--dev-port", type=click.IntRange(1, 65535), help="The dev server's port: 4321 or any free one."
)
@click.option("--backend", default=LOCAL, show_default=True, help="Where it runs: local, docker, or another.")
@click.option(
    "--isolation",
    type=click.Choice(["auto", "landlock", "bwrap", "none"]),
    help="What keeps local workspaces apart: $WORKSPACE_ISOLATION, else auto.",
)
@click.option("--detach", is_flag=True, help="Leave it running and return.")
@click.option("--remove", is_flag=True, help="Remove the workspace's files when it ends.")
@click.option(
    "--autosave", type=DURATION, help="Save every so often when files changed: 5m. Not with --detach."
)
@click.option(
    "--autosave-to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The archive that each autosave replaces; among the workspace's saves when left out.",
)
@set_option
@again_options
@copying_options
@host_options
def up(  # noqa: PLR0913, PLR0917 - one for each option
    options: Options,
    source: str | None,
    port: int | None,
    dev_port: int | None,
    backend: str,
    isolation: str | None,
    copying: Copying,
    again: Again,
    given: dict[str, str],
    detach: bool,
    remove: bool,
    autosave: float | None,
    autosave_to: Path | None,
) -> None:
    """Bring a workspace up from SOURCE, show how to reach it, and wait for Ctrl-C.

    SOURCE is the name of a template, a directory (a copy of it is taken, with its history), or an archive
    (.tar.gz, .tar.zst, .tar), such as a save. Files are kept when it ends, unless --remove is given. With
    --workspace it is a workspace that was there before, and SOURCE may be left out.
    """
    import asyncio

    from orchestrator.cli.foreground import Foreground

    autosave_to = _autosave_target(autosave, autosave_to, detach)
    with _nothing_started():
        chosen = again.chosen(options, source, given)
        found = chosen.source
        plan = copying.plan(options, found, backend)
        user = options.user_id()
        wishes = port_wishes(found, port, dev_port)
        # Any other backend brings its own tools along.
        tools = tools_of(options, found) if backend == LOCAL else None
        sessions = options.sessions(tools, {"WORKSPACE_ISOLATION": isolation} if isolation else {})
        derived = copying.derived_image
        foreground = Foreground(sessions, options, backend, detach, remove, plan, derived, chosen)
        foreground.autosave_seconds, foreground.autosave_to = autosave, autosave_to
        code = asyncio.run(foreground.run(user, found, wishes))
    raise click.exceptions.Exit(code)


@contextlib.contextmanager
def _nothing_started() -> Iterator[None]:
    """From the first stage on a Ctrl-C is ``Foreground``'s; before, there is nothing to end."""
    try:
        yield
    except KeyboardInterrupt:
        tell("stopping…\nnothing was started")
        raise click.exceptions.Exit(130) from None


def _autosave_target(every: float | None, target: Path | None, detach: bool) -> Path | None:
    """Where autosaves go; refuses what could never be saved before anything is started."""
    from orchestrator.saves import format_of

    if every is None:
        if target is not None:
            raise click.UsageError("--autosave-to says where: give --autosave 5m as well")
        return None
    if detach:
        raise click.UsageError("--autosave needs this command to stay: leave out --detach")
    if every <= 0:
        raise click.UsageError("--autosave is a time above 0: 5m")
    if target is None:
        return None
    format_of(target)
    if not target.absolute().parent.is_dir():
        raise click.UsageError(
            f"--autosave-to: there is no directory {str(target.absolute().parent)!r}; make it first"
        )
    return target.absolute()


def port_wishes(source: Source, port: int | None, dev_port: int | None) -> PortWishes:
    """A port that was asked for is taken or refused; one that nobody asked for gives way."""
    from orchestrator.ports import DEV_PORTS, TOOL_PORTS, Wish
    from orchestrator.sessions import PortWishes
    from protocol.routes import DEFAULT_DEV_PORT, DEFAULT_PORT

    if port and port == dev_port:
        raise click.UsageError(f"--port and --dev-port are both {port}; give two")
    tool: Wish = Wish(DEFAULT_PORT, TOOL_PORTS) if port is None else Wish(port)
    liked = source.template.port or DEFAULT_DEV_PORT
    dev: Wish = Wish(liked, DEV_PORTS) if dev_port is None else Wish(dev_port)
    return PortWishes(tool=tool, dev=dev)


def tools_of(options: Options, source: Source) -> Path | None:
    """A directory with node, npm and rg for the workspace's PATH; None when it can do without."""
    from orchestrator.directories import private_directory
    from orchestrator.toolchain import ToolchainError, find_toolchain

    try:
        toolchain = find_toolchain(os.environ)
    except ToolchainError as error:
        if (source.path / "package.json").is_file():
            raise
        tell(f"{error} Going on: this workspace may not need it.")
        return None
    return toolchain.make_bin(private_directory(options.paths().tools_dir))
