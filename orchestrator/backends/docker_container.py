"""What a workspace's container is told to be: names, labels, limits. Pure, no engine is asked here.

Everything that narrows a container stands in ``container_config``, once. What the engine answers is read here
too, into a ``Guest``: labels are all that an orchestrator needs to find a container again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.backends import Guest, GuestState, Launch, guest_id
from orchestrator.paths import SessionId, UserId, session_id, user_id
from orchestrator.plan import DEFAULT_GUEST_HOME, WorkspacePlan
from orchestrator.workspace_config import CORE_IMAGE_ROOT
from protocol.errors import InvalidRequest
from protocol.routes import DEFAULT_PORT

NAME = "docker"
LOOPBACK = "127.0.0.1"
MIB = 1024 * 1024

OWNER = "workspace-core.owner"
"""Which data directory a container belongs to: engines are shared."""
USER = "workspace-core.user"
SESSION = "workspace-core.session"
TOOL_PORT = "workspace-core.tool-port"
DEV_PORT = "workspace-core.dev-port"

CONTAINER, ADDRESS, PUBLISHED = "container", "address", "published."
"""Labels of a Guest: the container's id, its address on the bridge, and per port the one of this host."""

CORE_PLAN = WorkspacePlan(False, Path("/"), DEFAULT_GUEST_HOME, CORE_IMAGE_ROOT, CORE_IMAGE_ROOT)
"""Of a launch that says nothing of places."""
_STATE = "/var/lib/workspace"
_EXTRA_CA = "/etc/extra-ca.pem"
_IMAGE_STORE = "/tools/store"
"""What an image may bring along."""
_HOST_STORE = "/tools/host-store"
_CPU_PERIOD_MICROSECONDS = 100_000
_RUNS = ("running", "paused", "restarting")

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "npm_config_registry")


@dataclass(frozen=True)
class Settings:
    """What is the same for all containers of this backend."""

    image: str = "workspace-core:latest"
    network: str = "workspace-core"
    """Made when it is missing."""
    memory_bytes: int = 2048 * MIB
    """A ceiling, nothing is reserved. An Astro site alone takes 490 MiB, and npm as much before it."""
    cpus: float = 2.0
    pids: int = 1024
    """Threads count: each Node process has a dozen."""
    runtime: str | None = None
    """One that the engine knows, such as ``runsc``; None is the engine's own default."""
    extra_ca: Path | None = None
    """A CA bundle of this host that the workspace shall trust too."""
    environment: Mapping[str, str] = field(default_factory=dict)
    shared_store: Path | None = None
    """A directory of this host with packages that every workspace may read."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """From WORKSPACE_DOCKER_*; raises InvalidRequest naming the variable.

        >>> Settings.from_env({"WORKSPACE_DOCKER_MEMORY_MIB": "1024"}).memory_bytes // MIB
        1024
        """
        read = _Reader(environ)
        bundle = environ.get("EXTRA_CA_BUNDLE") or environ.get("SSL_CERT_FILE")
        return cls(
            image=read.text("IMAGE", cls.image),
            network=read.text("NETWORK", cls.network),
            memory_bytes=int(read.number("MEMORY_MIB", cls.memory_bytes / MIB, least=128) * MIB),
            cpus=read.number("CPUS", cls.cpus, least=0.01),
            pids=int(read.number("PIDS", cls.pids, least=64)),
            runtime=read.text("RUNTIME", "") or None,
            extra_ca=Path(bundle).resolve() if bundle else None,
            environment={name: value for name, value in environ.items() if name.lower() in _PROXIES},
        )


@dataclass(frozen=True)
class _Reader:
    environ: Mapping[str, str]

    def text(self, name: str, default: str) -> str:
        return self.environ.get(f"WORKSPACE_DOCKER_{name}") or default

    def number(self, name: str, default: float, least: float) -> float:
        given = self.text(name, str(default))
        try:
            value = float(given)
        except ValueError:
            value = -1.0
        if not least <= value < float("inf"):
            raise InvalidRequest(f"WORKSPACE_DOCKER_{name} must be a number from {least:g} on, not {given!r}")
        return value


def split_guest_id(raw: str) -> tuple[UserId, SessionId]:
    """User and session of a guest's id, checked; raises InvalidRequest.

    >>> split_guest_id("ann/s1")
    ('ann', 's1')
    """
    user, _, session = raw.partition("/")
    return user_id(user), session_id(session)


def container_name(owner: str, guest: str) -> str:
    """The one name that this sandbox's container can have: the engine itself refuses a second of it.

    >>> container_name("o", "ann/session_20261121_093405_010203ff")
    'workspace-session_20261121_093405_010203ff-b50c2cc2fe67'
    """
    session = guest.partition("/")[2]
    return f"workspace-{session[:64]}-{hashlib.sha256(f'{owner}/{guest}'.encode()).hexdigest()[:12]}"


def inside_ports(launch: Launch) -> tuple[int, int]:
    """Tool server's and dev server's port inside, where all ports are free and "any" is the usual one.

    >>> from orchestrator.paths import user_id, session_id
    >>> inside_ports(Launch(user_id("u"), session_id("s"), "t", tool_port=0, dev_port=3001))
    (3002, 3001)
    """
    free = DEFAULT_PORT if launch.dev_port != DEFAULT_PORT else DEFAULT_PORT + 1
    return launch.tool_port or free, launch.dev_port


def labels_of(owner: str, launch: Launch) -> dict[str, str]:
    """What the container is found again by."""
    tool, dev = inside_ports(launch)
    return {
        OWNER: owner,
        USER: launch.user_id,
        SESSION: launch.session_id,
        TOOL_PORT: str(tool),
        DEV_PORT: str(dev),
    }


def plan_of(launch: Launch) -> WorkspacePlan:
    """Where things are in the container."""
    return launch.plan.workspace_plan if launch.plan else CORE_PLAN


def derived_tag(name: str) -> str:
    """What the image is called that only the container ``name`` is made from."""
    return f"workspace-derived:{name}"


def container_config(
    settings: Settings, owner: str, launch: Launch, network: str, image: str | None = None
) -> dict[str, Any]:
    """The body of the engine's ``POST /containers/create``; ``image`` is one made for this launch alone."""
    tool, dev = inside_ports(launch)
    plan = plan_of(launch)
    return {
        "Image": image or settings.image,
        "User": plan.owner,
        "WorkingDir": plan.workdir,
        "Env": [f"{name}={value}" for name, value in _environment(settings, launch).items()],
        "Labels": labels_of(owner, launch),
        "ExposedPorts": {f"{tool}/tcp": {}, f"{dev}/tcp": {}},
        "HostConfig": {
            "NetworkMode": network,
            "PortBindings": {
                f"{tool}/tcp": [_published(launch.tool_port)],
                f"{dev}/tcp": [_published(launch.dev_port)],
            },
            **_limits(settings),
            **_places(settings, plan),
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "RestartPolicy": {"Name": "no"},
            # What a workspace prints must not fill the host's disk.
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
            **({"Runtime": settings.runtime} if settings.runtime else {}),
        },
    }


