"""What a shell is offered, asked as the printed script asks."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.paths import PathManager, new_session_id, new_workspace_id, user_id
from orchestrator.records import Records, SessionRecord
from protocol.operations import OPERATIONS
from tests.orchestrator.live import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "templates" / "mine").mkdir(parents=True)
    return Host(tmp_path)


def offered(host: Host, *words: str) -> list[str]:
    """As bash asks: the last word is the one that is being typed."""
    line = ["workspace", *words]
    environ = {
        **host.environ,
        "_WORKSPACE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator"],
        cwd=host.directory,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return [row.partition(",")[2] for row in done.stdout.splitlines() if row.startswith("plain,")]


def begun(host: Host, user: str) -> str:
    """A session in the registry, made of nothing else."""
    now = datetime.now(UTC)
    record = SessionRecord(
        session_id=new_session_id(now, os.urandom(4)),
        user_id=user_id(user),
        workspace_id=new_workspace_id(now, os.urandom(4)),
        backend="local",
        template="t",
        token="",
        tool_port=0,
        dev_port=0,
        created=now.isoformat(),
    )
    return Records(PathManager(host.data).db_path("sessions")).add(lambda _: record).session_id


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_for_each_shell(host: Host, shell: str) -> None:
    done = host.inside("completion", shell)
    assert done.returncode == 0
    assert f"_WORKSPACE_COMPLETE={shell}_complete" in done.stdout.decode()


def test_the_printed_script_is_one_that_bash_takes(host: Host) -> None:
    script = host.inside("completion", "bash").stdout
    check = subprocess.run(
        ["bash", "-c", 'eval "$(cat)" && complete -p workspace'],
        input=script,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert b"_workspace_completion" in check.stdout


def test_another_shell_is_refused(host: Host) -> None:
    assert host.inside("completion", "tcsh").returncode == 2


def test_templates_are_offered_by_name(host: Host) -> None:
    assert offered(host, "up", "m") == ["mine"]
    assert {"mine", "static-html", "research-pipeline"} <= {*offered(host, "up", "")}
    assert offered(host, "template", "dev", "static") == ["static-html"]
    assert offered(host, "template", "validate", "mine", "research") == ["research-pipeline"]


def test_operations_and_commands_are_offered(host: Host) -> None:
    names = [each.split(",")[0] for each in offered(host, "call", "")]
    assert names == [*OPERATIONS]
    assert "completion" in offered(host, "comp")


def test_a_users_own_sessions_are_offered(host: Host) -> None:
    ann, default = begun(host, "ann"), begun(host, "default")
    assert offered(host, "exec", "sess") == [default]
    assert offered(host, "down", "--user", "ann", "") == [ann]
    assert offered(host, "save", "--data-dir", str(host.directory / "other"), "") == []


def test_what_cannot_be_read_offers_nothing_and_says_nothing(host: Host) -> None:
    (host.data / "db").mkdir(parents=True)
    (host.data / "db" / "sessions.sqlite").write_text("no registry")
    (host.data / "db" / "sessions.db").write_text("no registry")
    assert offered(host, "exec", "") == []
    assert offered(host, "exec", "--user", "../x", "") == []


def test_asking_makes_no_data_directory(host: Host) -> None:
    offered(host, "exec", "")
    assert not host.data.exists()
    assert [path.name for path in host.directory.iterdir()] == ["templates"]
