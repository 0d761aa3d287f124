"""Which saves stay, and from which one a workspace is brought up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.save_rules import (
    ContentWish,
    FromSave,
    FromTemplate,
    Kept,
    Refused,
    Retention,
    SaveRecord,
    choose_content,
    new_name,
    newest_first,
    to_drop,
)

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def record(name: str, size: int) -> SaveRecord:
    return SaveRecord(
        name=name,
        number=1,
        created=NOW.isoformat(),
        workspace="w",
        session=None,
        format="gzip",
        size=size,
        sha256="",
        digest="",
        files=0,
    )


def save(number: int, *, days: float = 0, size: int = 10, written: int | None = None, tie: int = 0) -> Kept:
    created = NOW - timedelta(days=days)
    name = new_name(number, created, tie.to_bytes(4, "big"))
    return Kept(name, size, created, record(name, size if written is None else written))


SAVES = st.lists(
    st.builds(
        save,
        st.integers(1, 12),
        days=st.floats(-400, 400),
        size=st.integers(1, 100),
        written=st.sampled_from([None, None, None, 1000]),
        tie=st.integers(0, 2**31),
    ),
    max_size=12,
    unique_by=lambda each: each.name,
)
RETENTIONS = st.builds(
    Retention,
    count=st.integers(1, 6),
    max_age=st.timedeltas(timedelta(0), timedelta(days=300)),
    max_bytes=st.integers(0, 500),
    ageless=st.integers(0, 3),
)


@given(SAVES, RETENTIONS)
def test_the_newest_complete_save_always_stays_and_what_goes_is_older_than_what_stays(
    saves: list[Kept], retention: Retention
) -> None:
    dropped = to_drop(saves, NOW, retention)
    complete = [each for each in newest_first(saves) if each.is_complete]
    assert not complete or complete[0] not in dropped
    stay = [each for each in saves if each not in dropped]
    assert all(gone.order < left.order for gone in dropped for left in stay)
    assert len([each for each in stay if each.is_complete]) <= retention.count
    assert dropped == sorted(dropped, key=lambda each: each.order)


@given(SAVES, RETENTIONS, st.data())
def test_two_who_prune_at_once_remove_no_more_than_one_who_sees_all(
    saves: list[Kept], retention: Retention, data: st.DataObject
) -> None:
    # One of them does not see yet what the other has just written.
    seen = saves[: data.draw(st.integers(0, len(saves)))]
    newest = {each.name for each in newest_first(saves)[: len(saves) - len(seen)]}
    if not newest.isdisjoint(each.name for each in seen):
        return  # what is new is the newest: names are counted
    assert {each.name for each in to_drop(seen, NOW, retention)} <= {
        each.name for each in to_drop(saves, NOW, retention)
    }


def test_a_clock_that_jumps_ahead_takes_at_least_two_along() -> None:
    saves = [save(number) for number in (1, 2, 3, 4)]
    assert to_drop(saves, NOW + timedelta(days=9999)) == saves[:2]


def test_a_clock_that_went_back_does_not_make_the_newest_save_the_oldest() -> None:
    before, after = save(1, days=0), save(2, days=4000)
    assert newest_first([before, after]) == [after, before]
    assert to_drop([before, after], NOW - timedelta(days=4000)) == []


def test_an_incomplete_save_takes_no_place_and_goes_with_those_around_it() -> None:
    broken, good = save(2, written=11), [save(1), save(3)]
    assert to_drop([broken, *good], NOW, Retention(count=2)) == []
    assert to_drop([broken, *good], NOW, Retention(count=1)) == [save(1)]


ONE, TWO, THREE = save(1), save(2), save(3)
ALL = [ONE, TWO, THREE]


@pytest.mark.parametrize(
    ("saves", "verified", "wish", "expected"),
    [
        ([], {}, ContentWish(), FromTemplate(keep_first=True)),
        ([], {}, ContentWish(template=True), FromTemplate(keep_first=True)),
        (ALL, {THREE.name: None}, ContentWish(), FromSave(THREE.name)),
        (ALL, {}, ContentWish(template=True), FromTemplate(keep_first=False)),
        (ALL, {ONE.name: None}, ContentWish(save="1"), FromSave(ONE.name)),
        (ALL, {TWO.name: None, THREE.name: "bad"}, ContentWish(save=TWO.name), FromSave(TWO.name)),
    ],
)
def test_where_the_content_comes_from(
    saves: list[Kept], verified: dict[str, str | None], wish: ContentWish, expected: object
) -> None:
    assert choose_content(saves, verified, wish) == expected


def test_a_damaged_save_is_never_the_template_and_never_an_older_one_by_itself() -> None:
    content = choose_content(ALL, {THREE.name: "it is cut short", TWO.name: None, ONE.name: None})
    assert isinstance(content, Refused)
    assert content.good == (TWO.name, ONE.name)
    assert "it is cut short" in content.message
    assert f"`workspace up --workspace WORKSPACE --save {TWO.name}`" in content.message
    assert "`workspace up --workspace WORKSPACE --from-template`" in content.message


def test_when_no_save_is_whole_the_template_is_still_only_offered() -> None:
    content = choose_content([ONE], {ONE.name: "damaged"})
    assert isinstance(content, Refused)
    assert "No other save is whole; begin anew by `workspace up" in content.message


@pytest.mark.parametrize(
    ("whole", "way"),
    [
        (True, f"Put it back to an older one by `workspace saves restore WORKSPACE --save {TWO.name}`"),
        (False, "Nothing was changed. No other save is whole"),
    ],
)
def test_one_that_runs_is_told_how_it_is_put_back_for_it_cannot_be_brought_up(whole: bool, way: str) -> None:
    verified = {THREE.name: "it is cut short", TWO.name: None if whole else "damaged", ONE.name: "damaged"}
    content = choose_content(ALL, verified, ContentWish(running=True))
    assert isinstance(content, Refused)
    assert content.message.endswith(way)


def test_a_save_that_is_not_there_is_told_with_those_that_are() -> None:
    content = choose_content(ALL, {each.name: None for each in ALL}, ContentWish(save="9"))
    assert isinstance(content, Refused)
    assert content.message.startswith("there is no save '9'.")
    assert f" --save {THREE.name}`" in content.message


def test_a_number_that_two_saves_share_names_neither() -> None:
    twins = [save(4, tie=1), save(4, tie=2)]
    verified = {each.name: None for each in twins}
    assert isinstance(choose_content(twins, verified, ContentWish(save="4")), Refused)
    assert choose_content(twins, verified, ContentWish(save=twins[0].name)) == FromSave(twins[0].name)