def _published(port: int) -> dict[str, str]:
    # The port that the registry promised to this session; without a promise the engine takes a free one.
    return {"HostIp": LOOPBACK, "HostPort": str(port) if port else ""}


def _limits(settings: Settings) -> dict[str, Any]:
    return {
        "Memory": settings.memory_bytes,
        "MemorySwap": settings.memory_bytes,
        # Not NanoCpus: the engine refuses more of those than the machine has.
        "CpuPeriod": _CPU_PERIOD_MICROSECONDS,
        "CpuQuota": int(settings.cpus * _CPU_PERIOD_MICROSECONDS),
        "PidsLimit": settings.pids,
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
    }


def volumes(plan: WorkspacePlan) -> list[str]:
    """What may be written in, on the engine's disk: in memory, packages alone would fill the limit.

    An engine fills each from the image, so content and home of a derived one are there, with their owner.

    >>> from dataclasses import replace
    >>> volumes(CORE_PLAN), volumes(replace(CORE_PLAN, guest_path="/home/node/workspace"))
    (['/app', '/home/node', '/var/lib/workspace'], ['/home/node', '/var/lib/workspace'])
    """
    places = {plan.guest_path, plan.guest_home, _STATE}
    return sorted(each for each in places if not any(each.startswith(f"{above}/") for above in places))


def _places(settings: Settings, plan: WorkspacePlan) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [{"Type": "volume", "Target": place} for place in volumes(plan)]
    if settings.extra_ca:
        mounts.append(
            {"Type": "bind", "Source": str(settings.extra_ca), "Target": _EXTRA_CA, "ReadOnly": True}
        )
    if settings.shared_store:
        mounts.append(
            {"Type": "bind", "Source": str(settings.shared_store), "Target": _HOST_STORE, "ReadOnly": True}
        )
    return {
        "ReadonlyRootfs": True,
        "Mounts": mounts,
        # It is memory: filling it shall be "no space", and no reason to be killed.
        "Tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={settings.memory_bytes // 4}"},
    }


def _environment(settings: Settings, launch: Launch) -> dict[str, str]:
    tool, dev = inside_ports(launch)
    plan = plan_of(launch)
    return {
        **settings.environment,
        **({"EXTRA_CA_BUNDLE": _EXTRA_CA} if settings.extra_ca else {}),
        "TOOL_SERVER_SHARED_STORE": f"{_HOST_STORE}:{_IMAGE_STORE}"
        if settings.shared_store
        else _IMAGE_STORE,
        **launch.environment,
        "HOME": plan.guest_home,
        "WORKSPACE_ROOT": plan.guest_path,
        "TOOL_SERVER_HOST": "0.0.0.0",
        "TOOL_SERVER_PORT": str(tool),
        # All that the engine tells of it to whoever may ask.
        **launch.access,
        "DEV_SERVER_PORT": str(dev),
    }


def guest_of(listed: Mapping[str, Any]) -> Guest:
    """What the engine's ``GET /containers/json`` says of one of our containers."""
    labels = listed["Labels"]
    user, session = UserId(labels[USER]), SessionId(labels[SESSION])
    return Guest(
        id=guest_id(user, session),
        backend=NAME,
        user_id=user,
        session_id=session,
        tool_port=int(labels[TOOL_PORT]),
        dev_port=int(labels[DEV_PORT]),
        state=GuestState.RUNNING if listed["State"] in _RUNS else GuestState.DEAD,
        labels={CONTAINER: listed["Id"], **_ways(listed)},
    )


def _ways(listed: Mapping[str, Any]) -> dict[str, str]:
    networks = (listed.get("NetworkSettings") or {}).get("Networks") or {}
    address = next((each["IPAddress"] for each in networks.values() if each.get("IPAddress")), None)
    ports = sorted((each["PrivatePort"], each["PublicPort"]) for each in _loopback_ports(listed))
    published = {f"{PUBLISHED}{private}": str(public) for private, public in ports}
    return published | ({ADDRESS: address} if address else {})


def _loopback_ports(listed: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        each for each in listed.get("Ports") or [] if each.get("IP") == LOOPBACK and each.get("PublicPort")
    ]
