"""Archives in and out of directories: round trips with ourselves and with GNU tar, and everything hostile."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import random
import socket
import stat
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.errors import ArchiveInvalid, ArchiveUnsafe, NoSpace, TooLarge, ToolError
from protocol.exclusions import Exclusions
from protocol.limits import MIB, Limits
from protocol.messages.archives import ArchiveFormat
from protocol.tar import Kind, Member, pack
from tests.builder import exactly
from tests.random_trees import trees
from tests.trees import Directory, File, Link, Tree, described, plant
from toolserver.system.tarballs import Extracted, Extraction, Packed, Packing, reading

SECOND = 1_000_000_000
ALL = Exclusions.nothing()
FORMATS = list(ArchiveFormat)

TREE: Tree = {
    ".env.example": File(b"KEY="),
    "bin": Directory(),
    "bin/run": File(b"#!/bin/sh\n", 0o755),
    "closed": Directory(0o555),
    "closed/secret": File(b"", 0o400),
    "empty": Directory(0o700),
    "link": Link("bin/run"),
    "nowhere": Link("missing"),
    "up": Directory(),
    "up/link": Link("../bin"),
}


def extract(archive: bytes, directory: Path, *, limits: Limits = Limits(), chunk: int = 4096) -> Extracted:
    directory.mkdir(exist_ok=True)
    with Extraction(directory, limits) as extraction:
        for at in range(0, len(archive), chunk):
            extraction.feed(archive[at : at + chunk])
        return extraction.finish()


def packed(
    directory: Path, format: ArchiveFormat = ArchiveFormat.TAR, exclusions: Exclusions = ALL, **options: Any
) -> tuple[bytes, Packed]:
    fd = os.open(directory, os.O_RDONLY)
    try:
        with Packing(fd, exclusions, format, **options) as packing:
            archive = b"".join(packing)
        return archive, packing.result
    finally:
        os.close(fd)


def tar_of(*entries: tuple[Member, bytes]) -> bytes:
    return b"".join(pack((member, [content] if content else []) for member, content in entries))


def file(name: str, content: bytes = b"x", **fields: Any) -> tuple[Member, bytes]:
    return Member(name=name, size=len(content), **fields), content


def symlink(name: str, target: str) -> tuple[Member, bytes]:
    return Member(name=name, kind=Kind.SYMLINK, link=target), b""


def hard_link(name: str, target: str) -> tuple[Member, bytes]:
    return Member(name=name, kind=Kind.HARD_LINK, link=target), b""


def directory(name: str, mode: int = 0o755) -> tuple[Member, bytes]:
    return Member(name=name, kind=Kind.DIRECTORY, mode=mode), b""


def gnu_tar(*arguments: str, **options: Any) -> bytes:
    done = subprocess.run(["tar", *arguments], check=True, stdout=subprocess.PIPE, **options)
    return bytes(done.stdout)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "source"
    place.mkdir()
    plant(place, TREE)
    return place


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture(autouse=True)
def _all_descriptors_are_closed() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


# Round trips


@pytest.mark.parametrize("format", FORMATS)
def test_a_tree_survives(format: ArchiveFormat, source: Path, target: Path) -> None:
    archive, told = packed(source, format)
    extracted = extract(archive, target)
    assert described(target) == TREE
    assert told.digest == extracted.digest
    assert (told.files, told.directories, told.links, told.content_bytes) == (3, 4, 3, 14)
    assert (extracted.files, extracted.directories, extracted.links, extracted.bytes) == (3, 4, 3, 14)
    assert (told.packed_bytes, told.tar_bytes) == (extracted.packed_bytes, extracted.tar_bytes)
    assert told.packed_bytes == len(archive)


_SLOW = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])


@_SLOW
@given(trees())
def test_any_tree_survives_us_and_comes_out_the_same_again(tree: Tree) -> None:
    with _places() as (source, target):
        plant(source, tree)
        archive, told = packed(source, ArchiveFormat.GZIP)
        extract(archive, target, chunk=777)
        assert told.left_out == []
        assert described(target) == described(source) == tree
        assert packed(target)[1].digest == told.digest


@_SLOW
@given(trees())
def test_any_tree_packed_by_us_is_unpacked_by_gnu_tar(tree: Tree) -> None:
    with _places() as (source, target):
        plant(source, tree)
        target.mkdir()
        gnu_tar("-xzpf", "-", "-C", str(target), input=packed(source, ArchiveFormat.GZIP)[0])
        assert described(target) == tree


@_SLOW
@given(trees(), st.sampled_from(["gnu", "posix"]))
def test_any_tree_packed_by_gnu_tar_is_unpacked_by_us(tree: Tree, format: str) -> None:
    with _places() as (source, target):
        plant(source, tree)
        extract(gnu_tar(f"--format={format}", "-czf", "-", "-C", str(source), "."), target)
        assert described(target) == tree


def test_a_file_with_holes_is_the_same_file_whoever_packs_and_unpacks_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "holes").open("wb") as file:
        for at in (100_000, 900_000, 5_000_000):  # past what is read as a whole, too
            file.seek(at)
            file.write(b"data")
        file.truncate(6_000_000)
    expected = described(source)
    archive = packed(source, ArchiveFormat.GZIP)[0]
    ours, theirs, both = (tmp_path / name for name in ("ours", "theirs", "both"))
    theirs.mkdir()
    extract(archive, ours)
    gnu_tar("-xzpf", "-", "-C", str(theirs), input=archive)
    extract(gnu_tar("-czf", "-", "-C", str(source), "."), both)
    assert described(ours) == described(theirs) == described(both) == expected


class _places:
    """Two directories for one example, and no more of them after it."""

    def __enter__(self) -> tuple[Path, Path]:
        self._place = tempfile.TemporaryDirectory()
        place = Path(self._place.name)
        (place / "source").mkdir()
        return place / "source", place / "target"

    def __exit__(self, *_: object) -> None:
        self._place.cleanup()


def test_times_are_kept_of_files_directories_and_links(source: Path, target: Path) -> None:
    for number, path in enumerate(("bin/run", "link", "bin", "closed")):
        os.utime(source / path, (number, 10**9 + number), follow_symlinks=False)
    extract(packed(source)[0], target)
    times = [(target / path).lstat().st_mtime for path in ("bin/run", "link", "bin", "closed")]
    assert times == [10**9, 10**9 + 1, 10**9 + 2, 10**9 + 3]


def test_a_fraction_of_a_second_in_an_archive_is_kept(target: Path) -> None:
    extract(tar_of(file("a", mtime_ns=1_500_000_000)), target)
    assert (target / "a").stat().st_mtime_ns == 1_500_000_000


@pytest.mark.parametrize("seconds", [-1, 2**40, 10**17])
def test_any_time_can_be_unpacked(seconds: int, target: Path) -> None:
    extract(tar_of(file("a", mtime_ns=seconds * SECOND), directory("d"), symlink("l", "a")), target)


def test_the_same_content_packs_to_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    for name, order in (("one", ["a", "b", "c"]), ("two", ["c", "a", "b"])):
        for file_name in order:
            plant(tmp_path / name, {file_name: File(b"x")})
            os.utime(tmp_path / name / file_name, (7, 7))
    assert packed(tmp_path / "one") == packed(tmp_path / "two")


def test_a_fixed_time_stands_in_for_all(source: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(source, mtime=5)[0])) as archive:
        assert {(info.mtime, info.uid, info.gid, info.uname, info.gname) for info in archive} == {
            (5, 0, 0, "", "")
        }


def test_member_names_are_relative_and_sorted_parents_first(source: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(source)[0])) as archive:
        names = archive.getnames()
    assert names == [".", *(f"./{path}" for path in TREE)]


def test_an_empty_workspace_can_be_saved_and_restored(tmp_path: Path, target: Path) -> None:
    (tmp_path / "empty").mkdir()
    extract(packed(tmp_path / "empty")[0], target)
    assert described(target) == {}


def test_an_archive_of_a_directory_by_tar_is_loaded(source: Path, target: Path, tmp_path: Path) -> None:
    gnu_tar("-czf", str(tmp_path / "x.tar.gz"), "-C", str(source), ".")
    extract((tmp_path / "x.tar.gz").read_bytes(), target)
    assert described(target) == TREE


def test_the_digest_is_that_of_the_plain_tar(source: Path) -> None:
    archive = packed(source)[0]
    expected = "sha256:" + hashlib.sha256(archive).hexdigest()
    assert {packed(source, format)[1].digest for format in FORMATS} == {expected}


def test_large_contents_survive_the_second_thread(tmp_path: Path, target: Path) -> None:
    content = os.urandom(5 * MIB)
    plant(tmp_path / "big", {"a": File(content), "b": File(content[::-1]), "c": File(b"small")})
    for format in FORMATS:
        extract(packed(tmp_path / "big", format)[0], target, chunk=100_000)
        assert described(target) == described(tmp_path / "big")


# What is packed, and what is not


def test_exclusions_are_left_out_and_not_told(source: Path) -> None:
    plant(source, {"node_modules/x/y": File(b""), "src/build/keep": File(b""), "a.log": File(b"")})
    archive, told = packed(source, exclusions=Exclusions.default())
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        names = set(opened.getnames())
    assert "./src/build/keep" in names
    assert not any("node_modules" in name or name.endswith(".log") for name in names)
    assert told.left_out == []


def test_what_no_archive_could_bring_back_is_left_out_and_told(source: Path, target: Path) -> None:
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(source)  # a socket's path is short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
    (source / "leaves").symlink_to("/etc/passwd")
    (source / "climbs").symlink_to("../source")
    deep = "/".join("d" * 66)
    plant(source, {deep: File(b"")})
    archive, told = packed(source)
    assert told.left_out == [
        "climbs: symlink 'climbs' -> '../source' leaves the archive's root",
        f"{deep}: member {deep!r} lies deeper than 64 directories (maxArchiveDepth)",
        "fifo: a FIFO",
        "leaves: symlink 'leaves' -> '/etc/passwd' is absolute; link to a path relative to the link",
        "socket: a socket",
    ]
    assert told.left_out_count == 5
    extract(archive, target)


def test_a_tree_past_the_limits_is_refused_when_it_is_packed(source: Path) -> None:
    with pytest.raises(TooLarge, match="maxArchiveEntries"):
        packed(source, limits=Limits(max_archive_entries=3))
    with pytest.raises(TooLarge, match="maxUnpackedBytes"):
        packed(source, limits=Limits(max_unpacked_bytes=10))


def test_a_packing_that_is_broken_off_closes_everything(source: Path) -> None:
    plant(source, {"bin/big": File(os.urandom(3 * MIB))})
    fd = os.open(source, os.O_RDONLY)
    packing = Packing(fd, ALL, ArchiveFormat.TAR)
    next(packing)
    packing.close()
    os.close(fd)
    with pytest.raises(StopIteration):
        next(packing)
    with pytest.raises(RuntimeError, match="not packed yet"):
        _ = packing.result


def _when_read(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> None:
    """Call ``act`` with the number of the read, right after it."""
    pread, reads = os.pread, iter(range(10**9))

    def reading_and_acting(fd: int, count: int, at: int) -> bytes:
        data = pread(fd, count, at)
        act(next(reads))
        return data

    monkeypatch.setattr(os, "pread", reading_and_acting)


def test_a_small_file_that_changes_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "changing"
    plant(place, {"a": File(b"old")})
    _when_read(monkeypatch, lambda number: (place / "a").write_bytes(b"newer") if number == 0 else None)
    archive, told = packed(place)
    assert (told.changed, told.content_bytes) == ([], 5)
    assert b"newer" in archive


def test_a_small_file_that_never_holds_still_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Path
) -> None:
    place = tmp_path / "changing"
    plant(place, {"a": File(b"old"), "b": File(b"still")})

    def change(number: int) -> None:
        with (place / "a").open("ab") as file:
            file.write(b"!")

    _when_read(monkeypatch, change)
    archive, told = packed(place)
    assert told.changed == ["a"]
    extract(archive, target)
    assert (target / "a").read_bytes().startswith(b"old")


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is streamed: past what is held in memory."""
    monkeypatch.setattr(reading, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(reading, "_PIECE_BYTES", 500)
    plant(tmp_path / "large", {"a": File(b"x" * 3000)})
    return tmp_path / "large"


def test_a_large_file_that_grows_keeps_its_first_size_and_is_told(
    large: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _when_read(monkeypatch, lambda number: (large / "a").write_bytes(b"x" * 4000) if number == 1 else None)
    archive, told = packed(large)
    assert told.changed == ["a"]
    extract(archive, target)
    assert (target / "a").read_bytes() == b"x" * 3000


def test_a_large_file_that_shrinks_follows_once_more_and_is_whole(
    large: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _when_read(monkeypatch, lambda number: (large / "a").write_bytes(b"y" * 1200) if number == 1 else None)
    archive, told = packed(large)
    assert (told.changed, told.files) == ([], 1)
    assert extract(archive, target).files == 1
    assert (target / "a").read_bytes() == b"y" * 1200
    (target / "a").unlink()
    gnu_tar("-xf", "-", "-C", str(target), input=archive)
    assert (target / "a").read_bytes() == b"y" * 1200


def test_a_large_file_that_shrinks_again_and_again_is_told(
    large: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shrink(number: int) -> None:
        with (large / "a").open("r+b") as file:
            file.truncate(max(1001, 2900 - 100 * number))

    _when_read(monkeypatch, shrink)
    archive, told = packed(large)
    assert told.changed == ["a"]
    extract(archive, target)


def test_a_file_that_becomes_a_fifo_does_not_hang(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ = os.open
    done: list[str] = []

    def swapping(path: Any, *args: Any, **kwargs: Any) -> int:
        if path == "run" and not done:
            done.append(path)
            (source / "bin/run").unlink()
            os.mkfifo(source / "bin/run")
        return open_(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", swapping)
    assert packed(source)[1].left_out == ["bin/run: a FIFO"]


def test_a_directory_that_becomes_a_link_is_not_followed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path / "outside", {"theirs": File(b"theirs")})
    open_ = os.open
    done: list[str] = []

    def swapping(path: Any, *args: Any, **kwargs: Any) -> int:
        if path == "up" and not done:
            done.append(path)
            (source / "up/link").unlink()
            (source / "up").rmdir()
            (source / "up").symlink_to(tmp_path / "outside")
        return open_(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", swapping)
    archive, told = packed(source)
    assert b"theirs" not in archive
    assert told.left_out == ["up: cannot be read: Not a directory"]


def test_a_file_that_vanishes_is_not_part_of_the_tree(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ = os.open

    def vanishing(path: Any, *args: Any, **kwargs: Any) -> int:
        if path == "run":
            (source / "bin/run").unlink(missing_ok=True)
        return open_(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", vanishing)
    told = packed(source)[1]
    assert (told.files, told.left_out, told.changed) == (2, [], [])


# Hostile archives: each is refused for its own reason, and nothing of it gets out of the directory

HOSTILE: dict[str, tuple[list[tuple[Member, bytes]], type[ToolError], str]] = {
    "climbs": ([file("../x")], ArchiveUnsafe, "member '../x' climbs by '..'; names in an archive stay in it"),
    "climbs later": ([file("a/../../x")], ArchiveUnsafe, "member 'a/../../x' climbs"),
    "climbs as a directory": ([directory("../d")], ArchiveUnsafe, "member '../d' climbs"),
    "is absolute": ([file("/etc/x")], ArchiveUnsafe, "member '/etc/x' has an absolute name"),
    "links out": ([symlink("l", "../x")], ArchiveUnsafe, "symlink 'l' -> '../x' leaves the archive's root"),
    "links to an absolute path": ([symlink("l", "/etc")], ArchiveUnsafe, "symlink 'l' -> '/etc' is absolute"),
    "links into the root's own absolute path": (
        [symlink("l", "/app/x")],
        ArchiveUnsafe,
        "symlink 'l' -> '/app/x' is absolute",
    ),
    "links out by another link": (
        [directory("a"), symlink("a/up", ".."), symlink("l", "a/up/../x")],
        ArchiveUnsafe,
        "symlink 'l' -> 'a/up/../x' climbs by '..' after a name",
    ),
    "writes through a link": (
        [directory("d"), symlink("l", "d"), file("l/x")],
        ArchiveUnsafe,
        "member 'l/x' would be written through the link 'l'",
    ),
    "writes through a link, deeper": (
        [directory("d"), symlink("l", "d"), file("l/a/b/x")],
        ArchiveUnsafe,
        "member 'l/a/b/x' would be written through the link 'l'",
    ),
    "puts a directory in a link's place": (
        [directory("d"), symlink("l", "d"), directory("l")],
        ArchiveUnsafe,
        "member 'l' is in the archive twice, first as a link, then as a directory",
    ),
    "puts a link in a directory's place": (
        [directory("d"), file("d/x"), symlink("d", "x")],
        ArchiveUnsafe,
        "member 'd' is in the archive twice, first as a directory, then as a link",
    ),
    "puts a file in a link's place": (
        [symlink("l", "x"), file("l")],
        ArchiveUnsafe,
        "member 'l' is in the archive twice, first as a link, then as a file",
    ),
    "puts a link in a file's place": (
        [file("a"), symlink("a", "x")],
        ArchiveUnsafe,
        "member 'a' is in the archive twice, first as a file, then as a link",
    ),
    "puts a file in a directory's place": (
        [directory("d"), file("d")],
        ArchiveUnsafe,
        "member 'd' is in the archive twice, first as a directory, then as a file",
    ),
    "puts a hard link in a link's place": (
        [file("a"), symlink("l", "a"), hard_link("l", "a")],
        ArchiveUnsafe,
        "member 'l' is in the archive twice, first as a link, then as a file",
    ),
    "has a member below a file": (
        [file("a"), file("a/b")],
        ArchiveUnsafe,
        "member 'a/b' lies below a name that is",
    ),
    "hard links out": ([hard_link("h", "../x")], ArchiveUnsafe, "hard link 'h' to '../x' climbs"),
    "hard links to an absolute path": (
        [hard_link("h", "/etc/passwd")],
        ArchiveUnsafe,
        "hard link 'h' to '/etc/passwd' has an absolute name",
    ),
    "hard links through a link": (
        [directory("d"), file("d/x"), symlink("l", "d"), hard_link("h", "l/x")],
        ArchiveUnsafe,
        "member 'l/x' would be written through the link 'l'",
    ),
    "hard links to what is not there": (
        [hard_link("h", "later"), file("later")],
        ArchiveInvalid,
        "hard link 'h' to 'later' comes before what it names",
    ),
    "hard links to itself": (
        [file("h"), hard_link("h", "./h")],
        ArchiveInvalid,
        "hard link 'h' names itself",
    ),
    "hard links to a directory": (
        [directory("d"), hard_link("h", "d")],
        ArchiveInvalid,
        "hard link 'h' names a directory",
    ),
    "hard links a link out": (
        [directory("a"), symlink("a/up", "../x"), hard_link("h", "a/up")],
        ArchiveUnsafe,
        "symlink 'h' -> '../x' leaves the archive's root",
    ),
    "has a FIFO": ([(Member(name="p", kind=Kind.FIFO), b"")], ArchiveUnsafe, "member 'p' is a fifo"),
    "has a block device": (
        [(Member(name="sda", kind=Kind.BLOCK_DEVICE), b"")],
        ArchiveUnsafe,
        "member 'sda' is a block device",
    ),
    "has a character device": (
        [(Member(name="null", kind=Kind.CHARACTER_DEVICE), b"")],
        ArchiveUnsafe,
        "member 'null' is a character device",
    ),
    "puts a link in the root's place": (
        [symlink("./", "x")],
        ArchiveUnsafe,
        "member './' is the archive's root, but a symlink",
    ),
    "puts a file in the root's place": (
        [file(".")],
        ArchiveUnsafe,
        "member '.' is the archive's root, but a file",
    ),
    "has a link to nothing": ([symlink("l", "")], ArchiveInvalid, "symlink 'l' points at nothing"),
    "has a NUL in a name": ([file("a\0b" + "c" * 120)], ArchiveUnsafe, "has a NUL in its name"),
    "is too deep": ([file("d/" * 70 + "x")], TooLarge, "lies deeper than 64 directories"),
    "has too long a name": ([file("x" * 256)], TooLarge, "has a component of more than 255 bytes"),
    "has too long a path": (
        [file(("x" * 200 + "/") * 25 + "x")],
        TooLarge,
        "has a name of more than 4096 bytes",
    ),
    "has too long a target": ([symlink("l", "x" * 5000)], TooLarge, "has a target of 4096 bytes or more"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_archive_that_is_hostile_is_refused(what: str, target: Path) -> None:
    entries, error, reason = HOSTILE[what]
    beside = target.parent
    before = described(beside)
    with pytest.raises(error) as refusal:
        extract(tar_of(*entries), target)
    assert reason in refusal.value.message
    assert {path for path in described(beside) if not path.startswith("target")} == set(before)


def test_the_corpus_has_thirty_ways_to_be_hostile() -> None:
    assert len(HOSTILE) >= 30


def test_set_uid_and_its_like_are_taken_off(target: Path) -> None:
    extract(tar_of(file("a", mode=0o6755), directory("d", 0o3777)), target)
    assert described(target) == {"a": File(b"x", 0o755), "d": Directory(0o777)}


def test_of_two_members_of_one_kind_the_last_counts(target: Path) -> None:
    told = extract(
        tar_of(
            file("a", b"first"), hard_link("b", "a"), file("a", b"last"), symlink("l", "a"), symlink("l", "b")
        ),
        target,
    )
    assert described(target) == {"a": File(b"last"), "b": File(b"first"), "l": Link("b")}
    assert (told.files, told.links, told.entries) == (1, 2, 5)


def test_hard_links_are_made_and_links_to_links_made_anew(target: Path) -> None:
    extract(tar_of(file("a"), hard_link("d/b", "./a"), symlink("l", "a"), hard_link("m", "l")), target)
    assert (target / "a").stat().st_ino == (target / "d/b").stat().st_ino
    assert described(target)["m"] == Link("a")


def test_directories_on_the_way_are_made(target: Path) -> None:
    extract(tar_of(file("a/b/c")), target)
    assert described(target) == {"a": Directory(), "a/b": Directory(), "a/b/c": File(b"x")}


def test_more_directories_than_are_kept_open_are_filled(target: Path) -> None:
    entries = [file(f"{number % 200}/{'d/' * (number % 60)}{number}") for number in range(600)]
    assert extract(tar_of(*entries), target).files == 600


def test_the_tool_servers_own_directory_is_passed_over(target: Path) -> None:
    told = extract(
        tar_of(directory(".workspace-core"), file(".workspace-core/x", b"content"), file("a")), target
    )
    assert described(target) == {"a": File(b"x")}
    assert told.passed_over == 2


# Packed streams

# The same in every process: where a stream is found to be damaged depends on what is in it.
PLAIN = tar_of(file("a", b"hello"), file("b", random.Random(1).randbytes(3000)))


@pytest.mark.parametrize("squeeze", [gzip.compress, zstandard.compress, bytes])
def test_a_stream_cut_at_any_byte_is_invalid(squeeze: Callable[[bytes], bytes], tmp_path: Path) -> None:
    archive = squeeze(tar_of(file("a", b"hello")))
    for end in range(0, len(archive), max(1, len(archive) // 150)):
        with pytest.raises(ArchiveInvalid):
            extract(archive[:end], tmp_path / "t")


@pytest.mark.parametrize("squeeze", [gzip.compress, zstandard.compress, bytes])
@pytest.mark.parametrize("chunk", [1, 3, 511, 513])
def test_it_makes_no_difference_how_a_stream_comes(
    squeeze: Callable[[bytes], bytes], chunk: int, target: Path
) -> None:
    extract(squeeze(PLAIN), target, chunk=chunk)
    assert (target / "a").read_bytes() == b"hello"


CHECKED = zstandard.ZstdCompressor(write_checksum=True).compress(PLAIN)
SKIPPED = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"


@pytest.mark.parametrize("chunk", [1, 2, 100_000])
@pytest.mark.parametrize(
    "archive",
    [
        gzip.compress(PLAIN[:1000]) + gzip.compress(PLAIN[1000:]),
        gzip.compress(PLAIN) + gzip.compress(b""),
        gzip.compress(PLAIN) + bytes(2000),
        zstandard.compress(PLAIN[:1000]) + zstandard.compress(PLAIN[1000:]),
        zstandard.compress(PLAIN) + bytes(2000),
        SKIPPED + zstandard.compress(PLAIN[:1000]) + SKIPPED + zstandard.compress(PLAIN[1000:]),
        PLAIN + bytes(10_000),
    ],
    ids=[
        "gzip twice",
        "gzip and nothing",
        "gzip padded",
        "zstd twice",
        "zstd padded",
        "zstd skipped",
        "tar padded",
    ],
)
def test_streams_in_a_row_and_zeros_behind_are_fine(archive: bytes, chunk: int, target: Path) -> None:
    assert extract(archive, target, chunk=chunk).files == 2


@pytest.mark.parametrize("chunk", [1, 100_000])
@pytest.mark.parametrize("squeeze", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("more", [b"garbage", b"\x1f", b"\0\0x", b"\x28\xb5"])
def test_anything_else_behind_a_stream_is_refused(
    more: bytes, squeeze: Callable[[bytes], bytes], chunk: int, target: Path
) -> None:
    with pytest.raises(ArchiveInvalid, match=r"holds bytes that belong to nothing|cut short|damaged"):
        extract(squeeze(PLAIN) + more, target, chunk=chunk)


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"", "the archive is empty"),
        (b"<html>no archive</html>", "this is no archive; send tar.gz, tar.zst or plain tar"),
        (b"PK\x03\x04" + bytes(600), "this is a zip file; send tar.gz, tar.zst or plain tar"),
        (gzip.compress(b""), "the archive is empty"),
        (gzip.compress(b"no tar " * 100), "byte 0 should begin a tar header, but its checksum is wrong"),
        (bytes(1024), "the archive holds no member"),
        (gzip.compress(PLAIN)[:-8] + bytes(8), "the archive's gzip stream is damaged"),
        (gzip.compress(PLAIN)[:100] + b"\xff" * 100, "the archive's gzip stream is damaged"),
        (CHECKED[:-4] + bytes(4), "the archive's zstd stream is damaged"),
        (gzip.compress(PLAIN)[:-1], "the archive is cut short: its packed stream ends in the middle"),
        (b"\x28\xb5\x2f\xfd\0\xa8" + bytes(100), "pack it with 'zstd --long=27' at most"),
    ],
    # Named, because gzip writes the time: the bytes as names would be others in every process of the tests.
    ids=[
        "nothing",
        "a page",
        "zip",
        "nothing packed",
        "text packed",
        "no member",
        "another checksum",
        "damaged within",
        "another zstd checksum",
        "cut by a byte",
        "a window of 2 GiB",
    ],
)
def test_what_is_no_archive_is_told(archive: bytes, reason: str, target: Path) -> None:
    with pytest.raises(ArchiveInvalid) as refusal:
        extract(archive, target)
    assert reason in refusal.value.message


def test_a_flipped_bit_in_a_packed_archive_is_noticed(source: Path, tmp_path: Path) -> None:
    for format in (ArchiveFormat.GZIP, ArchiveFormat.ZSTD):
        archive = bytearray(packed(source, format)[0])
        digest = packed(source, format)[1].digest
        for at in range(12, len(archive), 11):
            archive[at] ^= 4
            with contextlib.suppress(ToolError):
                assert extract(bytes(archive), tmp_path / "flipped").digest == digest
            archive[at] ^= 4


# Limits

BOMB = Limits(max_archive_ratio=1, archive_ratio_free_bytes=64 * MIB)


@pytest.mark.parametrize("squeeze", [gzip.compress, zstandard.compress])
def test_a_bomb_is_stopped_at_the_ratio(squeeze: Callable[[bytes], bytes], target: Path) -> None:
    archive = squeeze(tar_of(file("zeros", bytes(70 * MIB))))
    with pytest.raises(TooLarge, match=r"unpacks to more than 1 times its size \(maxArchiveRatio\)"):
        extract(archive, target, limits=BOMB, chunk=len(archive))


def test_a_zstd_bomb_takes_little_memory_at_a_time(target: Path) -> None:
    # Blocks of one repeated byte: four bytes each for 128 KiB, so this is 4 GiB in 128 KiB.
    size = 128 * 1024
    repeated = bytes([(size << 3 | 0b010) & 0xFF, (size << 3) >> 8 & 0xFF, (size << 3) >> 16, 0])
    archive = b"\x28\xb5\x2f\xfd\x00\x38" + repeated * (32 * 1024)
    with pytest.raises(ToolError) as refusal, Extraction(_made(target), BOMB) as extraction:
        extraction.feed(archive)
    assert extraction._budget.unpacked <= 100 * MIB, refusal.value


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(max_archive_entries=1), "maxArchiveEntries"),
        (Limits(max_unpacked_bytes=2000), "maxUnpackedBytes"),
        (Limits(max_archive_bytes=100), "maxArchiveBytes"),
    ],
)
def test_an_archive_past_a_limit_is_refused_with_the_limit(limits: Limits, name: str, target: Path) -> None:
    with pytest.raises(TooLarge) as refusal:
        extract(gzip.compress(PLAIN), target, limits=limits)
    assert refusal.value.details["limit"] == name


def test_a_full_disk_is_told(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NoSpace, match=exactly("no space is left to unpack the archive; nothing was changed")):
        extract(PLAIN, target)


def test_a_write_that_takes_a_part_is_gone_on_with(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    extract(PLAIN, target)
    assert (target / "b").stat().st_size == 3000


# The life of an extraction


def test_an_error_ends_it(target: Path) -> None:
    extraction = Extraction(_made(target))
    with pytest.raises(ArchiveInvalid):
        extraction.feed(b"x" * 600)
    with pytest.raises(RuntimeError, match="this extraction has ended"):
        extraction.feed(b"")
    extraction.abort()


def test_it_may_be_broken_off_in_the_middle_of_a_file(target: Path) -> None:
    archive = tar_of(file("a", bytes(3 * MIB)))
    before = threading.active_count()
    with Extraction(_made(target)) as extraction:
        extraction.feed(archive[: 2 * MIB])
    assert threading.active_count() == before


def test_its_progress_can_be_watched(target: Path) -> None:
    seen = []
    with Extraction(_made(target)) as extraction:
        for at in range(0, len(PLAIN), 1000):
            extraction.feed(PLAIN[at : at + 1000])
            seen.append((extraction.files, extraction.content_bytes, extraction.packed_bytes))
        extraction.finish()
    assert seen == sorted(seen)
    assert seen[0] == (0, 0, 1000) or seen[0] == (1, 5, 1000)
    assert seen[-1] == (2, 3005, len(PLAIN))


def test_an_error_on_the_second_thread_reaches_the_caller(target: Path) -> None:
    archive = tar_of(file("a", bytes(2 * MIB)), file("../x"), file("b", bytes(MIB)))
    with pytest.raises(ArchiveUnsafe, match="climbs"):
        extract(archive, target, chunk=MIB // 4)


def test_nothing_that_was_there_is_followed(target: Path, tmp_path: Path) -> None:
    plant(tmp_path / "outside", {"x": File(b"theirs")})
    (_made(target) / "d").symlink_to(tmp_path / "outside")
    (target / "f").symlink_to(tmp_path / "outside/x")
    for entry in (file("d/x", b"ours"), file("f", b"ours"), directory("d")):
        with pytest.raises(ArchiveUnsafe):
            extract(tar_of(entry), target)
    assert (tmp_path / "outside/x").read_bytes() == b"theirs"


def test_a_plain_file_is_made_with_its_mode_whatever_the_umask(target: Path) -> None:
    before = os.umask(0o077)
    try:
        extract(tar_of(file("a", mode=0o666), directory("d", 0o777)), target)
    finally:
        os.umask(before)
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o666
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o777
