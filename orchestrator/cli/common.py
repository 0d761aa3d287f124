"""What all commands share: their options, how they run, how they fail."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.cli import completing

if TYPE_CHECKING:
    from orchestrator.environments import PersistentPathManager
    from orchestrator.paths import UserId
    from orchestrator.sessions import Sessions
    from protocol.errors import ToolError

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


class Refused(click.ClickException):
    """One sentence on stderr, exit code 1; with ``--json`` the error object on stdout too."""

    exit_code = 1

    def __init__(self, message: str, body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.body = body or {"code": "internal", "message": message, "details": {}, "retryable": False}
        self.as_json = False

    def naming(self, words: Sequence[str]) -> Refused:
        """The same, with the options ``words`` in all commands that it names."""
        told = with_options_named(str(self.body["message"]), words)
        return Refused(with_options_named(self.message, words), {**self.body, "message": told})

    def show(self, file: Any = None) -> None:
        """As promised above."""
        context = click.get_current_context(silent=True)
        if self.as_json or (context and context.meta.get(_AS_JSON)):
            click.echo(json.dumps({"error": self.body}))
        tell(f"workspace: {self.message}")


def tell(line: str) -> None:
    """A line for a person on stderr. That its terminal is gone must not keep anything from being done."""
    with contextlib.suppress(OSError):
        click.echo(line, err=True)


_AS_JSON = "workspace.as_json"
_WHERE = "workspace.where"
_COMMAND = re.compile(
    r"`(workspace (?:up|ls|exec|call|save|saves|down|resume|idle|token|link)\b(?:(?! -- )[^`])*)([^`]*)`"
)
DEFAULT_USER = "default"


def with_options_named(sentence: str, words: Sequence[str]) -> str:
    """What other rooms say knows sessions only; a command to paste needs their data directory and user too.

    >>> with_options_named("end it by `workspace down s1`, or see `git --help`", ["--user", "ann"])
    'end it by `workspace down s1 --user ann`, or see `git --help`'
    >>> with_options_named("`workspace exec s1 -- ls`", ["--user", "ann"])
    '`workspace exec s1 --user ann -- ls`'
    """
    if not words:
        return sentence
    return _COMMAND.sub(lambda found: f"`{found[1]} {shlex.join(words)}{found[2]}`", sentence)


class CommandGroup(click.Group):
    """Turns the program's own errors into ``Refused``, wherever a command raises them."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read our output has seen enough: what is still buffered goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(128 + signal.SIGPIPE) from None
        except Exception as error:
            refused = as_refused(error)
            if refused is None:
                raise
        refused = refused.naming(ctx.meta.get(_WHERE, ()))
        refused.as_json = bool(ctx.meta.get(_AS_JSON))
        raise refused


def as_refused(error: Exception) -> Refused | None:
    """What a person is told instead of a traceback; None for what click tells, and for our own bugs."""
    if isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort):
        return None
    from orchestrator.toolchain import ToolchainError
    from protocol.errors import ToolError

    if isinstance(error, ToolError):
        return Refused(sentence(error), _body(error))
    if isinstance(error, ToolchainError):
        return Refused(str(error))
    if isinstance(error, OSError):
        where = error.filename or "this machine"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Refused(f"{where}: {error.strerror}; make room, or name a place on another disk")
        return Refused(f"{where}: {error.strerror or error}; `workspace doctor` may know why")
    return None


def sentence(error: ToolError) -> str:
    """An error for a person; a failed program's last lines come along, for the reason is in them."""
    lines = error.details.get("output")
    tail = [f"\n  | {line}" for line in lines[-15:]] if isinstance(lines, list) else []
    return "".join([error.message, *tail])


def _body(error: ToolError) -> dict[str, Any]:
    import msgspec

    body: dict[str, Any] = msgspec.to_builtins(error.body(error.request_id))
    return body


@dataclass(frozen=True)
class Options:
    """The options that every command on sessions has."""

    data_dir: Path | None
    user: str
    as_json: bool

    def paths(self) -> PersistentPathManager:
        """Where this data directory keeps what, by the environment that this program runs in."""
        from orchestrator.environments import PersistentPathManager

        return PersistentPathManager.from_env(os.environ, Path.cwd(), self.data_dir)

    def command(self, *words: str) -> str:
        """A command to paste, with what tells this data directory and user from the usual ones."""
        return shlex.join(["workspace", *words, *self.where()])

    def where(self) -> list[str]:
        """What tells this data directory and user from the usual ones."""
        place = ["--data-dir", str(self.data_dir)] if self.data_dir else []
        user = ["--user", self.user] if self.user != DEFAULT_USER else []
        return [*place, *user]

    def user_id(self) -> UserId:
        """The user, checked."""
        from orchestrator.paths import user_id

        return user_id(self.user)

    def sessions(self, tools: Path | None = None, settings: Mapping[str, str] | None = None) -> Sessions:
        """The sessions of this data directory; ``tools`` is for those that are begun by them.

        ``settings`` are variables that a backend is to find set, whatever the environment says.
        """
        from orchestrator.backends import Host
        from orchestrator.backends.installed import InstalledBackends
        from orchestrator.records import Records
        from orchestrator.sessions import Sessions

        paths = self.paths()
        backends = InstalledBackends(Host(paths, {**os.environ, **(settings or {})}, tools))
        return Sessions(paths, Records(paths.db_path("sessions")), backends)


def host_options(function: Function) -> Callable[..., Any]:
    """Give a command ``--data-dir``, ``--user`` and ``--json``, as one argument ``options``."""

    def with_options(data_dir: Path | None, user: str, as_json: bool, **rest: Any) -> Any:
        options = Options(data_dir, user, as_json)
        click.get_current_context().meta.update({_AS_JSON: as_json, _WHERE: options.where()})
        return function(options=options, **rest)

    with_options.__name__, with_options.__doc__ = function.__name__, function.__doc__
    with_options.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        json_option,
        click.option("--user", default=DEFAULT_USER, show_default=True, help="Whose workspaces."),
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help="Where workspaces are kept: $DATA_DIR, else ./data (/app/data on Render and Phala).",
        ),
    ):
        with_options = option(with_options)
    return with_options


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
session_argument = click.argument("session", required=False, shell_complete=completing.live_sessions)


def refuse_survivors(pids: Sequence[int]) -> None:
    """Fail when something would not end: nobody else is going to tell."""
    if pids:
        named = " ".join(map(str, pids))
        raise Refused(f"these processes would not end: {named}; end them by `kill -9 {named}`")


def print_json(value: Any) -> None:
    """One line."""
    import msgspec

    click.echo(msgspec.json.encode(value))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end. SIGTERM and Ctrl-C cancel it, so that what it holds is let go in order."""
    import asyncio

    ended_by: list[int] = []

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None

        def end() -> None:
            ended_by.append(signal.SIGTERM)
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
        return await work

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise click.exceptions.Exit(128 + ended_by[0] if ended_by else 130) from None
