"""How a command is run: program, environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from protocol.errors import InvalidRequest
from protocol.messages.commands import Command
from tests.builder import exactly
from toolserver.tools.shell import command_argv, dev_environment, resolved, shell_argv, workspace_environment

REFUSED = [
    (Command(), "give either 'command' (a line for the shell) or 'argv', one of them"),
    (Command(command="a", argv=["a"]), "give either 'command' (a line for the shell) or 'argv', one of them"),
    (Command(command=" "), "the command is empty"),
    (Command(argv=[]), "the command is empty"),
    (Command(argv=["", "x"]), "the command is empty"),
    (Command(command="a\0b"), "a command or its environment holds a NUL character"),
    (Command(command="a", env={"A": "\0"}), "a command or its environment holds a NUL character"),
    (Command(command="a", env={"A=B": ""}), "'A=B' is no name of a variable"),
    (Command(command="a", env={"": "x"}), "'' is no name of a variable"),
]


@pytest.mark.parametrize(("request_", "message"), REFUSED)
def test_what_cannot_be_run_is_refused(request_: Command, message: str) -> None:
    with pytest.raises(InvalidRequest, match=exactly(message)):
        command_argv(request_, {})


def test_a_line_goes_to_a_shell_that_is_not_a_login_shell() -> None:
    argv = command_argv(Command(command="ls -l | wc"), {"PATH": os.environ["PATH"]})
    assert argv[0].endswith(("/bash", "/sh"))
    assert argv[1:] == ["-c", "ls -l | wc"]


def test_without_bash_it_is_sh(tmp_path: Path) -> None:
    assert shell_argv("x", {"PATH": str(tmp_path)}) == ["/bin/sh", "-c", "x"]


def test_a_program_is_looked_up_on_the_commands_own_path(tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert resolved(["tool", "x"], {"PATH": str(tool.parent)}, "/") == [str(tool), "x"]
    assert resolved(["tool"], {"PATH": "bin:/nowhere"}, str(tmp_path)) == [str(tool)]
    assert resolved(["tool"], {"PATH": "/nowhere"}, str(tmp_path)) == ["tool"]
    assert resolved(["./tool"], {"PATH": str(tool.parent)}, "/") == ["./tool"]


def test_commands_inherit_everything_but_the_daemons_own() -> None:
    env = workspace_environment({"PATH": "/bin", "SECRET": "x"}, frozenset({"SECRET"}))
    assert env == {"PATH": "/bin"}


def test_an_extra_ca_is_named_to_every_tool() -> None:
    env = workspace_environment({}, frozenset(), Path("/ca.pem"))
    assert {"NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE"} <= env.keys()
    assert set(env.values()) == {"/ca.pem"}


def test_a_dev_server_is_not_told_of_agents() -> None:
    assert dev_environment({"AI_AGENT": "1", "REPL_ID": "x", "HOME": "/h"}) == {"HOME": "/h"}
