"""Saves of a workspace: several kept, each read back before an older one goes, whoever is killed when."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.paths import PathManager
from orchestrator.save_rules import ContentWish, FromSave, FromTemplate, Retention, number_of
from orchestrator.save_store import LEFTOVER_SECONDS, SaveStore
from protocol.errors import ArchiveInvalid, InvalidRequest, NotFound, Unavailable
from tests.orchestrator.archives import pieces, save_of, text_in

ANN, SITE = "ann", "site"
WRITER = [sys.executable, "-m", "tests.orchestrator.save_writer"]


@pytest.fixture
def store(tmp_path: Path) -> SaveStore:
    return SaveStore(PathManager(tmp_path))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "saves" / ANN / SITE


async def add(store: SaveStore, text: str, workspace: str = SITE) -> str:
    stored = await store.add(ANN, workspace, pieces(save_of(text)), session="s1")
    return stored.record.name


def texts(store: SaveStore) -> list[str]:
    """Of all saves, newest first."""
    found = [store.find(ANN, SITE, save.name)[1] for save in store.saves(ANN, SITE)]
    return [text_in(path.read_bytes()) for path in found]


def flip(path: Path) -> None:
    """One byte in the middle, the size as before."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def age(path: Path) -> None:
    """Make it look as if nobody had written to it for long."""
    old = path.stat().st_mtime - LEFTOVER_SECONDS - 1
    os.utime(path, (old, old))


# -- writing ----------------------------------------------------------------------------------------------


async def test_a_save_lies_under_its_workspace_with_what_is_known_of_it(
    store: SaveStore, place: Path
) -> None:
    content = save_of("one")
    stored = await store.add(ANN, SITE, pieces(content), session="s1")
    assert stored.path.parent == place
    assert stored.path.read_bytes() == content
    note = json.loads((place / f"{stored.record.name}.json").read_text())
    assert (note["workspace"], note["session"], note["files"], note["size"]) == (SITE, "s1", 2, len(content))
    assert note["digest"].startswith("sha256:")
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (place, place.parent)} == {0o700}


async def test_five_saves_are_kept_and_the_oldest_goes(store: SaveStore) -> None:
    for number in range(8):
        await add(store, f"text {number}")
    assert texts(store) == [f"text {number}" for number in (7, 6, 5, 4, 3)]


async def test_a_save_of_one_workspace_takes_none_of_another_or_of_another_user(store: SaveStore) -> None:
    await add(store, "other", "other")
    await store.add("bob", SITE, pieces(save_of("bob's")))
    for number in range(7):
        await add(store, str(number))
    assert len(store.saves(ANN, "other")) == len(store.saves("bob", SITE)) == 1
    assert store.workspaces(ANN) == ["other", SITE]


@pytest.mark.parametrize("content", [save_of("x")[:-100], b"no archive", b""])
async def test_a_save_that_cannot_be_read_back_costs_no_older_one(store: SaveStore, content: bytes) -> None:
    for number in range(5):
        await add(store, str(number))
    with pytest.raises(ArchiveInvalid):
        await store.add(ANN, SITE, pieces(content))
    assert texts(store) == list("43210")


async def test_bytes_that_the_disk_changed_cost_no_older_save(store: SaveStore, place: Path) -> None:
    for number in range(5):
        await add(store, str(number))

    async def flipped() -> AsyncIterator[bytes]:
        yield save_of("new")
        [part] = place.glob(".*.part")
        flip(part)

    with pytest.raises(ArchiveInvalid):
        await store.add(ANN, SITE, flipped())
    assert texts(store) == list("43210")
    assert not list(place.glob(".*"))


async def test_a_tree_that_is_not_the_one_that_was_packed_is_refused(store: SaveStore) -> None:
    await add(store, "old")
    with pytest.raises(ArchiveInvalid, match="older saves were left alone; save once more"):
        await store.add(ANN, SITE, pieces(save_of("x")), claimed=lambda: "sha256:00")
    assert texts(store) == ["old"]


