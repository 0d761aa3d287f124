"""``workspace doctor``: what of this machine would keep a workspace from running, and what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from orchestrator.cli.common import Options, host_options, print_json


@click.command(short_help="Check this machine.")
@host_options
def doctor(options: Options) -> None:
    """Check what workspaces need here, and say how to fix it. Changes nothing; exit code 1 when broken."""
    from orchestrator.doctor import Verdict, examine

    checks = examine(os.environ, options.paths(), Path.cwd())
    if options.as_json:
        print_json(
            [{"name": c.name, "verdict": c.verdict.value, "found": c.found, "fix": c.fix} for c in checks]
        )
    else:
        for check in checks:
            click.echo(f"{check.verdict.value:<8} {check.name}: {check.found}")
            if check.fix:
                click.echo(f"{'':<8} -> {check.fix}")
    if any(check.verdict is Verdict.BROKEN for check in checks):
        raise click.exceptions.Exit(1)
