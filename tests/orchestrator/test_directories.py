"""Directories, made and removed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.directories import private_directory, remove_tree


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_private_directory_and_all_made_above_it_are_its_owners_alone(tmp_path: Path) -> None:
    made = private_directory(tmp_path / "a" / "b" / "c")
    assert [mode(path) for path in (made, made.parent, made.parent.parent)] == [0o700] * 3


def test_what_was_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o755)  # whatever the umask
    private_directory(tmp_path / "a" / "b")
    assert mode(tmp_path / "a") == 0o755


def test_two_cannot_make_the_same_one(tmp_path: Path) -> None:
    private_directory(tmp_path / "a", exist_ok=False)
    with pytest.raises(FileExistsError):
        private_directory(tmp_path / "a", exist_ok=False)


def test_removing_takes_directories_that_cannot_be_written_to(tmp_path: Path) -> None:
    locked = tmp_path / "a" / "locked"
    locked.mkdir(parents=True)
    (locked / "f").touch()
    locked.chmod(0o500)
    remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_removing_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_removing_nothing_is_no_error(tmp_path: Path) -> None:
    remove_tree(tmp_path / "nothing")


def test_two_may_remove_the_same_tree_at_once(tmp_path: Path) -> None:
    for name in range(200):
        (tmp_path / "a" / str(name) / "below").mkdir(parents=True)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(remove_tree, tmp_path / "a") for _ in range(4)]:
            done.result()
    assert not (tmp_path / "a").exists()
