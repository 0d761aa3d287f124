"""What a host needs, judged and explained."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator import doctor
from orchestrator.cli import cli
from orchestrator.doctor import Check, Host, Verdict
from orchestrator.environments import PersistentPathManager


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(os.environ, PersistentPathManager(tmp_path / "data"), tmp_path)


def only(checks: list[Check]) -> Check:
    assert len(checks) == 1
    return checks[0]


def test_this_machine_is_in_order(host: Host) -> None:
    checks = doctor.examine(host.environ, host.paths, host.cwd)
    assert [check for check in checks if check.verdict is Verdict.BROKEN] == []
    assert {"system", "Python", "tool server", "node", "npm", "rg", "data", "templates"} <= {
        c.name for c in checks
    }


def test_looking_changes_nothing(host: Host, tmp_path: Path) -> None:
    doctor.examine(host.environ, host.paths, host.cwd)
    assert list(tmp_path.iterdir()) == []


def test_everything_that_is_not_in_order_says_how_to_fix_it(host: Host) -> None:
    checks = doctor.examine({"PATH": "/nowhere", "http_proxy": "http://p"}, host.paths, host.cwd)
    assert all(check.fix for check in checks if check.verdict is not Verdict.OK)


def test_missing_tools_are_broken_and_name_the_fix(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.toolchain.packaged_node", lambda: None)
    monkeypatch.setattr("orchestrator.toolchain.packaged_rg", lambda: None)
    checks = list(doctor.tools(Host({"PATH": "/nowhere"}, host.paths, host.cwd)))
    assert {check.verdict for check in checks} == {Verdict.BROKEN}
    assert "pip install" in checks[0].fix


def test_a_package_that_is_not_installed_is_broken(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.doctor._PACKAGES", ("json", "no_such_package"))
    checks = {check.name: check for check in doctor.python(host)}
    assert checks["packages"].found == "not installed: no_such_package"
    assert checks["packages"].verdict is Verdict.BROKEN


def test_a_python_without_the_tool_server_is_broken(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    check = only(list(doctor.tool_server(host)))
    assert (check.verdict, check.found) == (Verdict.BROKEN, "it said nothing")


def test_a_data_directory_that_is_a_file_is_broken(host: Host) -> None:
    host.paths.base_dir.touch()
    check = only(list(doctor.data_directory(host)))
    assert check.verdict is Verdict.BROKEN
    assert "DATA_DIR" in check.fix


def test_a_data_directory_that_cannot_be_written_to_is_broken(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    check = only(list(doctor.data_directory(host)))
    assert check.verdict is Verdict.BROKEN
    assert "chown" in check.fix


def test_a_full_disk_is_a_warning(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.doctor.MIN_FREE_BYTES", 2**62)
    assert only(list(doctor.data_directory(host))).verdict is Verdict.WARNING


def test_a_taken_port_is_a_warning(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr("orchestrator.doctor.DEFAULT_PORT", listener.getsockname()[1])
        assert next(doctor.ports(host)).verdict is Verdict.WARNING


@pytest.mark.parametrize(
    ("environ", "warned"),
    [
        ({}, False),
        ({"http_proxy": "http://p"}, True),
        ({"HTTP_PROXY": "http://p", "NO_PROXY": "example.com"}, True),
        ({"http_proxy": "http://p", "no_proxy": "localhost,127.0.0.1"}, False),
    ],
)
def test_a_proxy_that_is_asked_for_this_machine_is_a_warning(
    host: Host, environ: dict[str, str], warned: bool
) -> None:
    assert bool(list(doctor.proxy(Host(environ, host.paths, host.cwd)))) is warned


def test_a_bad_template_is_named(host: Host) -> None:
    (host.cwd / "templates" / "bad").mkdir(parents=True)
    check = only(list(doctor.templates(host)))
    assert (check.verdict, check.found) == (Verdict.WARNING, "with errors: bad")


def test_the_command_prints_each_answer_and_fails_only_when_something_is_broken(tmp_path: Path) -> None:
    good = CliRunner().invoke(cli, ["doctor", "--json", "--data-dir", str(tmp_path)])
    assert good.exit_code == 0
    assert {"name", "verdict", "found", "fix"} == set(json.loads(good.stdout)[0])
    (tmp_path / "file").touch()
    bad = CliRunner().invoke(cli, ["doctor", "--data-dir", str(tmp_path / "file" / "below")])
    assert bad.exit_code == 1
    assert "broken   data: " in bad.stdout


def test_data_that_the_next_deploy_takes_away_is_warned_of(host: Host) -> None:
    environment = PersistentPathManager.from_env({"RENDER": "true"}, host.cwd, host.paths.base_dir)
    told = {check.name: check for check in doctor.data_directory(Host(host.environ, environment, host.cwd))}
    assert told["data kept"].verdict is Verdict.WARNING
    assert "lost at the next deploy" in told["data kept"].found
    assert "mount a disk" in told["data kept"].fix
    assert "data kept" not in {check.name for check in doctor.data_directory(host)}
