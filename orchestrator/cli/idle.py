"""``workspace idle``: stop what nobody uses, and say what is used by what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.common import Options, host_options, print_json, run, tell

if TYPE_CHECKING:
    from orchestrator.idling import Judged


class Duration(click.ParamType[float]):
    """``90s``, ``15m``, ``1h``; a number alone is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """In seconds."""
        from orchestrator.idle import parse_duration

        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError:
            self.fail(f"{value!r} is no duration: write it as 90s, 15m or 1h", param, ctx)


DURATION = Duration()


@click.command(short_help="Stop sessions that nobody uses.")
@click.option("--after", type=DURATION, default="15m", show_default=True, help="Of nothing going on.")
@click.option("--dry-run", is_flag=True, help="Only say what would be stopped, and what keeps the others.")
@click.option("--everybody", is_flag=True, help="All users' sessions.")
@click.option("--watch", "watching", is_flag=True, help="Go on looking until Ctrl-C.")
@click.option("--every", type=DURATION, default="30s", show_default=True, help="With --watch: how often.")
@host_options
def idle(
    options: Options, after: float, dry_run: bool, everybody: bool, watching: bool, every: float
) -> None:
    """Stop every session in which nothing has gone on for --after. It is saved first, and can be resumed.

    Something goes on while a command runs or what it left behind does, a request is under way, a socket or a
    page is open. One that cannot be asked, or cannot be saved, goes on.
    """
    if watching and dry_run:
        raise click.UsageError("give --watch or --dry-run, not both")
    run(_idle(options, after, dry_run, everybody, every if watching else None))


async def _idle(options: Options, after: float, dry_run: bool, everybody: bool, every: float | None) -> None:
    from orchestrator.idle import IdleRule
    from orchestrator.idling import judge, stop_idle, watch

    sessions, rule = options.sessions(), IdleRule(after)
    user = None if everybody else options.user_id()

    def told(judged: Judged) -> None:
        if options.as_json:
            print_json(as_data(judged))
        else:
            tell(f"{judged.record.session_id} {judged.sentence}")

    if every is not None:
        await watch(sessions, rule, told, user, every)
    if dry_run:
        records = [each for each in await sessions.running() if user in (None, each.user_id)]
        judged = [await judge(sessions, each, rule) for each in records]
    else:
        judged = await stop_idle(sessions, rule, user)
    if options.as_json:
        print_json([as_data(each) for each in judged])
        return
    for each in judged:
        click.echo(f"{each.record.session_id} {each.sentence}")


def as_data(judged: Judged) -> dict[str, Any]:
    """For programs."""
    verdict = judged.verdict
    return {
        "session": judged.record.session_id,
        "user": judged.record.user_id,
        "stopped": judged.stopped,
        "inSeconds": None if verdict is None else round(verdict.in_seconds, 3),
        "keptAliveBy": None if verdict is None else list(verdict.kept_alive_by),
        "sentence": judged.sentence,
    }
