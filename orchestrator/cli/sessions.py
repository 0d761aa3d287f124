"""``workspace ls`` and ``down``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import completing
from orchestrator.cli.common import (
    Options,
    Refused,
    as_refused,
    host_options,
    print_json,
    refuse_survivors,
    run,
    tell,
)
from orchestrator.cli.idle import DURATION

if TYPE_CHECKING:
    from orchestrator.backends import Destroyed
    from orchestrator.paths import UserId
    from orchestrator.records import SessionRecord
    from orchestrator.saving import Saved
    from orchestrator.sessions import Seen, Sessions


@click.command(short_help="List sessions.")
@click.option("--all", "-a", "stopped", is_flag=True, help="Those that are over but kept their files, too.")
@click.option("--idle", type=DURATION, help="When each would be stopped by that idle time, and why not.")
@host_options
def ls(options: Options, stopped: bool, idle: float | None) -> None:
    """List the sessions that run."""
    sessions = options.sessions()
    seen = run(_looked_through(sessions, options.user_id(), stopped))
    rows = [as_data(sessions, each) for each in seen]
    if idle is not None:
        for row, sentence in zip(rows, run(_idle_sentences(sessions, seen, idle)), strict=True):
            row["idle"] = sentence
    for why in sorted({each.unknown for each in seen if each.unknown}):
        tell(f"workspace: state unknown: {why}")
    for each in seen:
        if each.reason and not each.unknown:
            tell(f"{each.record.session_id} is {each.state}: {each.reason}")
    if options.as_json:
        print_json(rows)
    elif rows:
        click.echo(table(rows))
    else:
        click.echo("no session runs; start one by `workspace up TEMPLATE`", err=True)


async def _looked_through(sessions: Sessions, user: UserId, stopped: bool) -> list[Seen]:
    """After what orchestrators that are gone left half way has been put in order."""
    for each in await sessions.reconcile():
        if each.record.user_id == user:
            tell(each.sentence)
    return await sessions.list(user, stopped=stopped)


async def _idle_sentences(sessions: Sessions, seen: list[Seen], after: float) -> list[str | None]:
    import asyncio

    from orchestrator.idle import IdleRule
    from orchestrator.idling import judge

    async def sentence(each: Seen) -> str | None:
        running = each.alive and each.state == "running"
        return (await judge(sessions, each.record, IdleRule(after))).sentence if running else None

    return list(await asyncio.gather(*map(sentence, seen)))


def as_data(sessions: Sessions, seen: Seen) -> dict[str, Any]:
    """One session for programs. Without its token: lists are shown around."""
    from orchestrator.session_states import LIVE

    record = seen.record
    reachable = seen.alive and record.guest is not None and record.state in LIVE
    return {
        "session": record.session_id,
        "user": record.user_id,
        "template": record.template,
        "state": seen.state,
        "reason": seen.reason or None,
        "workspace": record.workspace_id,
        "backend": record.backend,
        "previewUrl": f"{sessions.dev_server(record).url}/" if reachable else None,
        "toolServerUrl": sessions.tool_server(record).url if reachable else None,
        "created": record.created,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Columns as wide as what is in them: nothing is cut off, so that ids and addresses can be copied.

    >>> row = {"session": "s1", "template": "t", "state": "dead", "previewUrl": None, "toolServerUrl": None}
    >>> print(table([row]))
    SESSION  TEMPLATE  STATE  PREVIEW  TOOL SERVER
    s1       t         dead   -        -
    """
    keys: tuple[str, ...] = ("session", "template", "state", "previewUrl", "toolServerUrl")
    lines = [["SESSION", "TEMPLATE", "STATE", "PREVIEW", "TOOL SERVER"]]
    if any("idle" in row for row in rows):
        keys, lines = (*keys, "idle"), [[*lines[0], "IDLE"]]
    lines += [[str(row[key] or "-") for key in keys] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(keys))]
    padded = ((text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


@click.command(short_help="End sessions.")
@click.argument("session", required=False, shell_complete=completing.all_sessions)
@click.option("--all", "-a", "every", is_flag=True, help="All of the user's sessions.")
@click.option(
    "--save", "with_save", is_flag=True, help="Save each one first; one that cannot be saved stays up."
)
@click.option("--remove", is_flag=True, help="Remove the workspace's files too.")
@host_options
def down(options: Options, session: str | None, every: bool, with_save: bool, remove: bool) -> None:
    """End SESSION and every process of it. Its files are kept, unless --remove is given.

    SESSION may be left out when exactly one runs. A session whose tool server died is cleaned up as well.
    """
    if every and session:
        raise click.UsageError("give SESSION or --all, not both")
    run(_down(options, session, every, with_save, remove))


async def _down(options: Options, session: str | None, every: bool, with_save: bool, remove: bool) -> None:
    sessions, user = options.sessions(), options.user_id()
    if every:
        records = [seen.record for seen in await sessions.list(user, stopped=remove)]
    else:
        records = [await sessions.find(user, session)]
    results, refused = [], list[str]()
    for record in records:
        try:
            results.append(await _end(sessions, record, with_save, remove))
        except Exception as error:
            why = as_refused(error) if every else None
            if why is None:
                raise
            # The others are ended all the same.
            why = why.naming(options.where())
            tell(f"{record.session_id}: {why.message}")
            refused.append(record.session_id)
            results.append(_result(record, error=why.body))
    if options.as_json:
        print_json(results)
    refuse_survivors([pid for result in results for pid in result["survivors"]])
    if refused:
        raise Refused(f"not done for {len(refused)} of {len(records)} sessions: {', '.join(refused)}")
    if not records:
        click.echo("no session runs", err=True)


async def _end(sessions: Sessions, record: SessionRecord, with_save: bool, remove: bool) -> dict[str, Any]:
    saved = await sessions.save(record) if with_save else None
    outcome = await sessions.end(record, keep_files=not remove)
    if remove and not outcome.survivors:
        await sessions.remove_log(record)
    notes = [f"saved to {saved.file.path}"] if saved else []
    notes += [f"files kept in {outcome.kept}"] if outcome.kept else []
    notes += ["files removed"] if remove else []
    tell("; ".join([f"{record.session_id} {_became(record)}", *notes]))
    return _result(record, outcome, saved)


def _result(
    record: SessionRecord,
    outcome: Destroyed | None = None,
    saved: Saved | None = None,
    error: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """For programs; without an outcome, ``error`` says why."""
    return {
        "session": record.session_id,
        "found": outcome and outcome.found,
        "killed": outcome and outcome.killed,
        "survivors": list(outcome.survivors) if outcome else [],
        "kept": outcome and outcome.kept,
        "save": str(saved.file.path) if saved else None,
        "error": error,
    }


def _became(record: SessionRecord) -> str:
    from orchestrator.session_states import State

    return "was stopped already" if record.state is State.STOPPED else "ended"
