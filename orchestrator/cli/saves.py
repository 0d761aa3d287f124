"""``workspace save`` and ``saves``: what is kept of a workspace, whether it is whole, and back to it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.common import (
    Options,
    Refused,
    host_options,
    print_json,
    run,
    session_argument,
    tell,
)

if TYPE_CHECKING:
    from orchestrator.paths import WorkspaceId
    from orchestrator.restoring import Restored
    from orchestrator.save_rules import Kept
    from orchestrator.save_store import SaveStore
    from orchestrator.saving import Saved

workspace_argument = click.argument("workspace", required=False)
save_option = click.option("--save", "wanted", help="Which save: its name or number; the newest if left out.")


@click.command(short_help="Save a workspace as an archive.")
@session_argument
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to: .tar.gz, .tar.zst or .tar; among the workspace's saves when left out.",
)
@host_options
def save(options: Options, session: str | None, output: Path | None) -> None:
    """Write the content of SESSION's workspace to an archive, and read it back.

    Without --output it is kept as the workspace's newest save, which `workspace up --workspace` and
    `workspace resume` bring back; the five newest are kept. `workspace up ARCHIVE` takes any of them.
    """
    result = run(_save(options, session, output))
    if options.as_json:
        print_json(saved_data(result))
        return
    click.echo(result.file.path)
    if changed := result.answer.changed:
        names = ", ".join(changed[:5])
        tell(f"{len(changed)} changed while they were saved, so they may mix two states: {names}")


async def _save(options: Options, session: str | None, output: Path | None) -> Saved:
    sessions = options.sessions()
    record = await sessions.find(options.user_id(), session)
    return await sessions.save(record, Path.cwd() / output if output else None)


def saved_data(saved: Saved) -> dict[str, Any]:
    """A save for programs."""
    stored = saved.stored
    return {
        "path": str(saved.file.path),
        "name": stored.record.name if stored else None,
        "workspace": stored.record.workspace if stored else None,
        "bytes": saved.file.size,
        "sha256": saved.file.sha256,
        "digest": saved.answer.digest,
        "files": saved.answer.files,
        "contentBytes": saved.answer.content_bytes,
        "leftOut": saved.answer.left_out,
        "changed": saved.answer.changed,
        "dropped": list(stored.dropped) if stored else [],
    }


class ListsByDefault(click.Group):
    """``saves`` and ``saves WORKSPACE`` mean ``saves list``: it is what one wants of it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, once the command is there."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=ListsByDefault, short_help="List, verify, restore, prune and remove saves.")
def saves() -> None:
    """What is kept of a workspace. `workspace saves [WORKSPACE]` lists it; newest first.

    WORKSPACE is a workspace's id, the last part of it, or one of its sessions.
    """


@saves.command("list", short_help="List saves, newest first.")
@workspace_argument
@host_options
def list_(options: Options, workspace: str | None) -> None:
    """List the saves of WORKSPACE, or of all of the user's workspaces."""
    store, user = _store(options), options.user_id()
    names = [_workspace_of(options, workspace)] if workspace else store.workspaces(user)
    rows = [as_data(name, each) for name in names for each in store.saves(user, name)]
    if options.as_json:
        print_json(rows)
    elif rows:
        click.echo(table(rows))
    else:
        tell("there is no save; make one by `workspace save`")


@saves.command(short_help="Read saves to their last byte.")
@workspace_argument
@save_option
@host_options
def verify(options: Options, workspace: str | None, wanted: str | None) -> None:
    """Read the saves of WORKSPACE, or of all, from the disk: exit code 1 when one is not what was saved."""
    store, user = _store(options), options.user_id()
    if wanted and not workspace:
        raise click.UsageError("--save names one of a workspace's saves: name the WORKSPACE as well")
    names = [_workspace_of(options, workspace)] if workspace else store.workspaces(user)
    rows = []
    for name in names:
        chosen = [store.find(user, name, wanted)[0]] if wanted else store.saves(user, name)
        for each in chosen:
            why = store.verify(user, name, each.name)
            rows.append(as_data(name, each) | {"whole": why is None, "problem": why})
            tell(f"{name} {each.name}: {why or 'whole'}")
    if options.as_json:
        print_json(rows)
    if bad := [row for row in rows if not row["whole"]]:
        raise click.exceptions.Exit(1 if bad else 0)


