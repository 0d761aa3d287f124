"""The deployment files: read by their own tools, and the ones for this machine started as they stand."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.engine import install
from tests.image.support import IMAGE, REPOSITORY, TOKEN, Guest, archive_of, docker, eventually
from tests.ports import free_port

FILES = REPOSITORY / "images" / "compose"
COMPOSE = sorted(path.name for path in FILES.glob("*.yaml") if path.name != "render.yaml")
PROJECT = "tests-of-workspace-core"

pytestmark = pytest.mark.timeout(600)  # the first one may have to install the tool


def compose(file: str, *arguments: str, **variables: str) -> str:
    """The compose tool's output. It is Debian's package where the client has no `compose` of its own."""
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), **variables}
    command = [*tool(), "--project-name", PROJECT, "--file", str(FILES / file), *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout


def tool() -> list[str]:
    """`docker compose`, else `docker-compose`."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    install("docker-compose", "docker-compose")
    return ["docker-compose"]


VARIABLES = {"TOOL_SERVER_TOKEN": TOKEN, "WORKSPACE_CORE_IMAGE": IMAGE}


@pytest.mark.parametrize("file", COMPOSE)
def test_the_compose_tool_takes_the_file_and_every_hardening_is_in_it(file: str) -> None:
    service = yaml.safe_load(compose(file, "config", **VARIABLES))["services"]["workspace"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["pids_limit"]) > 0
    assert service["mem_limit"]
    assert "privileged" not in service
    assert not [each for each in service.get("volumes", []) if "sock" in str(each)]


@pytest.mark.parametrize("file", COMPOSE)
def test_no_compose_file_goes_without_a_token(file: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        compose(file, "config", WORKSPACE_CORE_IMAGE=IMAGE)
    assert "TOOL_SERVER_TOKEN" in str(error.value.stderr)


@pytest.mark.parametrize("file", ["laptop.yaml", "volume.yaml"])
def test_a_file_for_this_machine_listens_on_this_machine_only(file: str) -> None:
    ports = yaml.safe_load((FILES / file).read_text())["services"]["workspace"]["ports"]
    assert all(port.startswith("127.0.0.1:") for port in ports)


@contextmanager
def up(file: str) -> Iterator[Guest]:
    """The file started as it stands, but for its image's name and its ports."""
    ports = {"WORKSPACE_PORT": str(free_port()), "WORKSPACE_DEV_PORT": str(free_port())}
    variables = VARIABLES | ports
    try:
        compose(file, "up", "--detach", **variables)
        (id,) = compose(file, "ps", "--quiet", **variables).split()
        guest = Guest(id)
        guest.wait_healthy()
        yield guest
    finally:
        compose(file, "down", "--volumes", **variables)


@pytest.mark.parametrize("file", ["laptop.yaml", "volume.yaml"])
def test_a_file_for_this_machine_starts_a_workspace_that_works_and_survives_a_restart(file: str) -> None:
    with up(file) as guest:
        guest.inject(archive_of({"index.html": b"<h1>Hello</h1>"}))
        guest.call("start")
        assert guest.output("curl -sS http://127.0.0.1:4321/ | grep -c Hello") == "1"
        assert json.loads(guest.get("/ready", token=False)[1])["state"] == "ready"
        guest.inject(archive_of({"index.html": b"<h1>Again</h1>"}))
        assert guest.output("cat index.html") == "<h1>Again</h1>"
        eventually("the engine calls it healthy", lambda: guest.state("Health.Status") == "healthy")
        docker("restart", guest.id)
        guest.wait_healthy()
        assert guest.output("cat index.html") == "<h1>Again</h1>"


def test_the_blueprint_says_what_render_needs() -> None:
    (service,) = render()["services"]
    assert (service["type"], service["runtime"]) == ("web", "docker")
    assert Path(REPOSITORY, service["dockerfilePath"]).is_file()
    assert service["healthCheckPath"] == "/health"
    variables = {each["key"]: each for each in service["envVars"]}
    assert variables["TOOL_SERVER_TOKEN"] == {"key": "TOOL_SERVER_TOKEN", "generateValue": True}
    assert variables["PORT"]["value"] == "3001"
    assert service["disk"]["mountPath"] == "/app"


def render() -> dict[str, Any]:
    """Render's file. No tool of theirs is a package anywhere, so a YAML reader has to do."""
    found: dict[str, Any] = yaml.safe_load((FILES / "render.yaml").read_text())
    return found
