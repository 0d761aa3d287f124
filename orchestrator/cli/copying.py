"""The options of ``up`` that say how a person's own directory is copied, and the plan that comes of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.cli.common import Options, tell

if TYPE_CHECKING:
    from orchestrator.plan import LaunchPlan
    from orchestrator.templates import Source

Function = TypeVar("Function", bound=Callable[..., Any])

_LOCAL = "local"


@dataclass(frozen=True)
class Copying:
    """As they were given."""

    git: bool
    trust_agents: bool | None
    """None: as is usual for the source."""
    derived_image: bool

    def plan(self, options: Options, source: Source, backend: str) -> LaunchPlan:
        """What the launch does; raises InvalidRequest with the way out, before anything is started."""
        from orchestrator.packing import planned
        from protocol.errors import InvalidRequest

        trusts = _trusts(options, source, backend) if self.trust_agents is None else self.trust_agents
        plan = planned(source, os.environ, copy_git=self.git, trust_agents=trusts)
        if self.derived_image and not plan.workspace_plan.enabled:
            raise InvalidRequest(f"--derived-image is for a directory of yours, and {source.name} is none")
        return plan


def copying_options(function: Function) -> Callable[..., Any]:
    """Give a command these options, as one argument ``copying``."""

    def with_options(no_git: bool, trust_agents: bool | None, derived_image: bool, **rest: Any) -> Any:
        return function(copying=Copying(not no_git, trust_agents, derived_image), **rest)

    with_options.__name__, with_options.__doc__ = function.__name__, function.__doc__
    with_options.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option(
            "--derived-image",
            is_flag=True,
            help="Copy a directory into an image of its own: --backend docker.",
        ),
        click.option(
            "--trust-agents/--no-trust-agents",
            default=None,
            help="Tell Codex and Claude Code that they may work in it; usual for a directory of yours.",
        ),
        click.option("--no-git", is_flag=True, help="Copy a directory without its history (.git)."),
    ):
        with_options = option(with_options)
    return with_options


def _trusts(options: Options, source: Source, backend: str) -> bool:
    """What a person has in a directory of their own they trust; a template or a save may be anybody's."""
    from orchestrator.templates import SourceKind
    from orchestrator.workspace_config import is_guest_path

    if source.kind is not SourceKind.DIRECTORY:
        return False
    place = options.paths().base_dir
    if backend != _LOCAL or is_guest_path(str(place)):
        return True
    tell(f"agents are not told to trust the copy: {place} has characters that no plan takes")
    return False
