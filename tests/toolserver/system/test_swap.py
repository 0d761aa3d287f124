"""A swap is whole or has not happened: at every rename that a kill may hit, in both modes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from protocol.paths import RESERVED
from toolserver.system.swap import Staging, recover

OLD = {"a": "1", "d/x": "2", "d/y": "3", "link": "->a", "empty": None, "same/deep/f": "old"}
NEW = {"a": "9", "d/x": "8", "n/z": "7", "same/deep/f": "new", "link/k": "a directory where a link was"}
MERGED = {**{path: text for path, text in OLD.items() if path != "link"}, **NEW}

DIES_AT = """
import os, sys
from collections.abc import Mapping
from pathlib import Path
from tests.toolserver.system.test_swap import NEW, fill
from toolserver.system.swap import Staging
root, state, mode, at = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
staging = Staging(root, state)
fill(staging.open(), NEW)
renames, rename = iter(range(10**6)), os.rename
def dying(*args, **kwargs):
    if next(renames) == at:
        os._exit(9)
    return rename(*args, **kwargs)
os.rename = dying
getattr(staging, mode)()
"""


def fill(directory: Path, files: Mapping[str, str | None]) -> None:
    """Write ``files``: a text, None for an empty directory, ``->target`` for a link."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.mkdir()
        elif text.startswith("->"):
            path.symlink_to(text[2:])
        else:
            path.write_text(text)


def tree(directory: Path) -> dict[str, str | None]:
    """What ``fill`` would be given for what is there, directories on the way included."""
    found: dict[str, str | None] = {}
    for path in directory.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(directory))] = f"->{path.readlink()}"
        else:
            found[str(path.relative_to(directory))] = None if path.is_dir() else path.read_text()
    return found


def expected(directory: Path, files: dict[str, str | None]) -> dict[str, str | None]:
    directory.mkdir()
    fill(directory, files)
    return tree(directory)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    directory.mkdir()
    fill(directory, OLD)
    return directory


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


def staged(root: Path, state: Path) -> Staging:
    staging = Staging(root, state)
    fill(staging.open(), NEW)
    return staging


@pytest.mark.parametrize(("mode", "result"), [("replace", NEW), ("merge", MERGED)])
def test_a_kill_before_any_rename_leaves_the_old_tree(
    mode: str, result: dict[str, str | None], tmp_path: Path
) -> None:
    for at in itertools.count():
        place = tmp_path / str(at)
        root, state = place / "root", place / "state"
        root.mkdir(parents=True)
        state.mkdir()
        fill(root, OLD)
        old = tree(root)
        command = [sys.executable, "-c", DIES_AT, str(root), str(state), mode, str(at)]
        code = subprocess.run(command, check=False).returncode
        recover(root, state)
        assert list(state.iterdir()) == []
        if code == 0:
            assert tree(root) == expected(tmp_path / "expected", result)
            assert at > 5
            return
        assert code == 9
        assert tree(root) == old


def test_the_root_directory_itself_stays(root: Path, state: Path) -> None:
    before = root.stat().st_ino
    staging = staged(root, state)
    staging.replace()
    staging.discard()
    assert root.stat().st_ino == before
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("mode", ["replace", "merge"])
def test_a_rename_that_fails_brings_the_old_tree_back(
    mode: str, root: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tree(root)
    staging = staged(root, state)
    renames, rename = itertools.count(), os.rename

    def failing(*args: Any, **kwargs: Any) -> None:
        if next(renames) == 4:
            raise OSError(5, "the disk says no")
        rename(*args, **kwargs)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="the disk says no"):
        getattr(staging, mode)()
    assert tree(root) == old


def test_a_tree_that_is_discarded_changes_nothing(root: Path, state: Path) -> None:
    old = tree(root)
    staged(root, state).discard()
    assert tree(root) == old
    assert list(state.iterdir()) == []


def test_a_read_only_directory_moves_and_keeps_its_mode(root: Path, state: Path) -> None:
    (root / "d").chmod(0o555)
    staging = Staging(root, state)
    directory = staging.open()
    fill(directory, {"closed/f": "1"})
    (directory / "closed").chmod(0o555)
    staging.replace()
    staging.discard()
    assert (root / "closed").stat().st_mode & 0o777 == 0o555
    assert tree(root) == {"closed": None, "closed/f": "1"}


def test_a_state_directory_on_another_mount_is_not_used(root: Path) -> None:
    staging = Staging(root, Path("/dev/shm"))
    assert staging.open().parent == root / RESERVED
    staging.replace()
    staging.discard()
    assert tree(root) == {}


def test_nothing_to_recover_is_said(root: Path, state: Path) -> None:
    old = tree(root)
    assert recover(root, state) is False
    assert tree(root) == old
