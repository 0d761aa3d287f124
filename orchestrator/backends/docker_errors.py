"""What a Docker engine refuses, as a sentence that names the fix. Pure.

The engine tells most of its reasons in prose only, so prose is what is looked at. What is not known here goes
on in the engine's own words.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from protocol.errors import AlreadyExists, Busy, Conflict, NoSpace, NotFound, ToolError, Unavailable

NO_PACKAGE = (
    "the docker backend needs the package aiodocker; install it by `pip install 'workspace-core[docker]'`"
)
NO_ENGINE = "no Docker engine was found; start one by `systemctl start docker`, or name one in DOCKER_HOST"


def refusal(status: int, message: str, asked_for: str = "") -> ToolError:
    """The error for an engine's answer; ``asked_for`` is the image or runtime that was wanted.

    >>> refusal(404, "No such image: workspace-core:latest", "workspace-core:latest")
    NotFound("the engine has no image 'workspace-core:latest'; build it by `make image`, or load it there")
    """
    said = message.strip()
    for sign, made in _KNOWN:
        if re.search(sign, said, re.IGNORECASE):
            return made(said, asked_for)
    return Unavailable(f"the Docker engine refused: {said}", status=status)


def remote(host: str) -> ToolError:
    """Ports are published on the engine's own loopback, so it has to be this machine's."""
    return Unavailable(
        f"the Docker engine at {host} is on another machine, whose loopback is not reached from here; "
        "unset DOCKER_HOST, or run the orchestrator there",
        host=host,
    )


def open_network(name: str) -> ToolError:
    """A network of that name is there, and it is not one that keeps containers apart."""
    return Unavailable(
        f"the Docker network {name!r} lets its containers reach each other; remove it by `docker network rm "
        f"{name}`, or choose another by WORKSPACE_DOCKER_NETWORK",
        network=name,
    )


def several_networks(name: str) -> ToolError:
    """They did not become one."""
    return Unavailable(
        f"the engine has several networks called {name!r}, so no container starts on any; look at them by "
        f"`docker network ls --filter name={name}`, and remove all but one by their ids",
        network=name,
    )


def _ambiguous(said: str, _: str) -> ToolError:
    return Conflict(f"the engine has several networks of one name ({said})")


def _no_network(said: str, _: str) -> ToolError:
    return Conflict(f"the network of a container was removed meanwhile ({said})")


def _permission(said: str, _: str) -> ToolError:
    return Unavailable(
        "this user may not speak to the Docker engine; let them by `sudo usermod -aG docker $USER` and a new "
        f"login, or run a rootless engine ({said})"
    )


def _silent(said: str, _: str) -> ToolError:
    return Unavailable(f"no Docker engine answers; start it by `systemctl start docker` ({said})")


def _no_image(said: str, image: str) -> ToolError:
    return NotFound(
        f"the engine has no image {image!r}; build it by `make image`, or load it there", image=image
    )


def _no_file(said: str, _: str) -> ToolError:
    return NotFound(f"the container has no such file ({said})")


def _no_runtime(said: str, _: str) -> ToolError:
    return NotFound(
        f"{said}; add it to the engine's /etc/docker/daemon.json and restart that, or unset "
        "WORKSPACE_DOCKER_RUNTIME"
    )


def _port_taken(said: str, _: str) -> ToolError:
    """
    >>> _port_taken("Bind for 127.0.0.1:4321 failed: port is already allocated", "").details
    {'lostPort': 4321}
    """
    found = _PORT.search(said)
    return Busy(
        f"a port of this host is taken; stop what listens on it, or choose another ({said})",
        **({"lost_port": int(found[1])} if found else {}),
    )


_PORT = re.compile(r"127\.0\.0\.1:([0-9]+)")


def _name_taken(said: str, _: str) -> ToolError:
    return AlreadyExists(f"the Docker engine has one of that name already ({said})")


def _no_space(said: str, _: str) -> ToolError:
    return NoSpace(f"the engine's disk is full; make room there by `docker system prune` ({said})")


def _no_room(said: str, _: str) -> ToolError:
    return Unavailable(
        f"the engine has no addresses left for a network; free some by `docker network prune` ({said})"
    )


_KNOWN: tuple[tuple[str, Callable[[str, str], ToolError]], ...] = (
    (r"\bnetwork \S+ not found", _no_network),
    ("permission denied", _permission),
    ("cannot connect to docker engine", _silent),
    ("no such image", _no_image),
    ("could not find the file|no such container:path", _no_file),
    ("is already in use by container", _name_taken),
    ("unknown runtime|invalid runtime", _no_runtime),
    ("port is already allocated|address already in use", _port_taken),
    ("is ambiguous", _ambiguous),
    ("non-overlapping ipv4", _no_room),
    ("no space left on device", _no_space),
)
