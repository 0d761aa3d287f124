"""What several who remove at the same instant must not do to each other."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.errors import NotFound
from protocol.limits import Limits
from protocol.paths import RESERVED, WorkspacePath
from toolserver.system import places as module
from toolserver.system.disk import Disk
from toolserver.system.places import Places


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/directory").mkdir(parents=True)
    (tmp_path / "state").mkdir()
    return tmp_path / "root"


@pytest.fixture
def places(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """Of a root that is another file system than the state directory."""
    disk, state = Disk(root), root.parent / "state"
    move = module._moved_away

    def not_to_the_state(above: int, name: str, base: int) -> None:
        if os.path.samestat(os.fstat(base), state.stat()):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        move(above, name, base)

    monkeypatch.setattr(module, "_moved_away", not_to_the_state)
    yield Places(disk, state, Limits())
    disk.close()


def test_a_directory_is_removed_while_another_tidies_up_after_his(
    places: Places, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, tries = module._moved_away, list[str]()

    def found_empty(above: int, name: str, base: int) -> None:
        if (root / RESERVED).is_dir() and not tries:
            tries.append(name)
            (root / RESERVED).rmdir()
        move(above, name, base)

    monkeypatch.setattr(module, "_moved_away", found_empty)
    places.remove(WorkspacePath("directory"), recursive=True)
    assert tries == ["directory"]
    assert [each.name for each in root.iterdir()] == [RESERVED]
    places.empty_trash()
    assert list(root.iterdir()) == []


def test_a_directory_that_is_gone_meanwhile_is_told_as_that(
    places: Places, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = module._moved_away

    def gone(above: int, name: str, base: int) -> None:
        if (root / "directory").is_dir():
            (root / "directory").rmdir()
        move(above, name, base)

    monkeypatch.setattr(module, "_moved_away", gone)
    with pytest.raises(NotFound):
        places.remove(WorkspacePath("directory"), recursive=True)
    places.empty_trash()
    assert list(root.iterdir()) == []
