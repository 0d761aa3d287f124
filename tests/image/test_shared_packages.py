"""Packages that the host installed in advance, in containers that can only read them."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.support import IMAGE, remove_network
from tests.orchestrator.live import Host, get

NETWORK = f"tests-of-workspace-core-{secrets.token_hex(4)}"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str) -> Iterator[Host]:
    """A data directory; containers and network are gone afterwards."""
    for name, value in {"WORKSPACE_DOCKER_NETWORK": NETWORK, "WORKSPACE_DOCKER_IMAGE": IMAGE}.items():
        monkeypatch.setenv(name, value)
    host = Host(tmp_path)
    yield host
    host.inside("down", "--all", "--remove")
    remove_network(NETWORK)


def test_a_warmed_template_is_not_installed_again_and_no_container_can_change_its_packages(
    host: Host,
) -> None:
    (warmed,) = host.json("template", "warm", "vite-react-ts", "--backend", "docker")
    pack = Path(warmed["path"])
    assert pack == host.data / "cache/.store" / f"{warmed['key']}.pack"
    before = pack.read_bytes()
    with host.up("vite-react-ts", "--backend", "docker") as up:
        page = get(up.ready().said["previewUrl"])[1]
        assert b"/src/main.tsx" in page
        again = host.json("call", "install", json.dumps({"offline": True}))["store"]
        assert (again["outcome"], again["layer"], again["key"]) == ("hit", "shared", warmed["key"])
        cache = host.inside("exec", "--", "ls", "node_modules/.vite/deps/_metadata.json")
        assert cache.returncode == 0, "all containers have one root, so Vite's cache comes along"
        for line in (f"echo x >> /tools/host-store/{pack.name}", f"rm /tools/host-store/{pack.name}"):
            assert host.inside("exec", "--", line).returncode != 0
        up.signal(signal.SIGINT)
    assert pack.read_bytes() == before
