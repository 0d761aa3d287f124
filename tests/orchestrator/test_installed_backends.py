"""Backends are found by their entry points, and opened when they are asked for."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends import Host
from orchestrator.backends.installed import GROUP, InstalledBackends
from orchestrator.paths import PathManager
from protocol.errors import InvalidRequest


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(PathManager(tmp_path), {})


def test_the_projects_own_are_there_by_name(host: Host) -> None:
    backends = InstalledBackends(host)
    assert {"docker", "local"} <= backends.keys()
    for name in ("docker", "local"):
        assert backends[name].name == name
        assert backends[name] is backends[name]


def test_one_that_is_not_there_is_refused_with_those_that_are(host: Host) -> None:
    backends = InstalledBackends(host)
    assert "moon" not in backends
    with pytest.raises(InvalidRequest, match="there is no backend 'moon'; there are docker, local"):
        backends["moon"]


def test_another_packages_backend_is_opened_once_and_only_when_asked_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Host] = []

    def open_backend(given: Host) -> Any:
        opened.append(given)
        return "theirs"

    package = types.ModuleType("a_package_of_somebody")
    package.open_backend = open_backend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    point = EntryPoint("theirs", f"{package.__name__}:open_backend", GROUP)
    monkeypatch.setattr("orchestrator.backends.installed.entry_points", lambda group: [point])
    backends = InstalledBackends(host)
    assert ([*backends], len(backends), opened) == (["theirs"], 1, [])
    assert [str(backends["theirs"]), str(backends["theirs"])] == ["theirs", "theirs"]
    assert opened == [host]
