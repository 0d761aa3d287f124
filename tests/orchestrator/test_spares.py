"""Spare trees of a host: one session each, its own user's, and none where nobody warmed that lock file."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.dependency_store import SharedStore
from orchestrator.directories import private_directory
from orchestrator.paths import SessionArea
from orchestrator.processes import boot
from orchestrator.spares import Reserved, SpareTrees, lock_digest

KEY = "a" * 64
SOMEBODY = 0x7000_1234 if os.geteuid() == 0 else None


@pytest.fixture
def spares(tmp_path: Path) -> SpareTrees:
    """Of a store that knows one lock file."""
    made = SpareTrees(private_directory(tmp_path / "store"))
    made.note("lock", KEY)
    private_directory(made.store / "spares")
    return made


def spare(spares: SpareTrees, key: str = KEY, start: str = boot()[:8]) -> Path:
    """A tree as it is kept ready."""
    tree = spares.store / "spares" / f"{key}-{start}-1"
    (tree / "left").mkdir(parents=True)
    (tree / "left/index.js").write_text("left")
    (tree / "left/bin").symlink_to("index.js")
    return tree


def area(tmp_path: Path, name: str = "one") -> SessionArea:
    made = SessionArea(tmp_path / name)
    for directory in made.directories:
        directory.mkdir()
    return made


def ready(area: SessionArea) -> list[Path]:
    """What its tool server finds."""
    return list((area.state / "spares").glob("*"))


def test_a_session_gets_one_that_is_its_own_users(spares: SpareTrees, tmp_path: Path) -> None:
    spare(spares)
    one = area(tmp_path)
    reserved = spares.reserve("lock", one, SOMEBODY)
    assert reserved is not None
    assert ready(one) == []
    reserved.hand_over()
    (tree,) = ready(one)
    assert tree.name.startswith(f"{KEY}-")
    assert (tree / "left/index.js").read_text() == "left"
    owner = os.geteuid() if SOMEBODY is None else SOMEBODY
    assert {path.lstat().st_uid for path in (tree.parent, tree, *tree.rglob("*"))} == {owner}
    assert stat.S_IMODE(tree.parent.stat().st_mode) == 0o700
    assert list((spares.store / "spares").iterdir()) == []


def test_of_many_sessions_one_gets_it(spares: SpareTrees, tmp_path: Path) -> None:
    spare(spares)
    areas = [area(tmp_path, f"number{number}") for number in range(6)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda each: spares.reserve("lock", each, SOMEBODY), areas))
    (one,) = [each for each in found if each is not None]
    one.hand_over()
    assert sorted(len(ready(each)) for each in areas) == [0, 0, 0, 0, 0, 1]


def test_one_for_another_lock_file_stays(spares: SpareTrees, tmp_path: Path) -> None:
    tree = spare(spares)
    one = area(tmp_path)
    assert [spares.reserve(lock, one, None) for lock in ("", "other")] == [None, None]
    assert tree.exists()


def test_where_it_goes_is_settled_before_anybody_runs_there(spares: SpareTrees, tmp_path: Path) -> None:
    spare(spares)
    one, elsewhere = area(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    reserved = spares.reserve("lock", one, SOMEBODY)
    assert isinstance(reserved, Reserved)
    (one.state / "spares").rename(one.state / "aside")
    (one.state / "spares").symlink_to(elsewhere)
    reserved.hand_over()
    assert list(elsewhere.iterdir()) == []
    assert len(list((one.state / "aside").iterdir())) == 1


def test_links_are_given_and_not_where_they_lead(spares: SpareTrees, tmp_path: Path) -> None:
    (spare(spares) / "left/out").symlink_to(tmp_path / "others")
    (tmp_path / "others").touch()
    reserved = spares.reserve("lock", area(tmp_path), SOMEBODY)
    assert reserved is not None
    reserved.hand_over()
    assert (tmp_path / "others").stat().st_uid == os.geteuid()


def test_one_of_another_boot_is_never_handed_out(spares: SpareTrees, tmp_path: Path) -> None:
    spare(spares, start="00000000")
    assert spares.reserve("lock", area(tmp_path), None) is None
    (spares.store / f"{KEY}.pack").touch()
    assert spares.lacking("lock") == KEY


def test_what_a_killed_host_did_not_hand_over_goes_with_the_session(
    spares: SpareTrees, tmp_path: Path
) -> None:
    spare(spares)
    one = area(tmp_path)
    reserved = spares.reserve("lock", one, None)
    assert reserved is not None
    reserved.close()  # as the end of the process does
    assert ready(one) == []
    assert reserved.path.parent == one.directory


def test_a_lock_file_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    assert lock_digest(tmp_path) == lock_digest(tmp_path / "archive.tar.gz") == ""
    (tmp_path / "package-lock.json").write_text("{}")
    first = lock_digest(tmp_path)
    (tmp_path / "package-lock.json").write_text("{ }")
    assert len({"", first, lock_digest(tmp_path)}) == 3


def test_what_is_no_lock_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "package-lock.json")
    (tmp_path / "pnpm-lock.yaml").symlink_to("/dev/zero")
    assert lock_digest(tmp_path) == ""


def test_a_spare_that_nobody_replaced_is_missed_while_its_pack_is_there(spares: SpareTrees) -> None:
    assert spares.lacking("lock") == ""
    (spares.store / f"{KEY}.pack").touch()
    assert (spares.lacking("lock"), spares.lacking("other"), spares.lacking("")) == (KEY, "", "")
    spare(spares)
    assert spares.lacking("lock") == ""


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_of_a_spare_whose_removal_was_killed_no_session_gets_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(tree: Path) -> None:
        (tree / "left/index.js").unlink()
        raise KeyboardInterrupt

    store = SharedStore(private_directory(tmp_path / "store"), max_bytes=12)
    spares = SpareTrees(store.directory)
    spares.note("lock", KEY)
    await store.put(KEY, pieces(b"12345"))
    spare(spares)
    monkeypatch.setattr("orchestrator.dependency_store.remove_tree", killed)
    with pytest.raises(KeyboardInterrupt):
        await store.put("b" * 64, pieces(b"12345"))
    assert spares.reserve("lock", area(tmp_path), None) is None


async def test_spares_make_room_before_packs(tmp_path: Path) -> None:
    store = SharedStore(tmp_path / "store", max_bytes=12)
    packs = [await store.put(KEY, pieces(b"12345"))]
    spares = SpareTrees(store.directory)
    tree, orphan = spare(spares), spare(spares, "c" * 64)
    packs.append(await store.put("b" * 64, pieces(b"1")))
    assert (tree.exists(), orphan.exists()) == (True, False)
    packs.append(await store.put("d" * 64, pieces(b"12345")))
    assert (tree.exists(), [path.exists() for path in packs]) == (False, [True, True, True])
