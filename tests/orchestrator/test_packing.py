"""A source as an archive, ready to be sent."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from orchestrator.packing import Packed, packed
from orchestrator.templates import find_source
from protocol.errors import ArchiveUnsafe, InvalidRequest
from protocol.limits import MIB


def write(directory: Path, *paths: str) -> None:
    for path in paths:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(path)


async def bytes_of(archive: Packed) -> bytes:
    return b"".join([chunk async for chunk in archive.chunks()])


async def names_in(directory: Path, data_dir: Path) -> set[str]:
    archive = packed(find_source(str(directory), [], directory), data_dir)
    with tarfile.open(fileobj=io.BytesIO(await bytes_of(archive))) as found:
        return {member.name for member in found if member.isfile()}


async def test_what_saves_leave_out_stays_here_as_well(tmp_path: Path) -> None:
    write(
        tmp_path,
        "index.html",
        "src/build/keep.ts",
        "node_modules/x.js",
        "dist/x",
        "a.log",
        ".env",
        ".env.example",
    )
    assert await names_in(tmp_path, Path("/elsewhere")) == {"index.html", "src/build/keep.ts", ".env.example"}


@pytest.mark.parametrize("data", ["data", "deep/er/data", "da[t]a"])
async def test_workspaces_are_not_copied_into_a_new_one(tmp_path: Path, data: str) -> None:
    write(tmp_path, "index.html", f"{data}/workspaces/u/s/index.html", "src/data/x")
    assert await names_in(tmp_path, tmp_path / data) == {"index.html", "src/data/x"}


@pytest.mark.parametrize("place", [".", "db", "saves/ann", "workspaces", "workspaces/ann", "docker"])
def test_the_data_directory_itself_is_no_source_for_it_holds_everybodys_tokens(
    tmp_path: Path, place: str
) -> None:
    write(tmp_path / "data" / place, "x")
    with pytest.raises(InvalidRequest, match=r"the data directory, .* name a directory outside"):
        packed(find_source(str(tmp_path / "data" / place), [], tmp_path), tmp_path / "data")


async def test_one_sessions_own_directory_may_be_copied(tmp_path: Path) -> None:
    root = tmp_path / "data" / "workspaces" / "ann" / "s1"
    write(root, "index.html", "src/x")
    assert await names_in(root, tmp_path / "data") == {"index.html", "src/x"}


async def test_the_same_files_give_the_same_digest(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, "index.html", "src/x")
    one, two = (packed(find_source(str(tmp_path / name), [], tmp_path), Path("/d")) for name in ("a", "b"))
    assert one.digest == two.digest
    assert await bytes_of(one) == await bytes_of(two)
    assert one.note.startswith("2 files, ")


async def test_an_archive_is_sent_as_it_is(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "save.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    found = packed(find_source("save.tar", [], tmp_path), Path("/d"))
    assert await bytes_of(found) == (tmp_path / "save.tar").read_bytes()


def test_a_link_that_leaves_a_template_is_told_before_anything_starts(tmp_path: Path) -> None:
    write(tmp_path, "site/index.html")
    (tmp_path / "site" / "link").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveUnsafe):
        packed(find_source("site", [tmp_path], tmp_path), Path("/d"))


async def test_what_no_archive_takes_is_left_out_of_a_directory_with_a_remark(tmp_path: Path) -> None:
    write(tmp_path, "index.html", "a/x")
    (tmp_path / "a" / "out").symlink_to("/etc/passwd")
    (tmp_path / "up").symlink_to("../y")
    os.mkfifo(tmp_path / "pipe")
    assert await names_in(tmp_path, Path("/d")) == {"index.html", "a/x"}
    assert packed(find_source(str(tmp_path), [], tmp_path), Path("/d")).remarks == (
        "left out: symlink 'a/out' -> '/etc/passwd' is absolute; link to a path relative to the link",
        "left out: 'pipe' is neither a file, a directory nor a link; remove it",
        "left out: symlink 'up' -> '../y' leaves the archive's root",
    )


async def test_what_python_made_for_this_machine_stays_here(tmp_path: Path) -> None:
    write(tmp_path, "app.py", ".venv/lib/x.py", "src/__pycache__/a.pyc")
    assert await names_in(tmp_path, Path("/d")) == {"app.py"}


@pytest.mark.parametrize("path", [".venv/x", "node_modules/x"])
def test_a_directory_of_which_nothing_is_left_is_refused(path: str, tmp_path: Path) -> None:
    write(tmp_path, path)
    with pytest.raises(InvalidRequest, match="is empty, but for what copies leave out"):
        packed(find_source(str(tmp_path), [], tmp_path), Path("/d"))


# A disk that others use too may be slow.
@pytest.mark.timeout(600)
def test_half_a_gigabyte_is_packed_in_the_memory_of_a_few_pieces(tmp_path: Path) -> None:
    """In a process of its own, by the kernel's own count of the most that it ever held."""
    size = 512 * MIB
    with (tmp_path / "big").open("wb") as file:
        noise = os.urandom(MIB)  # does not compress, so that the archive is as large
        for _ in range(size // MIB):
            file.write(noise)
    program = f"""
import re, pathlib
from orchestrator.packing import Packed, packed
from orchestrator.templates import find_source
def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024
here = pathlib.Path({str(tmp_path)!r})
source = find_source(str(here), [], here)
packed(find_source(str(here / "small"), [], here), here / "data")
before = peak()
archive = packed(source, here / "data")
print(archive.content.size, peak() - before)
"""
    write(tmp_path / "small", "index.html")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    packed_bytes, growth = map(int, done.stdout.split())
    assert packed_bytes > size
    assert growth < 32 * MIB
    assert list((tmp_path / "data" / "cache").iterdir()) == []
