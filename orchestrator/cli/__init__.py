"""The command ``workspace``.

One file per group of commands. Only click is imported when it starts, and in each command's body what that
one needs: asyncio, websockets and rich cost three times the rest, and ``--help`` needs none of them.

Exit codes: 0 done; 1 refused or failed, the reason is one sentence on stderr; 2 wrong usage; 128 + n ended by
signal n. ``exec`` exits with the command's own code. A bug of ours is one sentence as well, which
names the file that the details are in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from orchestrator.cli.access import link, token
from orchestrator.cli.common import CommandGroup, tell
from orchestrator.cli.completion import completion
from orchestrator.cli.doctor import doctor
from orchestrator.cli.idle import idle
from orchestrator.cli.resume import resume
from orchestrator.cli.run import call, exec_
from orchestrator.cli.saves import save, saves
from orchestrator.cli.sessions import down, ls
from orchestrator.cli.template import template
from orchestrator.cli.up import up
from protocol import __version__


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="workspace")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the details of an unexpected error.")
def cli() -> None:
    """Workspaces from plain directories: brought up, worked in, saved and taken down.

    Exit codes: 0 done; 1 refused or failed, with the reason on stderr; 2 wrong usage; 128 + n ended by signal
    n. exec exits with its command's own.
    """


for command in (
    up,
    ls,
    exec_,
    call,
    save,
    saves,
    down,
    resume,
    idle,
    token,
    link,
    template,
    doctor,
    completion,
):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> None:
    """The console script."""
    try:
        sys.exit(cli.main(args=argv, prog_name="workspace", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except Exception as error:
        if "--debug" in (sys.argv[1:] if argv is None else argv):
            raise
        tell(f"workspace: unexpected, a bug in workspace-core: {_first_line(error)}; {_details(error)}")
        sys.exit(1)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _details(error: Exception) -> str:
    """Where they are. Not in the data directory, which may be what is broken."""
    import tempfile
    import traceback

    try:
        descriptor, path = tempfile.mkstemp(prefix="workspace-", suffix=".log")
        with os.fdopen(descriptor, "w", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return "run it again as `workspace --debug …` for the details"
    return f"the details are in {path}"
