"""``workspace up DIR``, as a person runs it on a directory of their own."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.common import Options
from orchestrator.cli.copying import Copying
from orchestrator.templates import find_source
from tests.orchestrator.live import Host, template
from tests.unit.test_git_history import ENVIRONMENT, git

pytestmark = pytest.mark.skipif(
    shutil.which("git", path=ENVIRONMENT["PATH"]) is None, reason="git is not installed"
)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.end_everything()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one commit and one file that is in none."""
    project = tmp_path / "my project"
    (project / "src").mkdir(parents=True)
    (project / "src" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (project / "src" / "run.sh").chmod(0o755)
    git(project, "init", "-q", "-b", "trunk")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "one")
    (project / "notes.txt").write_text("mine")
    return project


def shell(host: Host, line: str) -> str:
    done = host.inside("exec", "--", "sh", "-c", line)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def bring_up(host: Host, *words: str) -> None:
    with host.up(*words, "--detach") as up:
        up.ready()
        assert up.end()[0] == 0


@pytest.mark.parametrize("kind", ["directory", "worktree"])
def test_git_goes_on_in_the_copy_where_it_was(kind: str, host: Host, project: Path, tmp_path: Path) -> None:
    place = project
    if kind == "worktree":
        place = tmp_path / "side"
        git(project, "worktree", "add", "-q", "-b", "side", str(place))
        (place / "notes.txt").write_text("mine")
    host.directory = place  # it is called from there, as `up .`
    bring_up(host, ".")
    assert shell(host, "git status --porcelain") == "?? notes.txt"
    assert shell(host, "git log --format=%s") == "one"
    assert shell(host, "git rev-parse HEAD; git branch --show-current").split() == [
        git(place, "rev-parse", "HEAD"),
        git(place, "branch", "--show-current"),
    ]
    assert shell(host, "src/run.sh") == "ran"
    # A copy: what is committed there is nobody else's.
    commit = "git add -A && git -c user.name=a -c user.email=a@b commit -q -m two && git log --format=%s"
    assert shell(host, commit) == "two\none"
    assert git(place, "log", "--format=%s") == "one"


def test_agents_are_told_to_trust_a_directory_of_ones_own(host: Host, project: Path) -> None:
    bring_up(host, str(project))
    workdir = shell(host, "pwd")
    assert tomllib.loads(shell(host, "cat ~/.codex/config.toml")) == {
        "projects": {workdir: {"trust_level": "trusted"}}
    }
    claude = json.loads(shell(host, "cat ~/.claude.json"))
    assert claude["projects"] == {workdir: {"hasTrustDialogAccepted": True}}
    owner = shell(host, "stat -c '%a %u' ~/.codex/config.toml ~/.claude.json; id -u").split()
    assert owner == ["600", owner[-1], "600", owner[-1], owner[-1]]
    host.inside("down", "--all", "--remove")
    bring_up(host, str(project), "--no-trust-agents")
    assert shell(host, "ls -A ~") == ""


def test_a_template_may_be_anybodys_and_is_trusted_only_when_told(tmp_path: Path) -> None:
    template(tmp_path, "site", {"index.html": "x"})
    site = find_source("site", [tmp_path / "templates"], tmp_path)
    options = Options(tmp_path / "data", "ann", as_json=False)
    assert not Copying(True, None, False).plan(options, site, "local").trust_agents
    assert Copying(True, True, False).plan(options, site, "local").trust_agents
    own = find_source("templates/site", [], tmp_path)
    assert Copying(True, None, False).plan(options, own, "local").trust_agents
    # Such a path can be written into no plan, so a local session there goes without.
    strange = Options(tmp_path / "o'brien", "ann", as_json=False)
    assert not Copying(True, None, False).plan(strange, own, "local").trust_agents


def test_a_history_that_cannot_come_along_stays_behind_when_told(host: Host, project: Path) -> None:
    shutil.rmtree(project / ".git")
    (project / ".git").write_text(f"gitdir: {project.parent}/gone\n")
    refused = host.run("up", str(project), "--detach")
    assert refused.returncode == 1
    assert b"gone, where there is no repository" in refused.stderr
    assert b"--no-git" in refused.stderr
    assert host.sessions() == []
    bring_up(host, str(project), "--no-git")
    assert shell(host, "ls -A") == "notes.txt\nsrc"


def test_an_image_of_its_own_needs_a_backend_that_makes_some_and_a_directory(
    host: Host, project: Path
) -> None:
    refused = host.run("up", str(project), "--derived-image", "--detach")
    assert (refused.returncode, b"makes no images" in refused.stderr) == (1, True)
    template(host.directory, "site", {"index.html": "x"})
    refused = host.run("up", "site", "--derived-image", "--backend", "docker")
    assert (refused.returncode, b"for a directory of yours" in refused.stderr) == (1, True)
    assert host.sessions() == []
