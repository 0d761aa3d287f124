"""The options of ``up`` that bring a workspace up again: which one, and from what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.cli.common import Options, run, tell

if TYPE_CHECKING:
    from orchestrator.paths import WorkspaceId
    from orchestrator.templates import Source

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Chosen:
    """What is brought up."""

    source: Source
    workspace: WorkspaceId | None
    """None for a new one."""
    keep_first: bool
    """What comes of the source is the workspace's first save."""


@dataclass(frozen=True)
class Again:
    """As they were given."""

    workspace: str | None
    save: str | None
    from_template: bool

    def chosen(self, options: Options, source: str | None, given: Mapping[str, str]) -> Chosen:
        """With ``given`` for its variables.

        Raises before anything is started: for a damaged save, or one that is not there, or a wrong value.
        """
        from orchestrator.substitution import with_values

        found = self._again(options, self.workspace, source) if self.workspace else self._new(source)
        return replace(found, source=with_values(found.source, given))

    def _new(self, source: str | None) -> Chosen:
        from orchestrator.templates import SourceKind, find_source, template_roots

        if self.save or self.from_template:
            raise click.UsageError("--save and --from-template are for a workspace: name it by --workspace")
        if source is None:
            raise click.UsageError("Missing argument 'SOURCE'.")
        cwd = Path.cwd()
        found = find_source(source, template_roots(cwd), cwd)
        # One's own directory is there anyhow, and may be large; so is an archive.
        return Chosen(found, None, found.kind is SourceKind.TEMPLATE)

    def _again(self, options: Options, wanted: str, source: str | None) -> Chosen:
        from orchestrator.restoring import brought_up_from, find_workspace
        from orchestrator.save_rules import ContentWish

        sessions, user, wish = (
            options.sessions(),
            options.user_id(),
            ContentWish(self.save, self.from_template),
        )
        workspace = run(find_workspace(sessions, user, wanted))
        content = run(brought_up_from(sessions, user, workspace, wish, source, Path.cwd()))
        if content.save:
            tell(f"{workspace} comes back from its save {content.save}")
        return Chosen(content.source, workspace, content.keep_first)


def again_options(function: Function) -> Callable[..., Any]:
    """Give a command these options, as one argument ``again``."""

    def with_options(workspace: str | None, wanted: str | None, from_template: bool, **rest: Any) -> Any:
        return function(again=Again(workspace, wanted, from_template), **rest)

    with_options.__name__, with_options.__doc__ = function.__name__, function.__doc__
    with_options.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option(
            "--from-template",
            is_flag=True,
            help="With --workspace: begin anew from SOURCE, or from what it was made from. Its saves stay.",
        ),
        click.option("--save", "wanted", help="With --workspace: this save, by its name or number."),
        click.option(
            "--workspace",
            help="Bring this one up again from its newest save; its id, the end of it, or a session of it.",
        ),
    ):
        with_options = option(with_options)
    return with_options