@saves.command(short_help="Remove the oldest saves.")
@workspace_argument
@click.option("--keep", type=click.IntRange(1), default=5, show_default=True, help="How many stay, of each.")
@click.option("--days", type=click.IntRange(1), default=90, show_default=True, help="How old they may be.")
@host_options
def prune(options: Options, workspace: str | None, keep: int, days: int) -> None:
    """Remove all but the newest saves of WORKSPACE, or of all; the newest one is read through before."""
    from orchestrator.save_rules import Retention

    store, user = _store(options), options.user_id()
    retention = Retention(count=keep, max_age=timedelta(days=days))
    names = [_workspace_of(options, workspace)] if workspace else store.workspaces(user)
    removed = []
    for name in names:
        if not store.saves(user, name):
            continue
        if why := store.verify(user, name):
            raise Refused(f"{name} keeps all of its saves, for the newest is not whole: {why}")
        removed += [as_data(name, each) for each in store.prune(user, name, retention)]
    if options.as_json:
        print_json(removed)
    else:
        tell(f"{len(removed)} removed" if removed else "nothing to remove")


@saves.command(short_help="Remove saves for good.")
@click.argument("workspace")
@click.option("--save", "wanted", help="Only this one: its name or number.")
@host_options
def remove(options: Options, workspace: str, wanted: str | None) -> None:
    """Remove all saves of WORKSPACE, or one of them. They cannot be brought back."""
    name = _workspace_of(options, workspace)
    removed = [as_data(name, each) for each in _store(options).remove(options.user_id(), name, wanted)]
    if options.as_json:
        print_json(removed)
    else:
        tell(f"{len(removed)} removed")


@saves.command(short_help="Put a running workspace back to a save.")
@click.argument("workspace")
@save_option
@host_options
def restore(options: Options, workspace: str, wanted: str | None) -> None:
    """Put the running WORKSPACE back to a save; what it holds now is saved first.

    One that does not run comes back from a save by `workspace up --workspace WORKSPACE`.
    """
    done = run(_restore(options, workspace, wanted))
    if options.as_json:
        print_json({"save": done.save, "before": saved_data(done.before), "problem": done.problem or None})
        return
    if done.problem:
        tell(f"it is up without its dev server: {done.problem}")
    click.echo(f"restored {done.save}; what was there before is {done.before.file.path}")


async def _restore(options: Options, workspace: str, wanted: str | None) -> Restored:
    from orchestrator.cli.progress import observer
    from orchestrator.restoring import find_workspace, restore_running
    from orchestrator.save_rules import ContentWish

    sessions, user = options.sessions(), options.user_id()
    name = await find_workspace(sessions, user, workspace)
    shown = observer()
    try:
        return await restore_running(sessions, user, name, shown, ContentWish(save=wanted))
    finally:
        shown.close()


def as_data(workspace: str, save: Kept) -> dict[str, Any]:
    """A save for programs."""
    from orchestrator.save_rules import number_of

    record = save.record
    return {
        "workspace": workspace,
        "name": save.name,
        "number": number_of(save.name) or None,
        "created": save.created.isoformat(timespec="seconds"),
        "bytes": save.size,
        "files": record.files if record else None,
        "session": record.session if record else None,
        "sha256": record.sha256 if record else None,
        "complete": save.is_complete,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Nothing is cut off, so that names can be copied."""
    from orchestrator.units import size_text

    lines = [["WORKSPACE", "SAVE", "MADE", "SIZE", "FILES", ""]]
    for row in rows:
        note = "" if row["complete"] else "not of the size that was written down: verify it"
        files = "-" if row["files"] is None else str(row["files"])
        lines.append([row["workspace"], row["name"], row["created"], size_text(row["bytes"]), files, note])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ((text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _store(options: Options) -> SaveStore:
    from orchestrator.save_store import SaveStore

    return SaveStore(options.paths())


def _workspace_of(options: Options, wanted: str) -> WorkspaceId:
    """The workspace that somebody means."""
    from orchestrator.restoring import find_workspace

    return run(find_workspace(options.sessions(), options.user_id(), wanted))