async def test_a_stream_that_breaks_off_leaves_nothing_and_costs_nothing(
    store: SaveStore, place: Path
) -> None:
    await add(store, "old")
    before = sorted(place.iterdir())
    with pytest.raises(Unavailable):
        await store.add(ANN, SITE, pieces(save_of("new"), fails=True))
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("user", ["..", "a/b", "", ".ann"])
async def test_no_id_leads_out_of_the_saves(store: SaveStore, user: str) -> None:
    with pytest.raises(InvalidRequest):
        await store.add(user, SITE, pieces(save_of("x")))
    with pytest.raises(InvalidRequest):
        await store.add(ANN, user, pieces(save_of("x")))


async def test_the_newest_save_is_the_last_one_made_although_the_clock_went_back(tmp_path: Path) -> None:
    clock = [datetime(2030, 1, 1, tzinfo=UTC)]
    store = SaveStore(PathManager(tmp_path), now=lambda: clock[0])
    for text in ("before", "after"):
        await add(store, text)
        clock[0] -= timedelta(days=2000)
    assert texts(store) == ["after", "before"]


# -- several at once, and killed --------------------------------------------------------------------------


async def test_saves_of_one_workspace_made_at_once_are_all_kept(tmp_path: Path) -> None:
    stores = [SaveStore(PathManager(tmp_path), Retention(count=20)) for _ in range(4)]
    await asyncio.gather(*(add(store, str(n)) for n, store in enumerate(stores * 3)))
    assert len(texts(stores[0])) == 12
    assert {stores[0].verify(ANN, SITE, save.name) for save in stores[0].saves(ANN, SITE)} == {None}


