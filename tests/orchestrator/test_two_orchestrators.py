"""Two orchestrators on one registry, at the same time, each a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from protocol.errors import Busy, NotFound
from tests.orchestrator.mortal import ANN, WISHES, sessions_in

EACH = 6
"""Sessions that each of them begins."""


async def begin_and_race(data: Path) -> None:
    """Begin some, wait for the other one to have done so too, then end all there are, the other's as well."""
    sessions = sessions_in(data)
    begun = await asyncio.gather(*(sessions.begin(ANN, "site", WISHES, "local") for _ in range(EACH)))
    ready = await asyncio.gather(*map(sessions.ready, begun))
    print(json.dumps([[each.session_id, each.tool_port, each.dev_port] for each in ready]), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    records = [seen.record for seen in await sessions.list(ANN)]
    told = await asyncio.gather(*map(sessions.end, records), return_exceptions=True)
    print(json.dumps([type(each).__name__ for each in told]), flush=True)


async def orchestrator(data: Path) -> asyncio.subprocess.Process:
    """One of them."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.orchestrator.test_two_orchestrators", str(data)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def said(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout is not None
    return json.loads(await process.stdout.readline())


async def test_they_share_no_port_lose_no_session_and_end_each_once(tmp_path: Path) -> None:
    both = [await orchestrator(tmp_path) for _ in range(2)]
    begun = [each for process in both for each in await said(process)]
    assert len({session for session, *_ in begun}) == 2 * EACH
    assert len({port for _, *ports in begun for port in ports}) == 4 * EACH
    sessions = sessions_in(tmp_path)
    assert {seen.record.session_id for seen in await sessions.list(ANN)} == {each[0] for each in begun}
    for process in both:
        assert process.stdin is not None
        process.stdin.write(b"\n")
    outcomes = Counter([each for process in both for each in await said(process)])
    assert [await process.wait() for process in both] == [0, 0]
    # Who came second was told that somebody is at it, or found it stopped and stopped it once more.
    assert set(outcomes) <= {"Destroyed", Busy.__name__, NotFound.__name__}
    assert outcomes["Destroyed"] >= 2 * EACH
    seen = await sessions.list(ANN, stopped=True)
    assert [each.state for each in seen] == ["stopped"] * 2 * EACH
    for each in seen:
        await sessions.destroy(ANN, each.record.session_id)
    assert list(tmp_path.glob("workspaces/ann/*")) == []


if __name__ == "__main__":
    asyncio.run(begin_and_race(Path(sys.argv[1])))
