"""A swap is whole or has not happened: at every step that a kill may hit, in both modes and both places."""

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

from protocol.errors import Busy, Conflict, Internal, NoSpace
from protocol.paths import RESERVED
from tests.toolserver.system.killed import NEW, OLD
from tests.trees import Directory, File, Tree, described, plant
from toolserver.system import swap
from toolserver.system.swap import Recovery, Staging, recover

MERGED: Tree = dict(
    sorted(({path: node for path, node in OLD.items() if not path.startswith("d/")} | NEW).items())
)
PUT: Tree = {path: node for path, node in MERGED.items() if path not in {"empty", "same/deep/kept"}} | {
    "same": Directory(0o700)
}
"""As ``killed`` puts a delta: two entries leave as well, and a directory that stays has other bits."""


def killed_everywhere(place: Path, mode: str, where: str, *, recovery_too: bool = False) -> list[Any]:
    command = [
        sys.executable,
        "-m",
        "tests.toolserver.system.killed",
        str(place),
        mode,
        where,
        str(int(recovery_too)),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    seen: list[Any] = json.loads(done.stdout)
    return seen


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    directory.mkdir()
    plant(directory, OLD)
    return directory


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the state directory lay on another mount."""
    monkeypatch.setattr(swap, "can_rename", lambda state, root: False)


@pytest.fixture
def staging(root: Path, state: Path) -> Iterator[Staging]:
    with Staging(root, state) as staging:
        plant(staging.open(), NEW)
        yield staging


@pytest.mark.parametrize("where", ["beside", "inside", "overlay"])
@pytest.mark.parametrize(("mode", "result"), [("replace", NEW), ("merge", MERGED), ("delta", PUT)])
def test_a_kill_at_any_instant_leaves_the_old_tree_or_the_new(
    mode: str, result: Tree, where: str, tmp_path: Path
) -> None:
    seen = killed_everywhere(tmp_path, mode, where)
    are_old = [is_old for is_old, _, _ in seen]
    assert are_old == sorted(are_old, reverse=True), "once the new tree holds, it holds"
    assert sum(are_old) > 15
    assert {tree for is_old, tree, _ in seen if not is_old} == {repr(result)}
    assert [left for _, _, left in seen if left] == []


def test_a_recovery_may_be_killed_as_well(tmp_path: Path) -> None:
    seen = killed_everywhere(tmp_path, "replace", "overlay", recovery_too=True)
    assert len(seen) > 100
    assert {tree for is_old, tree, _ in seen if not is_old} == {repr(NEW)}


@pytest.mark.parametrize(("mode", "result"), [("replace", NEW), ("merge", MERGED)])
def test_what_was_staged_is_in_place(
    mode: str, result: Tree, root: Path, state: Path, staging: Staging
) -> None:
    getattr(staging, mode)()
    staging.discard()
    assert described(root) == result
    assert list(state.iterdir()) == []


@pytest.mark.usefixtures("inside")
def test_staging_inside_the_root_leaves_no_trace(root: Path, state: Path) -> None:
    with Staging(root, state) as staging:
        directory = staging.open()
        assert directory.resolve().is_relative_to(root / RESERVED)
        plant(directory, NEW)
        staging.replace()
    assert described(root) == NEW
    assert list(state.iterdir()) == []


def test_a_state_directory_on_another_mount_is_not_used(root: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not os.access(elsewhere, os.W_OK) or elsewhere.stat().st_dev == root.stat().st_dev:
        pytest.skip("/dev/shm is no other file system here")
    state = elsewhere / f"workspace-core-test-{os.getpid()}"
    try:
        with Staging(root, state) as staging:
            assert staging.open().resolve().is_relative_to(root / RESERVED)
    finally:
        state.rmdir()
    assert described(root) == OLD


def test_the_root_directory_itself_stays(root: Path, staging: Staging) -> None:
    before = root.stat().st_ino
    staging.replace()
    assert root.stat().st_ino == before


def test_a_tree_that_is_discarded_changes_nothing(root: Path, state: Path, staging: Staging) -> None:
    staging.discard()
    assert described(root) == OLD
    assert list(state.iterdir()) == []


def test_discarding_twice_is_fine(staging: Staging) -> None:
    staging.discard()
    staging.discard()


@pytest.mark.parametrize(
    ("number", "error"), [(errno.EBUSY, Conflict), (errno.ENOSPC, NoSpace), (errno.EIO, Internal)]
)
@pytest.mark.parametrize("mode", ["replace", "merge"])
def test_a_rename_that_fails_brings_the_old_tree_back_at_once(
    mode: str,
    number: int,
    error: type[Exception],
    root: Path,
    staging: Staging,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        _fail_at(patched, 4, number)
        with pytest.raises(error, match="nothing was changed"):
            getattr(staging, mode)()
    assert described(root) == OLD


def test_an_undoing_that_fails_keeps_all_for_the_next_start(
    root: Path, state: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        _fail_at(patched, 4, errno.EIO, times=2)
        with pytest.raises(Internal, match="restart the tool server"):
            staging.replace()
        staging.discard()
    assert recover(root, state) is Recovery.UNDONE
    assert described(root) == OLD
    assert list(state.iterdir()) == []


def _fail_at(patched: pytest.MonkeyPatch, at: int, number: int, times: int = 1) -> None:
    renames, rename = itertools.count(), os.rename

    def failing(*args: Any, **kwargs: Any) -> None:
        if at <= next(renames) < at + times:
            raise OSError(number, os.strerror(number))
        rename(*args, **kwargs)

    patched.setattr(os, "rename", failing)


def test_a_second_swap_is_refused_while_one_is_under_way(root: Path, state: Path, staging: Staging) -> None:
    with Staging(root, state) as second, pytest.raises(Busy, match="wait for it"):
        second.open()
    with pytest.raises(Busy):
        recover(root, state)
    staging.replace()
    assert described(root) == NEW


def test_the_next_swap_begins_before_what_was_replaced_is_removed(
    root: Path, state: Path, staging: Staging
) -> None:
    staging.replace()
    with Staging(root, state) as second:
        plant(second.open(), OLD)
        staging.discard()
        second.replace()
    assert described(root) == OLD
    assert not any(state.iterdir())


def test_merging_leaves_files_alone_that_are_the_same(root: Path, state: Path) -> None:
    before = {path: (root / path).lstat().st_ino for path in OLD}
    with Staging(root, state) as staging:
        plant(staging.open(), OLD | {"same/deep/f": File(b"new")})
        staging.merge()
    changed = {path for path in OLD if (root / path).lstat().st_ino != before[path]}
    assert changed == {"same/deep/f"}


def test_merging_never_goes_through_a_link(root: Path, state: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    plant(outside, {"k": File(b"theirs")})
    (root / "link").unlink()
    (root / "link").symlink_to(outside)
    with Staging(root, state) as staging:
        plant(staging.open(), NEW)
        staging.merge()
    assert described(root) == MERGED
    assert described(outside) == {"k": File(b"theirs")}


def test_what_somebody_makes_meanwhile_does_not_hinder_the_way_back(
    root: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def racing(source: str, target: str, **kwargs: Any) -> None:
        if source == "n":  # the first that arrives after "link": a program puts a tree where "n" would go
            plant(root, {"n/taken": File(b"mine")})
        rename(source, target, **kwargs)

    monkeypatch.setattr(os, "rename", racing)
    with pytest.raises(Conflict, match="'n'"):
        staging.replace()
    assert described(root) == OLD | {"n": Directory(), "n/taken": File(b"mine")}


def test_the_file_systems_own_directory_stays(
    root: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(root, {"lost+found": Directory(0o700)})
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    staging.replace()
    assert described(root) == {**NEW, "lost+found": Directory(0o700)}


AS_NOBODY = """
import os, sys
from pathlib import Path
from tests.trees import Directory, File, described, plant
from toolserver.system.swap import Staging
os.setgid(65534), os.setuid(65534)  # after the imports, which it may not read
place = Path(sys.argv[1])
root, fails = place / "root", sys.argv[2] == "fails"
root.mkdir()
OLD = {"closed": Directory(0o555), "closed/f": File(b"1", 0o444), "z": Directory(0o555)}
NEW = {"closed": Directory(0o500), "closed/g": File(b"2", 0o400)}
plant(root, OLD)
with Staging(root, place / "state") as staging:
    plant(staging.open(), NEW)
    if fails:
        rename = os.rename
        def failing(source, *args, **kwargs):
            if source == "z":
                raise OSError(5, "no")
            rename(source, *args, **kwargs)
        os.rename = failing
        try:
            staging.replace()
        except Exception:
            os.rename = rename
    else:
        staging.replace()
assert described(root) == (OLD if fails else NEW), described(root)
assert os.listdir(place / "state") == []
"""


@pytest.mark.parametrize("outcome", ["works", "fails"])
def test_read_only_directories_change_places_without_root_and_keep_their_modes(
    outcome: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if os.geteuid():
        pytest.skip(
            "only root can become somebody else; as anybody else every other test here shows the same"
        )
    place = tmp_path_factory.mktemp("nobody")
    for above in (place, *place.parents[:3]):
        above.chmod(above.stat().st_mode | 0o011)
    place.chmod(0o777)
    subprocess.run([sys.executable, "-c", AS_NOBODY, str(place), outcome], check=True)


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A real one, with the old tree in the layer below, as in a container whose image has content."""
    below, merged = tmp_path / "below", tmp_path / "merged"
    for place in (below / "root", merged, tmp_path / "upper", tmp_path / "work"):
        place.mkdir(parents=True)
    plant(below / "root", OLD)
    layers = f"lowerdir={below},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}"
    command = ["mount", "-t", "overlay", "overlay", "-o", layers, str(merged)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no overlay can be mounted here")
    yield merged
    subprocess.run(["umount", str(merged)], check=True)


@pytest.mark.parametrize(("mode", "result"), [("replace", NEW), ("merge", MERGED)])
def test_content_of_an_image_below_an_overlay_is_swapped(mode: str, result: Tree, overlay: Path) -> None:
    with Staging(overlay / "root", overlay / "state") as staging:
        directory = staging.open()
        assert directory.is_relative_to(overlay / "state")
        plant(directory, NEW)
        getattr(staging, mode)()
    assert described(overlay / "root") == result
    assert list((overlay / "state").iterdir()) == []


def test_content_of_an_image_below_an_overlay_comes_back(
    overlay: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Staging(overlay / "root", overlay / "state") as staging:
        plant(staging.open(), NEW)
        with monkeypatch.context() as patched:
            _fail_at(patched, 9, errno.EBUSY)
            with pytest.raises(Conflict, match="nothing was changed"):
                staging.replace()
    assert described(overlay / "root") == OLD


def test_there_may_be_nothing_to_recover(root: Path, state: Path) -> None:
    assert recover(root, state) is Recovery.NOTHING
    assert described(root) == OLD


def test_litter_of_a_killed_staging_is_removed(root: Path, state: Path) -> None:
    plant(state, {"swap/new/half": File(b""), "swap/old": Directory(), "trash-1/a/b": File(b"")})
    plant(root, {f"{RESERVED}/swap/new/half": File(b"")})
    assert recover(root, state) is Recovery.NOTHING
    assert list(state.iterdir()) == []
    assert described(root) == OLD


@pytest.mark.parametrize("path", [b"../outside", b"/etc", b"a/../../outside", b""])
def test_a_forged_journal_moves_nothing(path: bytes, root: Path, state: Path, tmp_path: Path) -> None:
    plant(tmp_path, {"outside": File(b"mine")})
    journal = msgspec.msgpack.encode([1, [[path, True, True, None]]])
    plant(root, {f"{RESERVED}/swap/journal": File(journal), f"{RESERVED}/swap/old/0": File(b"forged")})
    plant(root, {f"{RESERVED}/swap/new": Directory()})
    assert recover(root, state) is Recovery.DAMAGED
    assert (tmp_path / "outside").read_bytes() == b"mine"
    kept = {path: node for path, node in described(root).items() if not path.startswith(RESERVED)}
    assert kept == OLD


@pytest.mark.usefixtures("inside")
def test_a_link_in_place_of_the_reserved_directory_is_not_followed(
    root: Path, state: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / RESERVED).symlink_to(outside)
    with Staging(root, state) as staging:
        plant(staging.open(), NEW)
        staging.replace()
    assert described(root) == NEW
    assert list(outside.iterdir()) == []


def test_trees_of_any_depth_are_removed(root: Path, state: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=fd)
        below = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with Staging(root, state) as staging:
        plant(staging.open(), NEW)
        staging.replace()
    assert list(state.iterdir()) == []
    assert described(root) == NEW


def test_who_finds_the_reserved_directory_empty_may_remove_it_at_any_moment(
    root: Path, state: Path, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, removed = swap._new_area, list[str]()

    def found_empty(*given: Any) -> Any:
        if not removed:
            removed.append(RESERVED)
            (root / RESERVED).rmdir()
        return make(*given)

    monkeypatch.setattr(swap, "_new_area", found_empty)
    with Staging(root, state) as staging:
        (staging.open() / "new").write_text("new")
        staging.replace()
    assert removed == [RESERVED]
    assert [each.name for each in root.iterdir()] == ["new"]
