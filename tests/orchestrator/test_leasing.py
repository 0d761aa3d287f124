"""Who is at work on a session: several orchestrators, some of them dead, hung, or of another time."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import processes
from orchestrator.leases import LEASE_SECONDS, Clock, Holder, Lease, Purpose
from orchestrator.leasing import Leasing
from orchestrator.records import Records
from orchestrator.session_states import Event, State
from protocol.errors import Busy, Conflict, NotFound
from tests.orchestrator.test_records import ANN, record

HERE = Holder.of_this_process()


class Machine:
    """A registry, a clock that is set by hand, and orchestrators on them."""

    def __init__(self, path: Path) -> None:
        self.records = Records(path / "r.sqlite3")
        self.seconds = 1000.0

    def orchestrator(self, holder: Holder | None = None) -> Leasing:
        """Another one."""
        return Leasing(self.records, holder or replace(HERE, tag="other"), Clock(lambda: self.seconds))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
async def at_work(machine: Machine) -> Leasing:
    """One that is starting ``s1``."""
    leasing = machine.orchestrator(HERE)
    await leasing.add(lambda taken: record())
    return leasing


async def test_nobody_else_ends_what_is_being_made(machine: Machine, at_work: Leasing) -> None:
    with pytest.raises(Busy, match=rf"s1 is being started by process {HERE.pid}; wait until that is done"):
        await machine.orchestrator().claim("s1", Purpose.STOP, Event.STOP)
    assert machine.records.get(ANN, "s1").state is State.CREATING
    await at_work.move("s1", Event.MADE)


async def test_a_start_that_has_a_sandbox_may_be_ended_and_its_starter_is_told(
    machine: Machine, at_work: Leasing
) -> None:
    await at_work.move("s1", Event.MADE)
    other = machine.orchestrator()
    await other.claim("s1", Purpose.STOP, Event.STOP)
    with pytest.raises(Conflict, match=r"s1 was taken over by process \d+, which has it stopped"):
        await at_work.move("s1", Event.READY, last=True)
    await other.move("s1", Event.ENDED, last=True)
    with pytest.raises(Conflict, match="s1 is stopped: it was ended meanwhile"):
        await at_work.move("s1", Event.READY, last=True)


async def test_of_two_who_end_it_one_does_and_the_other_waits(machine: Machine, at_work: Leasing) -> None:
    await at_work.move("s1", Event.MADE)
    await at_work.move("s1", Event.READY, last=True)
    await at_work.claim("s1", Purpose.STOP, Event.STOP)
    with pytest.raises(Busy, match="s1 is being stopped by process"):
        await machine.orchestrator().claim("s1", Purpose.STOP, Event.STOP)


async def test_of_many_who_resume_it_one_does(machine: Machine, at_work: Leasing) -> None:
    await at_work.claim("s1", Purpose.START)
    for event in (Event.STOP, Event.ENDED):
        await at_work.move("s1", event, last=True)
    many = [machine.orchestrator(replace(HERE, tag=f"t{number}")) for number in range(8)]
    told = await asyncio.gather(
        *(each.claim("s1", Purpose.START, Event.RESUME) for each in many), return_exceptions=True
    )
    assert [isinstance(each, Busy | Conflict) for each in told].count(False) == 1


async def test_one_that_was_killed_is_followed_at_once(machine: Machine) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    seen = processes.look_up(process.pid)
    assert seen is not None
    doomed = replace(HERE, pid=process.pid, started=seen.started)
    await machine.orchestrator(doomed).add(lambda taken: record())
    assert await machine.orchestrator().unattended() == []
    process.kill()
    await process.wait()
    assert [each.session_id for each in await machine.orchestrator().unattended()] == ["s1"]


async def test_one_that_hangs_is_followed_when_its_lease_runs_out(machine: Machine, at_work: Leasing) -> None:
    machine.seconds += LEASE_SECONDS - 1
    assert await machine.orchestrator().unattended() == []
    machine.seconds += 1
    assert len(await machine.orchestrator().unattended()) == 1
    await machine.orchestrator().claim("s1", Purpose.STOP, Event.STOP)
    with pytest.raises(Conflict, match="s1 was taken over"):
        await at_work.move("s1", Event.MADE)


async def test_a_lease_that_is_renewed_goes_on(machine: Machine, at_work: Leasing) -> None:
    machine.seconds += LEASE_SECONDS - 1
    machine.records.renew(HERE, machine.seconds + LEASE_SECONDS)
    machine.seconds += LEASE_SECONDS - 1
    assert await machine.orchestrator().unattended() == []


async def test_of_another_boot_no_lease_counts_whatever_its_clock_says(machine: Machine) -> None:
    before = machine.orchestrator(replace(HERE, boot="the-boot-before"))
    machine.seconds = 1e9
    await before.add(lambda taken: record())
    machine.seconds = 5.0
    assert len(await machine.orchestrator().unattended()) == 1


async def test_where_processes_cannot_be_compared_only_the_clock_counts(machine: Machine) -> None:
    elsewhere = replace(HERE, namespace="pid:[1]", pid=2**22 - 1)
    await machine.orchestrator(elsewhere).add(lambda taken: record())
    assert await machine.orchestrator().unattended() == []
    machine.seconds += LEASE_SECONDS
    assert len(await machine.orchestrator().unattended()) == 1


async def test_a_claim_on_a_state_that_has_passed_is_refused(machine: Machine, at_work: Leasing) -> None:
    await at_work.move("s1", Event.MADE)
    await at_work.move("s1", Event.READY, last=True)
    with pytest.raises(Conflict, match="s1 is running by now"):
        await machine.orchestrator().claim("s1", Purpose.STOP, seen=State.INITIALIZING)


async def test_what_was_removed_meanwhile_is_not_found(machine: Machine, at_work: Leasing) -> None:
    machine.records.remove("s1")
    with pytest.raises(NotFound, match="s1 was removed meanwhile"):
        await at_work.move("s1", Event.MADE)


async def test_a_claim_that_is_cancelled_holds_nothing(machine: Machine, at_work: Leasing) -> None:
    await at_work.move("s1", Event.MADE)
    await at_work.move("s1", Event.READY, last=True)
    claiming = asyncio.create_task(at_work.claim("s1", Purpose.STOP))
    await asyncio.sleep(0)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    await machine.orchestrator().claim("s1", Purpose.STOP, Event.STOP)


async def test_a_claim_that_is_cancelled_takes_nothing_from_who_is_at_work(
    machine: Machine, at_work: Leasing
) -> None:
    claiming = asyncio.create_task(at_work.claim("s1", Purpose.STOP))
    await asyncio.sleep(0)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    with pytest.raises(Busy, match="s1 is being started"):
        await machine.orchestrator().claim("s1", Purpose.STOP)


class Failing(Records):
    """A registry that cannot be opened for a moment."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.failures = 1
        self.renewed = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def renew(self, holder: Holder, expires: float) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        super().renew(holder, expires)
        self.loop.call_soon_threadsafe(self.renewed.set)


async def test_a_lease_is_renewed_again_after_the_machine_refused_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.leasing.RENEW_SECONDS", 0.001)
    records = Failing(tmp_path / "r.sqlite3")
    leasing = Leasing(records, HERE)
    await leasing.add(lambda taken: record())
    try:
        await asyncio.wait_for(records.renewed.wait(), 60)
    finally:
        await leasing.close()


def test_a_lease_survives_being_written_down(machine: Machine) -> None:
    lease = Lease(HERE, Purpose.START, 12.5)
    machine.records.add(lambda taken: record(), lease)
    seen: list[Lease] = []

    def over(lease: Lease) -> bool:
        seen.append(lease)
        return True

    machine.records.unattended(over)
    assert seen == [lease]
