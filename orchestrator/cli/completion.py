"""``workspace completion``: the script by which a shell completes what one types."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from orchestrator.cli.common import json_option, print_json

_INSTALLED = {
    "bash": 'eval "$(workspace completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(workspace completion zsh)"     # in ~/.zshrc, after compinit',
    "fish": "workspace completion fish > ~/.config/fish/completions/workspace.fish",
}


@click.command(
    short_help="Print a shell's completion script.", epilog="\b\n" + "\n".join(_INSTALLED.values())
)
@click.argument("shell", type=click.Choice(list(_INSTALLED)))
@json_option
def completion(shell: str, as_json: bool) -> None:
    """Print the script by which SHELL completes commands, templates, sessions and operations."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    script = kind(root, {}, "workspace", "_WORKSPACE_COMPLETE").source()
    if as_json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script)
