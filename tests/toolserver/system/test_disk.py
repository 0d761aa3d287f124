"""The way to the workspace's files: whatever a link says, nothing outside is reached.

Every test runs twice: resolved by ``openat2``, and by the walk that replaces it where it is missing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.errors import InvalidRequest, NotAFile, NotFound, OutsideWorkspace, ToolError
from tests.builder import emptied, exactly, tree_of
from toolserver.system import disk as module
from toolserver.system.disk import Disk

SECRET = b"not for the workspace"


def _missing(*_: object) -> int:
    raise OSError(errno.ENOSYS, "Function not implemented")


@pytest.fixture(params=["openat2", "walk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "walk":
        monkeypatch.setattr(module, "_openat2", _missing)
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path, way: str) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def disk(root: Path) -> Iterator[Disk]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    disk = Disk(root)
    yield disk
    disk.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def read(disk: Disk, raw: str) -> bytes:
    return disk.read(disk.path(raw))[0]


def write(disk: Disk, raw: str, content: bytes = b"new") -> None:
    disk.replace(disk.path(raw), content)


def test_a_file_is_read_below_directories(disk: Disk, root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "f").write_bytes(b"x")
    for raw in ("a/b/f", "./a//b/../b/f", "/app/a/b/f", f"{root}/a/b/f"):
        assert read(disk, raw) == b"x"


INSIDE = {
    "relative": "dir/file",
    "over a parent": "dir/../dir/file",
    "to a link": "link-to-file",
    "absolute": "{root}/dir/file",
    "absolute, as /app": "/app/dir/file",
    "absolute, as /workspace": "/workspace/dir/file",
    "through a linked directory": "dir-link/file",
    "through an absolute link to a directory": "dir-absolute/file",
    "down and up again": "dir/deep/../../dir/file",
}


@pytest.mark.parametrize("target", INSIDE.values(), ids=INSIDE.keys())
def test_a_link_that_stays_inside_is_followed(disk: Disk, root: Path, target: str) -> None:
    (root / "dir" / "deep").mkdir(parents=True)
    (root / "dir" / "file").write_bytes(b"x")
    (root / "link-to-file").symlink_to("dir/file")
    (root / "dir-link").symlink_to("dir")
    (root / "dir-absolute").symlink_to(root / "dir")
    (root / "link").symlink_to(target.format(root=root))
    assert read(disk, "link") == b"x"
    write(disk, "link", b"y")
    assert (root / "dir" / "file").read_bytes() == b"y"
    assert (root / "link").is_symlink()


LEAVING = {
    "relative": "../outside/secret",
    "relative, deeper": "dir/../../outside/secret",
    "absolute": "{outside}/secret",
    "to a system file": "/etc/passwd",
    "to a name that begins like the root": "{root}-sibling/secret",
    "over a directory link": "to-outside/secret",
    "over the parent of the root": "../root/../outside/secret",
    "magic": "/proc/self/root{outside}/secret",
    "the whole machine": "/",
}


@pytest.mark.parametrize("target", LEAVING.values(), ids=LEAVING.keys())
def test_a_link_that_leaves_is_refused(disk: Disk, root: Path, target: str) -> None:
    outside = root.parent / "outside"
    (root / "dir").mkdir()
    (root / "to-outside").symlink_to(outside)
    (root / "link").symlink_to(target.format(root=root, outside=outside))
    before = tree_of(root.parent)
    with pytest.raises(OutsideWorkspace):
        read(disk, "link")
    with pytest.raises(OutsideWorkspace):
        write(disk, "link")
    assert tree_of(root.parent) == before


def test_a_directory_link_that_leaves_leads_to_no_writing_outside(disk: Disk, root: Path) -> None:
    (root / "out").symlink_to(root.parent / "outside")
    before = tree_of(root.parent)
    for raw in ("out/new", "out/deep/new", "out/secret"):
        with pytest.raises(OutsideWorkspace):
            write(disk, raw)
    assert tree_of(root.parent) == before


def test_the_error_names_the_link_and_not_what_is_outside(disk: Disk, root: Path) -> None:
    (root / "link").symlink_to(root.parent / "outside" / "secret")
    with pytest.raises(OutsideWorkspace) as caught:
        read(disk, "link")
    assert "'link'" in caught.value.message
    assert str(root.parent) not in caught.value.message
    assert caught.value.details == {"path": "link"}


def test_links_in_a_circle_are_refused(disk: Disk, root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OutsideWorkspace, match=r"^'a' goes over links that lead in a circle"):
        read(disk, "a")


def test_a_link_to_nothing_is_not_found(disk: Disk, root: Path) -> None:
    (root / "dangling").symlink_to("nothing")
    with pytest.raises(NotFound):
        read(disk, "dangling")
    with pytest.raises(NotFound, match=r"^'dangling' is a link to something that is not there; "):
        write(disk, "dangling")
    assert (root / "dangling").is_symlink()


@pytest.mark.parametrize("raw", ["missing", "missing/file", "dir/missing"])
def test_nothing_there_is_not_found(disk: Disk, root: Path, raw: str) -> None:
    (root / "dir").mkdir()
    with pytest.raises(NotFound, match=exactly(f"there is nothing at '{raw}'; 'list' shows what there is")):
        read(disk, raw)


def test_a_file_is_no_directory_on_the_way(disk: Disk, root: Path) -> None:
    (root / "file").write_bytes(b"")
    message = exactly("'file/x', or a name on the way to it, is not a directory")
    with pytest.raises(NotFound, match=message):
        read(disk, "file/x")
    with pytest.raises(NotFound):
        write(disk, "file/x")
    with pytest.raises(NotFound):
        write(disk, "file/x/y")
    assert tree_of(root) == {"file": b""}


def test_a_directory_has_no_content(disk: Disk, root: Path) -> None:
    (root / "dir").mkdir()
    message = "'dir' is a directory; name a file in it, or use 'list'"
    with pytest.raises(NotAFile, match=exactly(message)):
        read(disk, "dir")
    with pytest.raises(NotAFile, match=exactly(message)):
        write(disk, "dir")


def test_the_root_is_no_file(disk: Disk) -> None:
    with pytest.raises(NotAFile):
        read(disk, ".")
    with pytest.raises(InvalidRequest, match=r"^the workspace root itself is not a file"):
        write(disk, ".")


def test_a_fifo_does_not_hang(disk: Disk, root: Path) -> None:
    os.mkfifo(root / "fifo")
    message = "'fifo' is neither a file nor a directory, so it has no content to read"
    with pytest.raises(NotAFile, match=exactly(message)):
        read(disk, "fifo")
    with pytest.raises(NotAFile):
        write(disk, "fifo")
    assert stat.S_ISFIFO((root / "fifo").lstat().st_mode)


def test_at_most_one_byte_past_the_limit_is_read(disk: Disk, root: Path) -> None:
    (root / "big").write_bytes(b"x" * 100)
    data, info = disk.read(disk.path("big"), 10)
    assert (len(data), info.st_size) == (11, 100)


def test_a_file_is_replaced_by_rename_and_keeps_its_mode(disk: Disk, root: Path) -> None:
    (root / "f").write_bytes(b"old")
    (root / "f").chmod(0o750)
    before = (root / "f").stat().st_ino
    write(disk, "f")
    after = (root / "f").stat()
    assert (stat.S_IMODE(after.st_mode), (root / "f").read_bytes()) == (0o750, b"new")
    assert after.st_ino != before
    assert list(tree_of(root)) == ["f"]


def test_a_new_file_gets_the_usual_mode_whatever_the_umask(disk: Disk, root: Path) -> None:
    old = os.umask(0o077)
    try:
        write(disk, "f")
        disk.replace(disk.path("g"), b"", mode=0o755)
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o644
    assert stat.S_IMODE((root / "g").stat().st_mode) == 0o755


def test_missing_directories_are_made_when_asked(disk: Disk, root: Path) -> None:
    with pytest.raises(NotFound):
        disk.replace(disk.path("a/b/f"), b"x", create_parents=False)
    assert tree_of(root) == {}
    write(disk, "a/b/f")
    assert tree_of(root) == {"a": None, "a/b": None, "a/b/f": b"new"}


def test_a_write_that_fails_leaves_nothing_of_itself(
    disk: Disk, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (root / "there").mkdir()
    message = "no space is left for 'there/a/b/f'; nothing was changed. Remove files and try again"
    with pytest.raises(ToolError, match=exactly(message)):
        write(disk, "there/a/b/f")
    assert tree_of(root) == {"there": None}


def test_stat_does_not_follow_the_last_link(disk: Disk, root: Path) -> None:
    (root / "link").symlink_to("/etc/passwd")
    assert stat.S_ISLNK(disk.stat(disk.path("link")).st_mode)
    assert stat.S_ISDIR(disk.stat(disk.path(".")).st_mode)
    assert disk.exists(disk.path("link"))
    assert not disk.exists(disk.path("nothing"))


def test_a_real_path_has_no_links(disk: Disk, root: Path) -> None:
    (root / "dir").mkdir()
    (root / "dir" / "f").write_bytes(b"")
    (root / "link").symlink_to(root / "dir")
    assert disk.real_path(disk.path("link/f")) == "dir/f"
    assert disk.directory(disk.path("link")) == str(root / "dir")


@pytest.mark.parametrize("raw", ["../x", "/etc/passwd", "a\0b", "", "x" * 300])
def test_a_wrong_path_never_reaches_the_disk(disk: Disk, raw: str) -> None:
    with pytest.raises(ToolError):
        disk.path(raw)


names = st.sampled_from(["a", "b", "c"])
targets = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=4).map("/".join)
steps = st.lists(
    st.tuples(st.sampled_from(["dir", "file", "link"]), st.lists(names, min_size=1, max_size=3), targets),
    max_size=6,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, wanted=st.lists(names, min_size=1, max_size=4).map("/".join), base=st.booleans())
def test_in_any_tree_of_links_only_what_is_inside_is_read(
    root: Path, steps: list[tuple[str, list[str], str]], wanted: str, base: bool
) -> None:
    """The reference is ``os.path.realpath`` of a tree that nobody changes meanwhile."""
    emptied(root)
    for kind, parts, target in steps:
        place = root.joinpath(*parts)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if kind == "dir":
                place.mkdir()
            elif kind == "file":
                place.write_bytes(b"inside")
            else:
                place.symlink_to(f"{root}/{target}" if base else target)
        except OSError:
            continue
    disk = Disk(root)
    try:
        data: bytes | None = read(disk, wanted)
    except ToolError:
        data = None
    finally:
        disk.close()
    if data is not None:
        assert data == b"inside"
        real = os.path.realpath(root / wanted)
        assert real.startswith(f"{root}/")
        assert Path(real).read_bytes() == b"inside"
