"""What an engine refuses is told, also where it might have been done by somebody else. No engine is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import aiodocker
import pytest

from orchestrator.backends.docker_engine import Engine
from protocol.errors import Unavailable


class Clinging:
    """A container that the engine does not let go."""

    async def delete(self, **_: Any) -> None:
        raise aiodocker.DockerError(500, "the device is in use")

    async def show(self) -> dict[str, Any]:
        return {}


async def test_why_a_container_is_not_removed_is_told_when_nobody_else_removes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.backends.docker_engine.ANSWER_SECONDS", 0.01)
    containers = SimpleNamespace(container=lambda _: Clinging())
    engine = Engine(cast(aiodocker.Docker, SimpleNamespace(containers=containers)))
    with pytest.raises(Unavailable, match="the Docker engine refused: the device is in use"):
        await engine.remove("c1")
