"""``workspace completion``: the script by which a shell completes what one types."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_INSTALLED = {
    "bash": 'eval "$(workspace completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(workspace completion zsh)"     # in ~/.zshrc, after compinit',
    "fish": "workspace completion fish > ~/.config/fish/completions/workspace.fish",
}


@click.command(
    short_help="Print a shell's completion script.", epilog="\b\n" + "\n".join(_INSTALLED.values())
)
@click.argument("shell", type=click.Choice(list(_INSTALLED)))
def completion(shell: str) -> None:
    """Print the script by which SHELL completes commands, templates, sessions and operations."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "workspace", "_WORKSPACE_COMPLETE").source())
