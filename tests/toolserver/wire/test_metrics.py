"""GET /metrics, read by Prometheus's own parser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.builder import Daemon, Http, Refusal, http_of, running, socket_of

Samples = dict[tuple[str, str], float]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("counted"), TOOL_SERVER_MAX_WRITE_BYTES="30") as daemon:
        yield daemon


async def samples(http: Http) -> Samples:
    """By name and by the values of the sorted labels, the name's prefix left out."""
    async with http.session.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = await response.text()
    families = text_string_to_metric_families(text)
    return {
        (
            each.name.removeprefix("toolserver_"),
            " ".join(value for _, value in sorted(each.labels.items())),
        ): each.value
        for family in families
        for each in family.samples
    }


async def test_operations_are_counted_by_outcome_with_their_durations(http: Http) -> None:
    before = await samples(http)
    await http.ok("write", path="a", content="x" * 20)
    await http.ok("write", path="b", content="x")
    await http.refused("write", path="a", content="x" * 40)
    after = await samples(http)

    def more(name: str, labels: str) -> float:
        return after[name, labels] - before.get((name, labels), 0)

    assert more("requests_total", "write ok") == 2
    assert more("requests_total", "write too_large") == 1
    assert more("request_duration_seconds_count", "write") == 3
    assert more("request_duration_seconds_bucket", "+Inf write") == 3
    assert 0 < more("request_duration_seconds_sum", "write") < 60
    assert more("limits_met_total", "maxWriteBytes") == 1
    assert more("received_bytes_total", "") > 0


async def test_what_goes_on_is_told(http: Http, daemon: Daemon) -> None:
    before = await samples(http)
    async with socket_of(daemon) as socket:
        await socket.send("c", "command", {"command": "head -c 100000 /dev/zero; cat", "stdinOpen": True})
        received = 0
        process_id = ""
        while received < 100_000:
            event = (await socket.next_of("c"))["event"]
            process_id = event.get("processId", process_id)
            received += len(event.get("data", ""))
        during = await samples(http)
        await http.ok("stop", processId=process_id)
        await socket.end_of("c")
    assert during["sockets", ""] == before["sockets", ""] + 1
    assert during["programs_running", ""] == before["programs_running", ""] + 1
    assert during["output_bytes_total", ""] >= before["output_bytes_total", ""] + 100_000
    assert during["requests_under_way", ""] == 1
    assert during["resident_memory_bytes", ""] > 2**24
    assert during["dev_server", "down"] == 1
    assert during["dev_server", "ready"] == 0
    names = {name for name, _ in during}
    assert {"loop_lag_seconds", "loop_lag_worst_seconds", "log_lines_dropped_total"} <= names
    assert during["audit_lines_lost_total", ""] == 0


async def test_it_needs_a_token(daemon: Daemon) -> None:
    async with http_of(daemon, Authorization="Bearer not-the-token-of-this") as stranger:
        async with stranger.session.get("/metrics") as response:
            assert Refusal.of(response.status, await response.json()).code == "unauthorized"
