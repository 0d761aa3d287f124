"""Which records go: the limits hold, the oldest go first, and nobody's reading is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import Limits
from toolserver.system.retention import Kept, too_many

NOW = 1000.0
LIMITS = Limits(max_kept_processes=4, max_kept_output_in_all_bytes=100, max_kept_process_age_ms=500_000)

kept = st.builds(
    Kept,
    id=st.uuids().map(str),
    ended=st.floats(0, NOW),
    bytes=st.integers(0, 60),
    open=st.booleans(),
    followed=st.booleans(),
)
records = st.lists(kept, max_size=12, unique_by=lambda each: each.id)


@given(records)
def test_what_is_left_fits_the_limits_unless_it_is_being_read(records: list[Kept]) -> None:
    gone = set(too_many(records, NOW, LIMITS))
    left = [each for each in records if each.id not in gone]
    if any(not each.followed for each in left):
        assert len(left) <= LIMITS.max_kept_processes
        assert sum(each.bytes for each in left) <= LIMITS.max_kept_output_in_all_bytes
    assert all(each.followed or each.open or NOW - each.ended <= 500 for each in left)


@given(records)
def test_what_somebody_reads_stays(records: list[Kept]) -> None:
    assert not set(too_many(records, NOW, LIMITS)) & {each.id for each in records if each.followed}


@given(records)
def test_nothing_goes_while_something_older_of_its_kind_stays(records: list[Kept]) -> None:
    gone = set(too_many(records, NOW, LIMITS))
    free = [each for each in records if not each.followed]
    for kind in (True, False):
        stays = [each.ended for each in free if each.open is kind and each.id not in gone]
        goes = [each.ended for each in free if each.open is kind and each.id in gone]
        assert not (stays and goes) or max(goes) <= min(stays)


@given(records)
def test_nothing_goes_without_need(records: list[Kept]) -> None:
    gone = too_many(records, NOW, LIMITS)
    if gone:
        last = next(each for each in records if each.id == gone[-1])
        left = [each for each in records if each.id not in gone[:-1]]
        assert (
            len(left) > LIMITS.max_kept_processes
            or sum(each.bytes for each in left) > LIMITS.max_kept_output_in_all_bytes
            or NOW - last.ended > 500
        )
