"""``workspace down --all`` where some sessions cannot be ended; no tool server runs."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import msgspec
import pytest

from orchestrator.backends import Destroyed
from orchestrator.backends.local import LocalBackend
from orchestrator.paths import PathManager, SessionId, UserId, WorkspaceId
from orchestrator.records import Records, SessionRecord
from orchestrator.session_states import State
from tests.orchestrator.live import Host
from tests.orchestrator.test_records import record

USER = UserId("default")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Three sessions whose sandboxes are gone; the backends of all but the second cannot be asked."""
    host = Host(tmp_path)
    for name, backend in (("s1", "gone"), ("s2", "local"), ("s3", "gone")):
        left = msgspec.structs.replace(
            record(),
            session_id=SessionId(name),
            user_id=USER,
            workspace_id=WorkspaceId(f"workspace_{name}"),
            backend=backend,
            state=State.ERROR,
            has_work=True,
        )
        registry(host).add(functools.partial(chosen, left))
    return host


def chosen(record: SessionRecord, taken: frozenset[int]) -> SessionRecord:
    return record


def registry(host: Host) -> Records:
    return Records(PathManager(host.data).db_path("sessions"))


def left(host: Host) -> list[str]:
    return [each.session_id for each in registry(host).list(USER, stopped=True)]


def test_one_that_cannot_be_ended_keeps_none_of_the_others_up_and_each_is_told(host: Host) -> None:
    done = host.inside("down", "--all", "--remove")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert left(host) == ["s1", "s3"]
    for session in left(host):
        assert any(line.startswith(f"{session}: there is no backend 'gone'") for line in lines)
    assert "s2 ended; files removed" in lines
    assert lines[-1] == "workspace: not done for 2 of 3 sessions: s1, s3"


def test_programs_are_told_of_each_what_became_of_it(host: Host) -> None:
    done = host.inside("down", "--all", "--remove", "--json")
    told = [(each["session"], each["error"] and each["error"]["code"]) for each in json.loads(done.stdout)]
    assert (done.returncode, told) == (
        1,
        [("s1", "invalid_request"), ("s2", None), ("s3", "invalid_request")],
    )


def test_one_that_was_named_is_refused_as_ever(host: Host) -> None:
    done = host.inside("down", "s3")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("workspace: there is no backend 'gone'")


def test_what_would_not_end_is_named_beside_what_was_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def clinging(*_: object, **__: object) -> Destroyed:
        return Destroyed(found=True, survivors=(7, 8))

    monkeypatch.setattr(LocalBackend, "destroy", clinging)
    done = host.inside("down", "--all", "--remove")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert sum("there is no backend 'gone'" in line for line in lines) == 2
    assert lines[-1] == "workspace: these processes would not end: 7 8; end them by `kill -9 7 8`"
