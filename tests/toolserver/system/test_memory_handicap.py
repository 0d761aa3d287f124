"""When memory runs out, commands go before the daemon."""

from __future__ import annotations

from pathlib import Path

from protocol.limits import Limits
from toolserver.system.processes import ProcessTable

OWN = Path("/proc/self/oom_score_adj")


async def test_a_program_and_what_it_starts_are_ended_before_the_daemon(tmp_path: Path) -> None:
    before = int(OWN.read_text())
    table = ProcessTable(Limits(), tmp_path)
    table.open()
    try:
        process = table.start(
            ["sh", "-c", f"cat {OWN}; (cat {OWN})"], cwd=str(tmp_path), env={"PATH": "/bin"}
        )
        await process.wait()
        told = process.stdout.read(0, 100).data.split()
    finally:
        await table.close()
    assert [int(each) for each in told] == [min(before + 500, 1000)] * 2
    assert int(OWN.read_text()) == before
