"""What a host needs for workspaces: looked at, judged, and explained. Changes nothing.

One question, one function, one ``Check``. Broken means that no workspace will run; a warning, that some will
not, or not as expected.
"""

from __future__ import annotations

import enum
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator import toolchain
from orchestrator.environments import PersistentPathManager
from orchestrator.isolation.isolation import Isolation, Setting
from orchestrator.isolation.tiers import NETWORK_OPTION
from orchestrator.paths import DATA_VARIABLE
from orchestrator.ports import is_free
from orchestrator.template_checks import check_template
from orchestrator.templates import template_directories, template_roots
from orchestrator.units import size_text
from protocol import __version__
from protocol.errors import ToolError
from protocol.limits import GIB
from protocol.routes import DEFAULT_DEV_PORT, DEFAULT_PORT

MIN_PYTHON = (3, 11)
MIN_FREE_BYTES = 2 * GIB
"""One Astro workspace takes 155 MB, and npm's cache about as much again."""
_PACKAGES = ("aiohttp", "click", "isal", "msgspec", "rich", "uvloop", "websockets", "zstandard")
_START_SECONDS = 20.0
_INSTALL = "pip install 'workspace-core[host,toolserver,embedded]'"


class Verdict(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True)
class Check:
    """One answer. ``fix`` is empty when there is nothing to do."""

    name: str
    verdict: Verdict
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Host:
    """What the questions are about."""

    environ: Mapping[str, str]
    paths: PersistentPathManager
    cwd: Path


def examine(environ: Mapping[str, str], paths: PersistentPathManager, cwd: Path) -> list[Check]:
    """All questions, in the order in which a fix helps the next."""
    host = Host(environ, paths, cwd)
    return [check for question in QUESTIONS for check in question(host)]


def system(_: Host) -> Iterator[Check]:
    """Processes are found and told apart by /proc."""
    if Path("/proc/self/stat").exists():
        yield Check("system", Verdict.OK, sys.platform)
    else:
        yield Check(
            "system", Verdict.BROKEN, f"{sys.platform} without /proc", "run it on Linux, or in a container"
        )