def test_two_programs_that_save_and_prune_at_once_end_with_the_newest_whole(
    store: SaveStore, tmp_path: Path
) -> None:
    writers = [
        subprocess.Popen([*WRITER, str(tmp_path), "12"], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    written = [name for writer in writers for name in writer.communicate(timeout=60)[0].split()]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(written) == len(set(written)) == 24
    saves = store.saves(ANN, SITE)
    assert 5 <= len(saves) <= 6  # one may have been in the other's hands when it was to go
    assert number_of(saves[0].name) == max(map(number_of, written))
    assert {store.verify(ANN, SITE, save.name) for save in saves} == {None}


def test_a_kill_at_any_instant_leaves_whole_saves_and_what_can_be_swept(
    store: SaveStore, place: Path, tmp_path: Path
) -> None:
    asyncio.run(add(store, "first"))
    chance = random.Random(5)
    for _ in range(12):
        writer = subprocess.Popen([*WRITER, str(tmp_path), "1000"], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        seen = writer.stdout.readline().strip()  # it is at work
        for _ in range(chance.randrange(3)):
            seen = writer.stdout.readline().strip()
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        saves = store.saves(ANN, SITE)
        assert max(number_of(save.name) for save in saves) >= number_of(seen)
        assert {store.verify(ANN, SITE, save.name) for save in saves} == {None}
    for path in place.iterdir():
        age(path)
    asyncio.run(add(store, "last"))
    assert texts(store)[0] == "last"
    names = {save.name for save in store.saves(ANN, SITE)}
    left = {path.name.removesuffix(".tar.gz").removesuffix(".json") for path in place.iterdir()}
    assert left == names


# -- sweeping ---------------------------------------------------------------------------------------------


async def test_only_our_own_old_parts_that_nobody_holds_are_swept(store: SaveStore, place: Path) -> None:
    await add(store, "one")
    ours = place / ".0009_20261121_093405_010203ff.tar.gz.part"
    others = [place / name for name in (".nfs0001", "notes.txt", "my.json", ".hidden.tar.gz.part")]
    young = place / ".0010_20261121_093405_010203ff.tar.gz.part"
    orphan = place / "0011_20261121_093405_010203ff.json"
    for path in (ours, young, orphan, *others):
        path.write_text("{}")
    for path in (ours, orphan, *others):
        age(path)
    assert set(store.sweep(ANN, SITE)) == {ours, orphan}
    assert all(path.exists() for path in (young, *others))
    assert texts(store) == ["one"]


async def test_a_part_that_is_still_written_is_not_swept_however_old_it_looks(
    store: SaveStore, place: Path
) -> None:
    async def slow() -> AsyncIterator[bytes]:
        data = save_of("slow")
        yield data[:100]
        [part] = place.glob(".*.part")
        age(part)
        assert store.sweep(ANN, SITE) == []
        yield data[100:]

    await store.add(ANN, SITE, slow())
    assert texts(store) == ["slow"]


# -- bringing up again ------------------------------------------------------------------------------------


async def test_without_a_save_it_is_the_template_and_the_first_save_is_to_be_kept(store: SaveStore) -> None:
    assert store.content(ANN, SITE) == FromTemplate(keep_first=True)


async def test_the_newest_save_is_what_a_workspace_comes_back_from(store: SaveStore) -> None:
    one, two = [await add(store, text) for text in ("one", "two")]
    assert store.content(ANN, SITE) == FromSave(two)
    assert store.content(ANN, SITE, ContentWish(save="1")) == FromSave(one)
    assert store.content(ANN, SITE, ContentWish(template=True)) == FromTemplate(keep_first=False)


@pytest.mark.parametrize("damage", ["flip", "cut", "swap", "empty"])
async def test_a_damaged_save_is_told_with_both_ways_out(store: SaveStore, damage: str) -> None:
    one, two = [await add(store, text) for text in ("one", "two")]
    path = store.find(ANN, SITE, two)[1]
    if damage == "flip":
        flip(path)
    elif damage == "swap":
        path.write_bytes(save_of("a whole archive, and not the one that was saved"))
    else:
        os.truncate(path, 0 if damage == "empty" else 1000)
    with pytest.raises(ArchiveInvalid, match=rf"--save {one}`, or begin .* --from-template`") as caught:
        store.content(ANN, SITE)
    assert caught.value.details["good"] == [one]
    assert store.content(ANN, SITE, ContentWish(save=one)) == FromSave(one)
    assert len(store.saves(ANN, SITE)) == 2


async def test_a_name_that_no_save_has_is_told_with_those_that_are_whole(store: SaveStore) -> None:
    one, two = [await add(store, text) for text in ("one", "two")]
    flip(store.find(ANN, SITE, two)[1])
    with pytest.raises(NotFound, match=f"there is no save '9'.* --save {one}`"):
        store.content(ANN, SITE, ContentWish(save="9"))


async def test_an_archive_put_there_by_hand_is_a_save_and_the_oldest(store: SaveStore, place: Path) -> None:
    new = await add(store, "new")
    (place / "20251121_093405_678.tar.gz").write_bytes(save_of("from elsewhere"))
    assert texts(store) == ["new", "from elsewhere"]
    assert store.content(ANN, SITE) == FromSave(new)
    wish = ContentWish(save="20251121_093405_678")
    assert store.content(ANN, SITE, wish) == FromSave("20251121_093405_678")
    flip(place / "20251121_093405_678.tar.gz")
    with pytest.raises(ArchiveInvalid):
        store.content(ANN, SITE, wish)


@pytest.mark.parametrize("note", ["", "{", "{}", "[]", '{"name": 1}'])
async def test_a_note_that_cannot_be_read_costs_no_save(store: SaveStore, place: Path, note: str) -> None:
    name = await add(store, "one")
    (place / f"{name}.json").write_text(note)
    assert store.content(ANN, SITE) == FromSave(name)
    await add(store, "two")
    assert texts(store) == ["two", "one"]


async def test_a_save_that_is_being_restored_is_not_pruned_meanwhile(store: SaveStore) -> None:
    one = await add(store, "one")
    with store.held(ANN, SITE, one) as path:
        for number in range(6):
            await add(store, str(number))
        assert text_in(path.read_bytes()) == "one"
    await add(store, "last")
    assert len(texts(store)) == 5
    assert "one" not in texts(store)


async def test_what_is_pruned_is_what_the_retention_says(store: SaveStore) -> None:
    names = [await add(store, str(number)) for number in range(5)]
    assert [save.name for save in store.prune(ANN, SITE, Retention(count=2))] == names[:3]
    assert texts(store) == ["4", "3"]


async def test_one_that_is_removed_as_it_is_to_be_held_is_told(
    store: SaveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await add(store, "one")
    lock = fcntl.flock

    def removed_first(file: int, operation: int) -> None:
        if operation == fcntl.LOCK_SH:
            assert len(SaveStore.remove(store, ANN, SITE)) == 1
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with pytest.raises(NotFound, match="was removed just now"), store.held(ANN, SITE, name):
        pass
