"""A change of several files is whole or has not happened, at every system call that a kill may hit."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.errors import AlreadyExists, Conflict, Internal, NoSpace, NotFound
from protocol.paths import WorkspacePath
from tests.toolserver.system.killed_edits import NEW, OLD, change
from tests.trees import Directory, File, described, plant
from toolserver.system import edit_journal
from toolserver.system.disk import Disk
from toolserver.system.edit_journal import Recovered, Write, commit, recover


def path(name: str) -> WorkspacePath:
    return WorkspacePath(name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    directory.mkdir()
    plant(directory, OLD)
    return directory


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


@pytest.fixture
def disk(root: Path) -> Iterator[Disk]:
    disk = Disk(root)
    yield disk
    disk.close()


def killed_everywhere(place: Path, links: str, *, recovery_too: bool = False) -> list[Any]:
    program = [sys.executable, "-m", "tests.toolserver.system.killed_edits"]
    done = subprocess.run(
        [*program, str(place), links, str(int(recovery_too))], check=True, stdout=subprocess.PIPE
    )
    seen: list[Any] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize("links", ["links", "copies"])
def test_a_kill_at_any_system_call_leaves_the_old_tree_or_the_new(links: str, tmp_path: Path) -> None:
    """Peers leave a patch of several files half applied."""
    seen = killed_everywhere(tmp_path, links)
    are_old = [is_old for is_old, _, _ in seen]
    assert are_old == sorted(are_old, reverse=True), "once the new tree holds, it holds"
    assert sum(are_old) > 50
    assert {tree for is_old, tree, _ in seen if not is_old} == {repr(NEW)}
    assert [left for _, _, left in seen if left] == []


@pytest.mark.parametrize("links", ["links", "copies"])
def test_a_recovery_may_be_killed_as_well(links: str, tmp_path: Path) -> None:
    seen = killed_everywhere(tmp_path, links, recovery_too=True)
    assert len(seen) > 60
    assert {tree for is_old, tree, _ in seen if not is_old} == {repr(NEW)}
    assert [left for _, _, left in seen if left] == []


def test_all_files_change_and_nothing_is_left(root: Path, state: Path) -> None:
    change(root, state)
    assert described(root) == NEW
    assert list((state / "edits").iterdir()) == []


def test_a_file_that_is_moved_stays_the_same_file(root: Path, state: Path) -> None:
    before = (root / "moved").stat()
    change(root, state)
    after = (root / "over/there").stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (before.st_ino, before.st_mtime_ns, 1)


def _fail_at(patched: pytest.MonkeyPatch, name: str, at: int, number: int) -> None:
    count, call = itertools.count(), getattr(os, name)

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(count) == at:
            raise OSError(number, os.strerror(number))
        return call(*args, **kwargs)

    patched.setattr(os, name, failing)


@pytest.mark.parametrize("call", ["open", "link", "rename", "unlink", "mkdir", "write", "fsync", "fchmod"])
def test_any_call_that_fails_brings_the_old_tree_back_at_once(
    call: str, root: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every place where it is called, until the change goes through."""
    for at in itertools.count():
        with monkeypatch.context() as patched:
            _fail_at(patched, call, at, errno.ENOSPC)
            try:
                change(root, state)
            except (NoSpace, OSError):
                pass
            else:
                break
        assert described(root) == OLD
        assert not (state / "edits").exists() or list((state / "edits").iterdir()) == []
    recover(root, state)
    assert described(root) == NEW
    assert at > (0 if call == "mkdir" else 1)


def test_an_undoing_that_fails_keeps_all_for_the_next_start(
    root: Path, state: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def broken(source: Any, target: Any, **kwargs: Any) -> None:
        if target in {"deep/b", "b"}:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", broken)
        with pytest.raises(Internal, match="restart the tool server"):
            change(root, state)
        assert recover(root, state) == [Recovered.FAILED]
    assert recover(root, state) == [Recovered.UNDONE]
    assert described(root) == OLD


def test_what_a_program_wrote_meanwhile_is_not_lost(root: Path, state: Path, disk: Disk) -> None:
    seen = (root / "a").stat()
    (root / "a").write_bytes(b"theirs, and longer")
    with pytest.raises(Conflict, match="'a' was changed by a program meanwhile"):
        commit(disk, state, [Write(path("new"), b"x", None), Write(path("a"), b"ours", seen)])
    assert (root / "a").read_bytes() == b"theirs, and longer"
    assert not (root / "new").exists()


def test_what_a_program_made_meanwhile_is_not_replaced(root: Path, state: Path, disk: Disk) -> None:
    with pytest.raises(AlreadyExists, match="made by somebody else"):
        commit(disk, state, [Write(path("new"), b"x", None), Write(path("a"), b"ours", None)])
    assert described(root) == OLD


def test_a_directory_swapped_for_a_link_is_not_followed(
    root: Path, state: Path, disk: Disk, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    plant(outside, {"b": File(b"theirs")})
    seen = (root / "deep/b").stat()
    (root / "deep").rename(root / "away")
    (root / "deep").symlink_to(outside)
    with pytest.raises(NotFound):
        commit(disk, state, [Write(path("a"), b"1", (root / "a").stat()), Write(path("deep/b"), b"2", seen)])
    assert described(outside) == {"b": File(b"theirs")}
    assert (root / "a").read_bytes() == b"old a"


def test_a_recovery_does_not_follow_links_either(root: Path, state: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    kept = ".workspace-core.0123456789abcdef~"
    plant(outside, {"b": File(b"theirs"), kept: File(b"forged")})
    (root / "out").symlink_to(outside)
    journal = [1, [[1, b"out/b", kept.encode(), kept.encode()]], []]
    plant(state, {"edits/0": File(msgspec.msgpack.encode(journal))})
    recover(root, state)
    assert described(outside) == {"b": File(b"theirs"), kept: File(b"forged")}


FORGED = [
    [1, [[1, b"../a", b".workspace-core.0123456789abcdef~", b""]], []],
    [1, [[2, b"/etc/a", b".workspace-core.0123456789abcdef~", b""]], []],
    [1, [[1, b"a", b"deep", b"gone"]], []],
    [1, [], [b"../root"]],
    [9, [], []],
]


@pytest.mark.parametrize("journal", FORGED)
def test_a_journal_of_another_hand_does_nothing(journal: list[Any], root: Path, state: Path) -> None:
    plant(state, {"edits/0": File(msgspec.msgpack.encode(journal)), "edits/1": File(b"\xc1")})
    assert recover(root, state) == [Recovered.EMPTY, Recovered.EMPTY]
    assert described(root) == OLD
    assert list((state / "edits").iterdir()) == []


def test_there_may_be_nothing_to_recover(root: Path, state: Path) -> None:
    assert recover(root, state) == []
    plant(state, {"edits": Directory(0o700)})
    assert recover(root, state) == []


def test_one_file_needs_no_sync_but_its_own(
    root: Path, state: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    commit(disk, state, [Write(path("a"), b"new", (root / "a").stat())])
    assert len(synced) == 1
    assert described(root) == OLD | {"a": File(b"new", 0o755)}
    assert edit_journal.recover(root, state) == []
