"""``workspace token`` and ``link``: let somebody else in, to as much as they need and for as long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.common import Options, host_options, print_json, run, session_argument, tell
from orchestrator.cli.idle import DURATION

if TYPE_CHECKING:
    from orchestrator.tokens import Granted

SCOPES = ("read", "write", "command", "archive", "dev", "admin")


@click.command(short_help="Make a token for somebody else.")
@session_argument
@click.option(
    "--scope",
    "-s",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="What it is good for; again for more.",
)
@click.option("--path", default=".", metavar="DIR", help="Only this directory and what is below it.")
@click.option("--dev-port", type=click.IntRange(1, 65535), help="The port whose pages it may see.")
@click.option("--expires", type=DURATION, default="1h", show_default=True, help="Up to 24h.")
@host_options
def token(
    options: Options,
    session: str | None,
    scopes: tuple[str, ...],
    path: str,
    dev_port: int | None,
    expires: float,
) -> None:
    """Print a token of SESSION, which may be left out when exactly one runs.

    It reads, unless --scope says what else it is good for. `workspace call revoke` takes it back by its id.
    """
    granted = run(_token(options, session, scopes, path, dev_port, expires))
    claims = granted.claims
    if options.as_json:
        print_json({"token": granted.token, "tokenId": claims.jti, "session": claims.sid, **_said(granted)})
        return
    tell(f"token {claims.jti} of {claims.sid}: {_sentence(granted)}")
    click.echo(granted.token)


async def _token(
    options: Options,
    session: str | None,
    scopes: tuple[str, ...],
    path: str,
    dev_port: int | None,
    expires: float,
) -> Granted:
    from datetime import timedelta

    from protocol.tokens import Scope

    sessions = options.sessions()
    record = await sessions.find(options.user_id(), session)
    wanted = scopes or (() if dev_port else ("read",))
    return await sessions.token(
        record, [Scope(each) for each in wanted], timedelta(seconds=expires), path=path, port=dev_port
    )


def _said(granted: Granted) -> dict[str, Any]:
    claims = granted.claims
    return {
        "scopes": [scope.value for scope in claims.scopes],
        "path": claims.path,
        "devPort": claims.port,
        "expires": _expires(granted),
    }


def _sentence(granted: Granted) -> str:
    claims = granted.claims
    parts = [", ".join(scope.value for scope in claims.scopes) or "no operation"]
    parts += [f"below {claims.path!r} only"] if claims.path != "." else []
    parts += [f"pages at {claims.port}"] if claims.port else []
    return "; ".join([*parts, f"until {_expires(granted)}"])


def _expires(granted: Granted) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(granted.claims.exp, UTC):%Y-%m-%dT%H:%M:%SZ}"


@click.command(short_help="Make an address for one download or upload.")
@click.argument("path")
@click.option("--session", metavar="SESSION", help="Which one; by default the only one that runs.")
@click.option("--upload", is_flag=True, help="For a PUT instead of a GET.")
@click.option("--expires", type=DURATION, default="10m", show_default=True, help="Up to 1h.")
@host_options
def link(options: Options, path: str, session: str | None, upload: bool, expires: float) -> None:
    """Print an address that needs no token, for one download of the file PATH, or of all with `.`, once.

    Who has it may use it, so it expires soon. With --upload, it takes what a PUT sends, in that place.
    """
    url = run(_link(options, path, session, upload, expires))
    if options.as_json:
        print_json({"url": url, "method": "PUT" if upload else "GET"})
    else:
        click.echo(url)


async def _link(options: Options, path: str, session: str | None, upload: bool, expires: float) -> str:
    from datetime import timedelta

    sessions = options.sessions()
    record = await sessions.find(options.user_id(), session)
    return await sessions.signed_address(record, path, "PUT" if upload else "GET", timedelta(seconds=expires))
