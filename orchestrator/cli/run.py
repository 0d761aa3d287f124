"""``workspace exec`` and ``call``: a command, or any operation, in a running workspace."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import completing
from orchestrator.cli.common import Options, Refused, host_options, print_json, run

if TYPE_CHECKING:
    from orchestrator.client import Client
    from protocol.messages.base import Request
    from protocol.messages.commands import Command, CommandAnswer

_TIMED_OUT = 124
"""What timeout(1) exits with."""


class _AfterDashes(click.Command):
    """Keeps apart what stands before ``--`` and what stands behind it, which click would not."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The command's own words never reach click: ``-l`` behind ``--`` is no option of ours."""
        if "--" in args:
            at = args.index("--")
            args, ctx.meta["command"] = args[:at], args[at + 1 :]
        rest = super().parse_args(ctx, args)
        if not ctx.meta.get("command") and not ctx.resilient_parsing:
            raise click.UsageError(
                "put the command behind two dashes: workspace exec SESSION -- COMMAND", ctx
            )
        return rest


@click.command("exec", cls=_AfterDashes, short_help="Run a command in a workspace.")
@click.argument("session", required=False, shell_complete=completing.live_sessions)
@click.option("--cwd", default=".", help="Directory in the workspace.")
@click.option("--env", "-e", multiple=True, metavar="NAME=VALUE", help="Set on top of the environment.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.001), metavar="SECONDS", help="End it after this long."
)
@click.option("--stdin", "-i", is_flag=True, help="Give it what is on our standard input.")
@host_options
def exec_(
    options: Options, session: str | None, cwd: str, env: tuple[str, ...], timeout: float | None, stdin: bool
) -> None:
    """Run a COMMAND in SESSION's workspace: workspace exec [SESSION] -- COMMAND [ARG]...

    One word is a line for the shell ('ls | wc -l'), several are a program and its arguments. Output comes as
    it is written; the exit code is the command's own, 124 when --timeout ended it.
    """
    from protocol.messages.commands import Command

    words: list[str] = click.get_current_context().meta["command"]
    command = Command(
        command=words[0] if len(words) == 1 else None,
        argv=words if len(words) > 1 else None,
        cwd=cwd,
        env=environment(env),
        timeout_ms=round(timeout * 1000) if timeout else None,
        stdin=sys.stdin.read() if stdin else None,
    )
    raise click.exceptions.Exit(run(_exec(options, session, command)))


def environment(pairs: tuple[str, ...]) -> dict[str, str]:
    """``NAME=VALUE`` words as a mapping; raises a usage error.

    >>> environment(("A=1", "B=x=y"))
    {'A': '1', 'B': 'x=y'}
    """
    for pair in pairs:
        if "=" not in pair[1:]:
            raise click.UsageError(f"{pair!r} is not NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


async def _exec(options: Options, session: str | None, command: Command) -> int:
    sessions = options.sessions()
    async with sessions.client(await sessions.find(options.user_id(), session)) as client:
        if options.as_json:
            answer = await _answer(client, command)
            print_json(answer)
        else:
            answer = await _streamed(client, command)
    if answer.timed_out:
        click.echo(f"workspace: the command was ended after {answer.timeout_ms} ms (--timeout)", err=True)
        return _TIMED_OUT
    return answer.exit_code if answer.exit_code is not None else 1


async def _answer(client: Client, command: Command) -> CommandAnswer:
    from protocol.messages.commands import CommandAnswer

    answer = await client.call(command)
    assert isinstance(answer, CommandAnswer)
    return answer


async def _streamed(client: Client, command: Command) -> CommandAnswer:
    """Output to our own streams, byte for byte, as it comes."""
    import msgspec

    from protocol.messages.commands import CommandAnswer, WhenSlow

    # Bytes, because a program may write what is no text; nothing in the answer, for all of it was streamed.
    # And it waits for us, as it would for a pipe: whatever we are redirected to gets every byte.
    command = msgspec.structs.replace(command, raw_events=True, max_output_bytes=0, when_slow=WhenSlow.WAIT)
    async with client.stream(command) as events:
        async for event in events:
            _pass_on(event)
        answer = await events.result()
    assert isinstance(answer, CommandAnswer)
    return answer


def _pass_on(event: Any) -> None:
    from protocol.messages.base import Gap
    from protocol.messages.commands import StderrBytes, StdoutBytes

    if isinstance(event, Gap):
        click.echo(f"workspace: {event.missing_bytes} bytes of {event.stream} were lost", err=True)
    elif isinstance(event, StdoutBytes | StderrBytes):
        stream = sys.stdout.buffer if isinstance(event, StdoutBytes) else sys.stderr.buffer
        stream.write(event.data)
        stream.flush()


@click.command(short_help="Ask a workspace's tool server anything.")
@click.argument("operation", shell_complete=completing.operations)
@click.argument("params", required=False, default="", metavar="[JSON]")
@click.option(
    "--session",
    metavar="SESSION",
    help="May be left out when exactly one runs.",
    shell_complete=completing.live_sessions,
)
@click.option(
    "--stream", is_flag=True, help='One line per event, {"event":…}, then {"result":…} or {"error":…}.'
)
@host_options
def call(options: Options, operation: str, params: str, session: str | None, stream: bool) -> None:
    """Ask for OPERATION with the fields in JSON ('-' reads standard input), and print the answer as JSON.

    \b
    workspace call read '{"path": "package.json"}'
    workspace call search '{"pattern": "TODO"}' --stream
    """
    from orchestrator.client import request_of

    request = request_of(operation, (sys.stdin.read() if params == "-" else params).encode())
    run(_call(options, session, request, stream))


async def _call(options: Options, session: str | None, request: Request, stream: bool) -> None:
    from protocol.errors import ToolError

    sessions = options.sessions()
    async with sessions.client(await sessions.find(options.user_id(), session)) as client:
        if not stream:
            print_json(await client.call(request))
            return
        try:
            await _print_stream(client, request)
        except ToolError as error:
            print_json({"error": error.body(error.request_id)})
            raise Refused(error.message) from None


async def _print_stream(client: Client, request: Request) -> None:
    async with client.stream(request) as events:
        async for event in events:
            print_json({"event": event})
        print_json({"result": await events.result()})
