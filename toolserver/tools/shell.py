"""How a command is run: which program, where, with what environment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from protocol.errors import InvalidRequest
from protocol.messages.commands import Command, EnvMode

AGENT_VARIABLES = frozenset(
    (
        "AGENT",
        "AI_AGENT",
        "CLAUDECODE",
        "CLAUDE_CODE",
        "CODEX_SANDBOX",
        "CODEX_THREAD_ID",
        "CURSOR_AGENT",
        "CURSOR_TRACE_ID",
        "GEMINI_CLI",
        "OPENCODE",
        "REPL_ID",
    )
)
"""By these, dev servers believe that a coding agent started them; Astro then detaches itself and exits."""

_PREFIX = "TOOL_SERVER_"

_CA_VARIABLES = (
    "NODE_EXTRA_CA_CERTS",
    "NPM_CONFIG_CAFILE",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
)

_CACHE_VARIABLES = (
    "npm_config_cache",
    "NPM_CONFIG_CACHE",
    "npm_config_store_dir",
    "COREPACK_HOME",
    "YARN_CACHE_FOLDER",
    "XDG_CACHE_HOME",
)


def workspace_environment(
    environ: Mapping[str, str], ours: frozenset[str], extra_ca_bundle: Path | None = None
) -> dict[str, str]:
    """What commands inherit: the daemon's environment without the daemon's own variables.

    ``ours`` are those that it reads; another one of its prefix was meant for it, or for a newer version.

    >>> workspace_environment({"PATH": "/bin", "TOOL_SERVER_TOKEN": "x"}, frozenset({"TOOL_SERVER_TOKEN"}))
    {'PATH': '/bin'}
    """
    env = {
        name: value for name, value in environ.items() if name not in ours and not name.startswith(_PREFIX)
    }
    if extra_ca_bundle is not None:
        env |= dict.fromkeys(_CA_VARIABLES, str(extra_ca_bundle))
    return env


def package_caches(environ: Mapping[str, str]) -> list[Path]:
    """Where the environment has package managers keep what they fetch.

    >>> package_caches({"npm_config_cache": "/cache/npm", "COREPACK_HOME": "not/absolute"})
    [PosixPath('/cache/npm')]
    """
    named = (Path(environ.get(name, "")) for name in _CACHE_VARIABLES)
    return [path for path in named if path.is_absolute()]


def command_environment(request: Command, env: Mapping[str, str]) -> Mapping[str, str]:
    """A command's variables, of which ``env`` are those of the workspace.

    >>> command_environment(Command(env={"B": "2"}), {"A": "1"})
    {'A': '1', 'B': '2'}
    >>> command_environment(Command(env={"B": "2"}, env_mode=EnvMode.EXACT), {"A": "1"})
    {'B': '2'}
    """
    if request.env_mode is EnvMode.EXACT:
        return request.env
    return {**env, **request.env} if request.env else env


def dev_environment(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` without the variables that make a dev server behave as if an agent ran it."""
    return {name: value for name, value in env.items() if name not in AGENT_VARIABLES}


def command_argv(request: Command, env: Mapping[str, str]) -> list[str]:
    """The program and its arguments; raises InvalidRequest unless exactly one form is given.

    >>> command_argv(Command(argv=["ls", "-l"]), {})
    ['ls', '-l']
    >>> command_argv(Command(command="ls", argv=["ls"]), {})
    Traceback (most recent call last):
    protocol.errors.InvalidRequest: give either 'command' (a line for the shell) or 'argv', one of them
    """
    refuse_no_command(request)
    if request.argv is not None:
        return list(request.argv)
    return shell_argv(request.command or "", env, request.login)


def refuse_no_command(request: Command) -> None:
    """Raise InvalidRequest for what can be no command."""
    if (request.command is None) == (request.argv is None):
        raise InvalidRequest(
            "give either 'command' (a line for the shell) or 'argv', one of them", field="command"
        )
    if request.login and request.argv is not None:
        raise InvalidRequest("'login' is about the shell that runs 'command'; leave it out", field="login")
    parts = request.argv if request.argv is not None else [request.command or ""]
    if not parts or not parts[0].strip():
        raise InvalidRequest("the command is empty", field="command" if request.argv is None else "argv")
    if "\0" in "".join((*parts, *request.env, *request.env.values())):
        raise InvalidRequest("a command or its environment holds a NUL character", field="command")
    if request.env and (bad := [name for name in request.env if not name or "=" in name]):
        raise InvalidRequest(f"{bad[0]!r} is no name of a variable", field="env")


def shell_argv(line: str, env: Mapping[str, str], login: bool = False) -> list[str]:
    """``line`` for bash when there is one, else sh; a login shell only when asked for."""
    shell = shutil.which("bash", path=env.get("PATH", os.defpath)) or "/bin/sh"
    return argv_of_shell(shell, line, login)


def argv_of_shell(shell: str, line: str, login: bool) -> list[str]:
    """``line`` for this shell.

    >>> argv_of_shell("/bin/sh", "ls", True)
    ['/bin/sh', '-l', '-c', 'ls']
    """
    return [shell, *(["-l"] if login else []), "-c", line]


def resolved(argv: Sequence[str], env: Mapping[str, str], cwd: str) -> list[str]:
    """``argv`` with its program looked up on the command's own PATH, not on the daemon's."""
    program = argv[0]
    if "/" in program:
        return list(argv)
    # A PATH may name directories relative to where the command runs (node_modules/.bin), not to us.
    places = (str(Path(cwd, place)) for place in env.get("PATH", os.defpath).split(os.pathsep))
    return [shutil.which(program, path=os.pathsep.join(places)) or program, *argv[1:]]
