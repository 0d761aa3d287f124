"""What a shell is offered at a press of Tab: templates, sessions, operations.

Asked with every press, so a completer starts no backend, and one that fails offers nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def offering(find: Callable[[click.Context], Iterable[tuple[str, str]]], kind: str = "plain") -> Completer:
    """A completer of the names, each with a help text, that ``find`` gives; ``kind`` file: paths as well."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            names = [(name, text) for name, text in find(ctx) if name.startswith(incomplete)]
        except Exception:  # a traceback in the middle of a command line helps nobody
            names = []
        items = [CompletionItem(name, help=text or None) for name, text in names]
        return items if kind == "plain" else [*items, CompletionItem(incomplete, type=kind)]

    return complete


def _templates(ctx: click.Context) -> Iterable[tuple[str, str]]:
    from orchestrator.templates import template_directories, template_roots

    return ((name, "") for name in sorted(template_directories(template_roots(Path.cwd()))))


def _live_sessions(ctx: click.Context) -> Iterable[tuple[str, str]]:
    return _sessions(ctx, stopped=False)


def _all_sessions(ctx: click.Context) -> Iterable[tuple[str, str]]:
    return _sessions(ctx, stopped=True)


def _sessions(ctx: click.Context, *, stopped: bool) -> Iterable[tuple[str, str]]:
    """As the registry has them; whether they live would have to be asked of every backend."""
    from orchestrator.environments import PersistentPathManager
    from orchestrator.paths import DEFAULT_USER, user_id
    from orchestrator.records import Records

    paths = PersistentPathManager.from_env(os.environ, Path.cwd(), ctx.params.get("data_dir"))
    user = user_id(ctx.params.get("user") or DEFAULT_USER)
    records = Records(paths.db_path("sessions")).list(user, stopped=stopped)
    return ((record.session_id, record.template) for record in reversed(records))


def _operations(ctx: click.Context) -> Iterable[tuple[str, str]]:
    from protocol.operations import OPERATIONS

    return ((name, operation.doc) for name, operation in OPERATIONS.items())


sources = offering(_templates, "file")
template_names = offering(_templates, "dir")
live_sessions = offering(_live_sessions)
all_sessions = offering(_all_sessions)
operations = offering(_operations)
