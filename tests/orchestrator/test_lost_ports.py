"""A port that another program takes between the choice and the start: the next wish is taken instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends import Backend, Guest, Launch
from orchestrator.paths import PathManager
from orchestrator.ports import Wish
from orchestrator.records import Records
from orchestrator.sessions import PortWishes, Sessions
from protocol.errors import Busy
from tests.orchestrator.test_sessions import ANN, DictionaryBackend
from tests.ports import free_port


class LosesPorts(DictionaryBackend):
    """On a host where somebody takes each of these ports just before the sandbox would."""

    def __init__(self, *lost: int) -> None:
        super().__init__()
        self.lost = set(lost)
        self.asked: list[int] = []

    async def create(self, launch: Launch) -> Guest:
        self.asked.append(launch.dev_port)
        for port in (launch.dev_port, launch.tool_port):
            if port in self.lost:
                raise Busy(f"port {port} is taken", lost_port=port)
        return await super().create(launch)


def sessions_on(backend: LosesPorts, data: Path) -> Sessions:
    drivers: dict[str, Backend] = {backend.name: backend}
    return Sessions(PathManager(data), Records(data / "r.sqlite3"), drivers)


def free_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


async def test_the_next_wish_is_taken_and_nothing_of_the_lost_ones_stays(tmp_path: Path) -> None:
    first, second, third, tool, other_tool = free_ports(5)
    backend = LosesPorts(first, second, tool)
    sessions = sessions_on(backend, tmp_path)
    wishes = PortWishes(tool=Wish(tool, (other_tool,)), dev=Wish(first, (second, third)))
    record = await sessions.begin(ANN, "site", wishes, "dictionary")
    assert (record.dev_port, record.tool_port) == (third, other_tool)
    assert backend.asked[0] == first
    assert [seen.record.session_id for seen in await sessions.list(ANN, stopped=True)] == [record.session_id]


@pytest.mark.parametrize("fallbacks", [0, 1])
async def test_when_every_wish_is_lost_it_is_told(fallbacks: int, tmp_path: Path) -> None:
    ports = free_ports(1 + fallbacks)
    backend = LosesPorts(*ports)
    sessions = sessions_on(backend, tmp_path)
    wishes = PortWishes(tool=Wish(0), dev=Wish(ports[0], tuple(ports[1:])))
    with pytest.raises(Busy, match=f"port {ports[-1]} is taken"):
        await sessions.begin(ANN, "site", wishes, "dictionary")
    assert backend.asked == ports
    assert await sessions.list(ANN, stopped=True) == []


async def test_another_reason_to_be_busy_is_no_lost_port(tmp_path: Path) -> None:
    first, second = free_ports(2)
    backend = LosesPorts()
    backend.fails = Busy("the registry is busy")
    wishes = PortWishes(tool=Wish(0), dev=Wish(first, (second,)))
    with pytest.raises(Busy, match="registry"):
        await sessions_on(backend, tmp_path).begin(ANN, "site", wishes, "dictionary")
    assert backend.asked == [first]
