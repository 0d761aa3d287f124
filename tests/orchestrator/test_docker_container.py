"""What a container is told to be, and how an engine's words are read: no engine takes part."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends import Guest, GuestState, Launch
from orchestrator.backends.docker import DockerBackend
from orchestrator.backends.docker_container import (
    MIB,
    Settings,
    container_config,
    container_name,
    guest_of,
    labels_of,
)
from orchestrator.backends.docker_errors import refusal
from orchestrator.paths import PathManager, SessionId, UserId
from orchestrator.plan import GuestProfile, WorkspaceSpec, launch_plan
from protocol.errors import (
    AlreadyExists,
    Busy,
    Conflict,
    InvalidRequest,
    NoSpace,
    NotFound,
    ToolError,
    Unavailable,
)

LAUNCH = Launch(
    user_id=UserId("ann"),
    session_id=SessionId("s1"),
    token="t" * 20,
    tool_port=0,
    dev_port=4321,
    environment={"GREETING": "hello", "TOOL_SERVER_HOST": "evil"},
)


def config(**settings: Any) -> dict[str, Any]:
    return container_config(Settings(**settings), "o", LAUNCH, "n")


def listed(state: str = "running", ports: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """As an engine tells of it."""
    networks = {"n": {"IPAddress": "172.18.0.2"}} if state == "running" else {"n": {"IPAddress": ""}}
    return {
        "Id": "c1",
        "State": state,
        "Labels": labels_of("o", LAUNCH),
        "Ports": ports or [],
        "NetworkSettings": {"Networks": networks},
    }


def test_settings_come_from_the_environment_and_a_wrong_one_is_named() -> None:
    told = {
        "WORKSPACE_DOCKER_IMAGE": "mine:1",
        "WORKSPACE_DOCKER_RUNTIME": "runsc",
        "HTTPS_PROXY": "p",
        "X": "x",
    }
    settings = Settings.from_env(told)
    assert (settings.image, settings.runtime, settings.environment) == (
        "mine:1",
        "runsc",
        {"HTTPS_PROXY": "p"},
    )
    assert Settings.from_env({}) == Settings()
    for wrong in ("lots", "-1", "inf", "nan", "64"):
        with pytest.raises(InvalidRequest, match="WORKSPACE_DOCKER_MEMORY_MIB must be a number from 128 on"):
            Settings.from_env({"WORKSPACE_DOCKER_MEMORY_MIB": wrong})


def test_the_memory_a_workspace_gets_is_at_least_a_gibibyte() -> None:
    assert Settings().memory_bytes >= 1024 * MIB


def test_what_a_launch_sets_never_replaces_the_daemons_own() -> None:
    environment = config()["Env"]
    assert "GREETING=hello" in environment
    assert [each for each in environment if each.startswith("TOOL_SERVER_HOST=")] == [
        "TOOL_SERVER_HOST=0.0.0.0"
    ]


def test_the_engine_is_told_the_tokens_digest_and_never_the_token() -> None:
    told = json.dumps(config())
    assert LAUNCH.token not in told
    assert f"TOOL_SERVER_TOKEN_SHA256={hashlib.sha256(LAUNCH.token.encode()).hexdigest()}" in told


def test_places_and_owner_are_the_plans_and_an_image_of_its_own_is_taken() -> None:
    plan = launch_plan(
        WorkspaceSpec(copy_cwd=True, user_cwd=Path("/")),
        GuestProfile("/home/ann", owner="7:8"),
        copy_git=False,
    )
    made = container_config(Settings(), "o", replace(LAUNCH, plan=plan), "n", "derived:1")
    assert (made["Image"], made["User"], made["WorkingDir"]) == ("derived:1", "7:8", "/home/ann/workspace")
    assert {"HOME=/home/ann", "WORKSPACE_ROOT=/home/ann/workspace"} <= {*made["Env"]}
    mounts = [each["Target"] for each in made["HostConfig"]["Mounts"]]
    assert mounts == ["/home/ann", "/var/lib/workspace"]
    usual = config()
    assert (usual["Image"], usual["User"], usual["WorkingDir"]) == (
        "workspace-core:latest",
        "node:node",
        "/app",
    )
    assert [each["Target"] for each in usual["HostConfig"]["Mounts"]] == [
        "/app",
        "/home/node",
        "/var/lib/workspace",
    ]


def test_a_hosts_packages_are_mounted_to_be_read_and_asked_for_before_the_images() -> None:
    made = config(shared_store=Path("/data/cache/.store"))
    assert made["HostConfig"]["Mounts"][-1] == {
        "Type": "bind",
        "Source": "/data/cache/.store",
        "Target": "/tools/host-store",
        "ReadOnly": True,
    }
    assert "TOOL_SERVER_SHARED_STORE=/tools/host-store:/tools/store" in made["Env"]
    assert "TOOL_SERVER_SHARED_STORE=/tools/store" in config()["Env"]


def test_a_promised_port_is_bound_and_one_without_promise_is_the_engines_choice() -> None:
    assert config()["HostConfig"]["PortBindings"] == {
        "3001/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
        "4321/tcp": [{"HostIp": "127.0.0.1", "HostPort": "4321"}],
    }


def test_a_runtime_and_a_ca_bundle_are_there_when_asked_for_only() -> None:
    plain, more = config(), config(runtime="runsc", extra_ca=Path("/etc/ca.pem"))
    assert "Runtime" not in plain["HostConfig"]
    assert more["HostConfig"]["Runtime"] == "runsc"
    (bound,) = [each for each in more["HostConfig"]["Mounts"] if each["Type"] == "bind"]
    assert (bound["Source"], bound["ReadOnly"]) == ("/etc/ca.pem", True)
    assert f"EXTRA_CA_BUNDLE={bound['Target']}" in more["Env"]


@pytest.mark.parametrize("id", ["a/b", "a/" + "x" * 128, "-/-", "a.b/c", "_/_"])
def test_every_id_makes_a_name_that_an_engine_takes(id: str) -> None:
    name = container_name("o", id)
    assert len(name) <= 128
    assert name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    assert name[0].isalpha()


def test_names_of_different_sandboxes_differ() -> None:
    ids = ["a/b", "a/c", "c/b", "a-b/c", "a/b-c", "a/" + "x" * 127 + "1", "a/" + "x" * 127 + "2"]
    assert len({container_name(owner, id) for owner in "op" for id in ids}) == 2 * len(ids)


def test_a_guest_is_read_from_labels_and_loopback_ports() -> None:
    ports = [
        {"IP": "127.0.0.1", "PrivatePort": 3001, "PublicPort": 49153, "Type": "tcp"},
        {"IP": "0.0.0.0", "PrivatePort": 4321, "PublicPort": 80, "Type": "tcp"},
        {"PrivatePort": 9, "Type": "tcp"},
    ]
    assert guest_of(listed(ports=ports)) == Guest(
        id="ann/s1",
        backend="docker",
        user_id=UserId("ann"),
        session_id=SessionId("s1"),
        tool_port=3001,
        dev_port=4321,
        labels={"container": "c1", "published.3001": "49153", "address": "172.18.0.2"},
    )


@pytest.mark.parametrize("state", ["created", "exited", "dead", "removing"])
def test_one_that_does_not_run_is_dead_and_reached_nowhere(state: str, tmp_path: Path) -> None:
    guest = guest_of(listed(state))
    assert guest.state is GuestState.DEAD
    with pytest.raises(Unavailable, match="does not run"):
        DockerBackend(PathManager(tmp_path), Settings()).endpoint(guest, guest.tool_port)


async def test_a_data_directory_without_containers_asks_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    driver = DockerBackend(PathManager(tmp_path), Settings())
    assert await driver.guests() == []
    assert not (await driver.destroy("ann/s1")).found
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("status", "said", "kind", "fix"),
    [
        (
            900,
            "Cannot connect to Docker Engine via unix:///x [Permission denied]",
            Unavailable,
            "usermod -aG docker",
        ),
        (
            900,
            "Cannot connect to Docker Engine via unix:///x [Connection refused]",
            Unavailable,
            "systemctl start",
        ),
        (404, "No such image: i:1", NotFound, "make image"),
        (400, "Unknown runtime specified runsc", NotFound, "daemon.json"),
        (400, "unknown or invalid runtime name: runsc", NotFound, "daemon.json"),
        (500, "Bind for 127.0.0.1:1 failed: port is already allocated", Busy, "choose another"),
        (500, "listen tcp4 127.0.0.1:1: bind: address already in use", Busy, "choose another"),
        (
            409,
            'The container name "/x" is already in use by container "y"',
            AlreadyExists,
            "one of that name",
        ),
        (500, "network n is ambiguous (2 matches found on name)", Conflict, "several networks"),
        (404, "network n1 not found", Conflict, "was removed meanwhile"),
        (500, "write /x: no space left on device", NoSpace, "docker system prune"),
        (404, "Could not find the file /x in container y", NotFound, "no such file"),
        (403, "all predefined address pools: non-overlapping IPv4", Unavailable, "network prune"),
        (500, "the moon is full", Unavailable, "the moon is full"),
    ],
)
def test_each_refusal_of_an_engine_names_its_fix(
    status: int, said: str, kind: type[ToolError], fix: str
) -> None:
    error = refusal(status, said, "i:1")
    assert type(error) is kind
    assert fix in error.message


def test_a_port_that_was_lost_is_told_by_its_number() -> None:
    for said in (
        "Bind for 127.0.0.1:4321 failed: port is already allocated",
        "Error starting userland proxy: listen tcp4 127.0.0.1:4321: bind: address already in use",
    ):
        assert refusal(500, said).details == {"lostPort": 4321}