def python(_: Host) -> Iterator[Check]:
    """The version, and the packages."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        yield Check("Python", Verdict.BROKEN, version, "use Python 3.11 or newer")
    else:
        yield Check("Python", Verdict.OK, f"{version} ({sys.executable})")
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        yield Check("packages", Verdict.BROKEN, f"not installed: {', '.join(missing)}", _INSTALL)


def tool_server(host: Host) -> Iterator[Check]:
    """Started as a workspace would start it, but for its version only."""
    command = [sys.executable, "-P", "-m", "toolserver", "--version"]
    env = {"PATH": host.environ.get("PATH", os.defpath)}
    try:
        answer = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=_START_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Check("tool server", Verdict.BROKEN, f"does not start: {error}", _INSTALL)
        return
    version = answer.stdout.strip()
    if answer.returncode or version != __version__:
        found = version or (answer.stderr.strip().splitlines() or ["it said nothing"])[-1]
        yield Check("tool server", Verdict.BROKEN, found, f"{_INSTALL} (version {__version__})")
    else:
        yield Check("tool server", Verdict.OK, version)


def tools(host: Host) -> Iterator[Check]:
    """Node with npm, and ripgrep."""
    try:
        found = toolchain.find_toolchain(host.environ)
    except toolchain.ToolchainError:
        for clause in toolchain.lacking(host.environ):
            yield Check("tools", Verdict.BROKEN, clause, toolchain.FIX)
        return
    yield Check("node", Verdict.OK, f"{found.node_version} ({found.node}, {found.node_source})")
    yield Check("npm", Verdict.OK, str(found.npm))
    yield Check("rg", Verdict.OK, f"{found.rg} ({found.rg_source})")


def data_directory(host: Host) -> Iterator[Check]:
    """There or makeable, ours, writable, with room."""
    base = host.paths.base_dir
    existing = next(path for path in (base, *base.parents) if path.exists())
    if not existing.is_dir():
        yield Check("data", Verdict.BROKEN, f"{existing} is no directory", f"move it, or set {DATA_VARIABLE}")
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        owner = f"chown -R {os.getuid()} {existing}"
        yield Check("data", Verdict.BROKEN, f"{existing} is not writable", f"{owner}, or set {DATA_VARIABLE}")
        return
    yield from _room(base, existing)
    if (warning := host.paths.warning()) is not None:
        found, _, fix = warning.partition(": ")
        yield Check("data kept", Verdict.WARNING, found, fix)
    if existing == base and base.stat().st_uid != os.getuid():
        found = f"{base} belongs to user {base.stat().st_uid}, this is {os.getuid()}"
        yield Check("data owner", Verdict.WARNING, found, f"chown -R {os.getuid()} {base}")


def _room(base: Path, existing: Path) -> Iterator[Check]:
    free = shutil.disk_usage(existing).free
    found = f"{base}, {size_text(free)} free"
    if free < MIN_FREE_BYTES:
        fix = f"make room, or set {DATA_VARIABLE}; `workspace ls --all` shows what is kept"
        yield Check("data", Verdict.WARNING, found, fix)
    else:
        yield Check("data", Verdict.OK, found)


def isolation(host: Host) -> Iterator[Check]:
    """What would keep workspaces apart that run as processes of this host."""
    try:
        chosen = Isolation.choose(Setting.from_env(host.environ), host.paths, host.environ, None, ())
    except ToolError as error:
        yield Check("isolation", Verdict.BROKEN, error.message, "see docs/security.md")
        return
    if chosen.promises.several_users:
        yield Check("isolation", Verdict.OK, chosen.tier.name)
    else:
        found = f"{chosen.tier.name}; {chosen.reason}"
        yield Check("isolation", Verdict.WARNING, found, "one user's workspaces only; see docs/security.md")
    yield Check("left open", Verdict.OK, "; ".join(chosen.left_open))
    yield _network(chosen)
    if not chosen.tier.bwrap:
        stronger = (
            f"not to be had: {chosen.facts.no_bwrap}" if chosen.facts.no_bwrap else "by `--isolation bwrap`"
        )
        yield Check("bubblewrap", Verdict.OK, stronger)


def _network(chosen: Isolation) -> Check:
    """Tried for real: that everything is there does not say that the kernel lets it."""
    if chosen.tier.network:
        why = chosen.network_trial()
        if not why:
            return Check("network", Verdict.OK, "one for each session: every port in there is its own")
        return Check("network", Verdict.BROKEN, why, f"set {NETWORK_OPTION}=shared; see docs/security.md")
    if not chosen.tier.ports:
        return Check("network", Verdict.OK, "this host's, without rules")
    why = chosen.facts.no_network or f"{NETWORK_OPTION}=shared was asked for"
    found = f"rules on ports: a server on a port of a workspace's own choice is reached by nobody; {why}"
    return Check("network", Verdict.WARNING, found, "see docs/security.md")


def ports(_: Host) -> Iterator[Check]:
    """Taken ones give way to others, which whoever expects them should know."""
    for port, what in ((DEFAULT_PORT, "tool server"), (DEFAULT_DEV_PORT, "dev server")):
        if is_free(port):
            yield Check(f"port {port}", Verdict.OK, f"free for the {what}")
        else:
            fix = "`workspace ls` shows whether it is a workspace; `up` takes another port and says which"
            yield Check(f"port {port}", Verdict.WARNING, f"taken, wanted for the {what}", fix)


def proxy(host: Host) -> Iterator[Check]:
    """A proxy that is also asked for this machine's own addresses makes the printed curl lines fail."""
    names = {name.lower(): value for name, value in host.environ.items() if value}
    excepted = names.get("no_proxy", "")
    if "http_proxy" in names and not any(each in excepted for each in ("127.0.0.1", "localhost", "*")):
        found = "http_proxy is set, and no_proxy does not except this machine"
        yield Check("proxy", Verdict.WARNING, found, "export no_proxy=127.0.0.1,localhost")


def templates(host: Host) -> Iterator[Check]:
    """Found, and in order."""
    found = template_directories(template_roots(host.cwd))
    if not found:
        yield Check(
            "templates", Verdict.WARNING, "none", "put a directory into ./templates, or `workspace up DIR`"
        )
        return
    bad = [name for name, directory in sorted(found.items()) if not check_template(name, directory).ok()]
    if bad:
        fix = f"`workspace template validate {' '.join(bad)}` says what"
        yield Check("templates", Verdict.WARNING, f"with errors: {', '.join(bad)}", fix)
    else:
        yield Check("templates", Verdict.OK, ", ".join(sorted(found)))


QUESTIONS: tuple[Callable[[Host], Iterator[Check]], ...] = (
    system,
    python,
    tool_server,
    tools,
    data_directory,
    isolation,
    ports,
    proxy,
    templates,
)
