"""What the isolation tests want is installed, or it is said why not; neither ends the run."""

from __future__ import annotations

import os
import shutil

import pytest

from scripts import engine, host_tools


def missing(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """A machine with apt-get, and without the programs."""
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_nobody_but_root_is_told_which_package_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing(monkeypatch, 1000)
    host_tools.main()
    lines = capsys.readouterr().err.splitlines()
    assert [line.endswith("its tests are skipped") for line in lines] == [True, True]
    assert "(passt)" in lines[0]
    assert "(bubblewrap)" in lines[1]


def test_a_package_that_cannot_be_had_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_program: str, package: str) -> None:
        raise engine.NoEngine(f"apt-get could not install {package}")

    missing(monkeypatch, 0)
    monkeypatch.setattr(engine, "install", refuse)
    host_tools.main()
    assert "pasta: apt-get could not install passt; its tests are skipped" in capsys.readouterr().err


def test_nothing_is_said_where_everything_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    host_tools.main()
    assert capsys.readouterr().err == ""
