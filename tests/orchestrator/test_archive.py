"""A directory of the host as an archive: the digest is a key, so only content may change it."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, given, settings

from orchestrator.archive import archive_directory
from protocol.errors import ArchiveUnsafe, Conflict, TooLarge
from protocol.exclusions import Exclusions
from tests.builder import exactly
from tests.random_trees import trees
from tests.trees import Directory, File, Link, Tree, described, plant

ALL = Exclusions.nothing()

TREE: Tree = {
    "empty": Directory(),
    "index.html": File(b"<h1>"),
    "link": Link("index.html"),
    "run": File(b"#!/bin/sh\n", 0o755),
    "src": Directory(),
    "src/up": Link("../index.html"),
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    place = tmp_path / "template"
    place.mkdir()
    plant(place, TREE)
    return place


def infos(content: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return list(archive)


def test_the_directory_comes_out_of_tar_again(directory: Path, tmp_path: Path) -> None:
    archive = archive_directory(directory, ALL)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xzpf", "-", "-C", str(tmp_path / "out")], input=archive.content, check=True)
    assert described(tmp_path / "out") == TREE
    assert archive.files == 2


def test_the_digest_is_that_of_the_plain_tar(directory: Path) -> None:
    archive = archive_directory(directory, ALL)
    assert archive.digest == "sha256:" + hashlib.sha256(gzip.decompress(archive.content)).hexdigest()


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(trees())
def test_place_time_owner_and_order_do_not_change_the_bytes(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as there:
        plant(Path(here), tree)
        plant(Path(there), dict(reversed(tree.items())))
        for path in tree:
            os.utime(Path(there, path), (1, 1), follow_symlinks=False)
        one, two = (archive_directory(Path(place), ALL) for place in (here, there))
        assert one == two


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o666])
def test_what_a_checkout_makes_of_modes_does_not_change_the_digest(mode: int, directory: Path) -> None:
    before = archive_directory(directory, ALL)
    (directory / "index.html").chmod(mode)
    assert archive_directory(directory, ALL) == before


@pytest.mark.parametrize("change", ["content", "name", "executable", "link", "empty directory"])
def test_whatever_counts_changes_the_digest(change: str, directory: Path) -> None:
    before = archive_directory(directory, ALL).digest
    match change:
        case "content":
            (directory / "index.html").write_bytes(b"<h2>")
        case "name":
            (directory / "index.html").rename(directory / "index.htm")
        case "executable":
            (directory / "index.html").chmod(0o755)
        case "link":
            (directory / "link").unlink()
            (directory / "link").symlink_to("run")
        case "empty directory":
            (directory / "empty").rmdir()
    assert archive_directory(directory, ALL).digest != before


def test_everything_belongs_to_nobody_in_particular_at_one_time(directory: Path) -> None:
    told = {
        (info.uid, info.gid, info.uname, info.gname, info.mtime)
        for info in infos(archive_directory(directory, ALL).content)
    }
    assert told == {(0, 0, "", "", 315_532_800)}


def test_an_empty_directory_is_an_archive_as_well(tmp_path: Path) -> None:
    archive = archive_directory(tmp_path, ALL)
    assert [info.name for info in infos(archive.content)] == ["."]


def test_what_the_rules_exclude_stays_here(directory: Path) -> None:
    plant(directory, {"node_modules/x": File(), ".git/HEAD": File(), ".workspace-core/x": File()})
    rules = Exclusions.default().with_rules(exclude=["*.html"], include=[".git"])
    names = {info.name for info in infos(archive_directory(directory, rules).content)}
    assert names == {".", ".git", ".git/HEAD", "empty", "link", "run", "src", "src/up"}


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("../beside", "leaves the archive's root"),
        ("/etc/passwd", "is absolute; link to a path relative to the link"),
        ("src/../../x", "climbs by '..' after a name; put every '..' first"),
    ],
)
def test_a_link_that_leaves_is_named(target: str, why: str, directory: Path) -> None:
    (directory / "out").symlink_to(target)
    with pytest.raises(ArchiveUnsafe, match=exactly(f"symlink 'out' -> {target!r} {why}")):
        archive_directory(directory, ALL)


def test_a_link_that_leaves_does_no_harm_where_it_is_excluded(directory: Path) -> None:
    plant(directory, {"node_modules/.bin/x": Link("/usr/bin/x")})
    assert archive_directory(directory, Exclusions.default()).files == 2


def test_a_fifo_is_named_and_not_waited_for(directory: Path) -> None:
    os.mkfifo(directory / "pipe")
    message = "'pipe' is neither a file, a directory nor a link; remove it"
    with pytest.raises(ArchiveUnsafe, match=exactly(message)):
        archive_directory(directory, ALL)


def test_what_no_tool_server_would_take_is_refused_here(directory: Path) -> None:
    plant(directory, {"/".join("d" * 70): File()})
    with pytest.raises(TooLarge, match="lies deeper than 64 directories"):
        archive_directory(directory, ALL)


def test_a_file_that_changes_under_the_hand_is_named(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def growing(self: Path, mode: str = "r") -> IO[Any]:
        if self.name == "run":
            with opened(self, "ab") as file:
                file.write(b"more")
        return opened(self, mode)

    monkeypatch.setattr(Path, "open", growing)
    with pytest.raises(Conflict, match="'run' gave more than its 10 bytes; it changed"):
        archive_directory(directory, ALL)
