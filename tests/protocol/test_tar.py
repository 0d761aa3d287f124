"""The tar format: what others write is read, what we write others read, and damage is told with its place."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ArchiveInvalid, Conflict
from protocol.tar import BLOCK_BYTES, END, Decoder, Kind, Member, pack
from protocol.tar.header import write_block
from protocol.tar.pax import read_records, write_records

Entry = tuple[Member, bytes]
SECOND = 1_000_000_000


def packed(*entries: Entry) -> bytes:
    return b"".join(pack((member, [content] if content else []) for member, content in entries))


def unpacked(archive: bytes, *, chunk: int | None = None) -> list[Entry]:
    decoder = Decoder()
    found: list[Entry] = []
    for at in range(0, len(archive), chunk or len(archive) or 1):
        for event in decoder.feed(archive[at : at + (chunk or len(archive))]):
            if isinstance(event, Member):
                found.append((event, b""))
            elif event is not END:
                found[-1] = (found[-1][0], found[-1][1] + bytes(event))
    decoder.finish()
    return found


def file(name: str, content: bytes, **fields: Any) -> Entry:
    return Member(name=name, size=len(content), **fields), content


def block(name: bytes = b"a", letter: bytes = b"0", **fields: Any) -> bytes:
    """One header, right in itself, of any kind."""
    return write_block(Member(name="", **fields), name, b"", letter=letter)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK_BYTES)


END_MARK = bytes(2 * BLOCK_BYTES)

MEMBERS = [
    file("a", b"hello"),
    file("empty", b""),
    file("just/a/block", b"x" * 512, mode=0o755, mtime_ns=5 * SECOND),
    (Member(name="dir", kind=Kind.DIRECTORY, mode=0o700), b""),
    (Member(name="link", kind=Kind.SYMLINK, mode=0o777, link="a"), b""),
    (Member(name="hard", kind=Kind.HARD_LINK, link="a"), b""),
    file("d" * 90 + "/" + "f" * 60, b"split over two fields"),
    file("f" * 200, b"long"),
    (Member(name="l" * 300, kind=Kind.SYMLINK, link="t" * 300), b""),
    file("naïve-文件", b"beyond ASCII"),
    file(os.fsdecode(b"latin-\xe9"), b"no text at all"),
    file("new\nline and = sign", b"in a PAX record"),
    file("old", b"", mtime_ns=-SECOND),
    file("exact", b"", mtime_ns=1_500_000_001),
    file("far", b"", mtime_ns=8**11 * SECOND),
]


def test_what_is_packed_is_unpacked() -> None:
    assert unpacked(packed(*MEMBERS)) == MEMBERS


@pytest.mark.parametrize("chunk", [1, 7, 511, 512, 513, 10_000])
def test_it_makes_no_difference_how_the_bytes_come(chunk: int) -> None:
    assert unpacked(packed(*MEMBERS), chunk=chunk) == MEMBERS


def test_the_same_members_give_the_same_bytes() -> None:
    assert packed(*MEMBERS) == packed(*MEMBERS)


@given(st.integers(0, 3000))
def test_any_size_is_padded_to_blocks(size: int) -> None:
    archive = packed(file("a", bytes(size)))
    assert len(archive) % BLOCK_BYTES == 0
    assert unpacked(archive) == [file("a", bytes(size))]


_ATTRIBUTES = st.dictionaries(
    st.text(st.characters(exclude_characters="=", codec="utf-8"), min_size=1), st.binary(), max_size=5
)


@given(_ATTRIBUTES)
def test_pax_records_survive(records: dict[str, bytes]) -> None:
    assert read_records(write_records(records), 0) == records


@pytest.mark.parametrize("length", [*range(85, 110), 990, 991, 992, 993, 994, 995])
def test_a_pax_record_counts_its_own_digits(length: int) -> None:
    record = write_records({"k": b"v" * length})
    assert int(record.split()[0]) == len(record)


def test_a_truncated_archive_is_invalid_at_every_byte() -> None:
    archive = packed(file("a", b"hello"), file("é" * 80, b"x"))
    for end in range(len(archive)):
        with pytest.raises(ArchiveInvalid, match=f"cut short at byte {end}|is empty") as refusal:
            unpacked(archive[:end])
        assert refusal.value.details == {"byte": end}


def test_truncation_in_a_content_names_the_member() -> None:
    with pytest.raises(ArchiveInvalid, match=r"cut short at byte 515: 2 bytes of 'a' are missing"):
        unpacked(packed(file("a", b"hello"))[:515])


@given(st.binary(min_size=1, max_size=2000))
def test_garbage_is_invalid_and_nothing_worse(garbage: bytes) -> None:
    with pytest.raises(ArchiveInvalid):
        unpacked(garbage)


@given(st.integers(0, 4 * BLOCK_BYTES - 1), st.integers(1, 255))
def test_a_flipped_header_byte_never_passes_for_another_member(at: int, flip: int) -> None:
    archive = bytearray(packed(file("a", b"hello"), file("b", b"")))
    archive[at] ^= flip
    if BLOCK_BYTES <= at < BLOCK_BYTES + 5:
        return  # content has no checksum in tar; the digest watches over it
    try:
        members = unpacked(bytes(archive))
    except ArchiveInvalid:
        return
    assert members == [file("a", b"hello"), file("b", b"")]


REFUSED = {
    "an archive without a member": (END_MARK, "holds no member"),
    "half an end mark": (packed(file("a", b""))[:-512] + block(), "goes on after half of its end mark"),
    "something after the end": (packed(file("a", b"")) + b"more", "goes on after its end mark"),
    "a wrong checksum": (b"x" + block()[1:] + END_MARK, "byte 0 should begin a tar header"),
    "a GNU sparse member": (block(b"s", b"S") + END_MARK, "'s' is stored sparse; pack it again without"),
    "a PAX sparse member": (
        block(letter=b"x", size=22) + padded(b"22 GNU.sparse.major=1\n") + block(b"s") + END_MARK,
        "'s' is stored sparse",
    ),
    "a kind of its own": (block(b"v", b"V") + END_MARK, "'v' is of kind 'V', which is not read here"),
    "a huge extended header": (block(letter=b"x", size=2**32), "4294967296 bytes; at most 1048576"),
    "a huge long name": (block(letter=b"L", size=2**21), "2097152 bytes; at most 1048576"),
    "an extended header at the end": (
        block(letter=b"x", size=9) + padded(b"9 path=a\n") + END_MARK,
        "ends right after an extended header",
    ),
    "a PAX record without a length": (
        block(letter=b"x", size=5) + padded(b"path=") + END_MARK,
        "byte 512 should begin a PAX record",
    ),
    "a PAX record longer than its header": (
        block(letter=b"x", size=10) + padded(b"99 path=a\n") + END_MARK,
        "byte 512 should begin a PAX record",
    ),
    "a second PAX record without a length": (
        block(letter=b"x", size=13) + padded(b"9 path=a\nxyz\n") + END_MARK,
        "byte 521 should begin a PAX record",
    ),
    "a PAX record of no length": (
        block(letter=b"x", size=9) + padded(b"0 path=a\n") + END_MARK,
        "byte 512 should begin a PAX record",
    ),
    "a PAX size that is none": (
        block(letter=b"x", size=10) + padded(b"10 size=-1") + END_MARK,
        "should begin a PAX record",
    ),
    "a negative PAX size": (
        block(letter=b"x", size=11) + padded(b"11 size=-1\n") + block() + END_MARK,
        "holds b'-1' as a size",
    ),
    "a PAX time of a hundred digits": (
        block(letter=b"x", size=110) + padded(b"110 mtime=1" + b"0" * 98 + b"\n") + block() + END_MARK,
        "as a time",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_damaged_archive_is_refused_with_its_reason(what: str) -> None:
    archive, reason = REFUSED[what]
    with pytest.raises(ArchiveInvalid, match=reason):
        unpacked(archive)


def _with_field(start: int, value: bytes) -> bytes:
    raw = bytearray(block())
    raw[start : start + len(value)] = value
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


SIZE, MTIME = 124, 136


@pytest.mark.parametrize(
    ("start", "value"),
    [
        (SIZE, b"-0000000001\0"),
        (SIZE, b"99999999999\0"),
        (SIZE, b"0x00000000f\0"),
        (SIZE, b"\xff" * 12),
        (SIZE, b"\x80" + b"\xff" * 11),
        (MTIME, b"12 34      \0"),
    ],
)
def test_numbers_that_are_none_are_refused(start: int, value: bytes) -> None:
    with pytest.raises(ArchiveInvalid, match=r"holds b.* as a number|negative size"):
        unpacked(_with_field(start, value) + END_MARK)


def test_a_number_in_base_256_is_read() -> None:
    archive = _with_field(MTIME, b"\x80" + (8**11 + 5).to_bytes(11, "big")) + END_MARK
    assert unpacked(archive)[0][0].mtime_ns == (8**11 + 5) * SECOND
    archive = _with_field(MTIME, (-7).to_bytes(12, "big", signed=True)) + END_MARK
    assert unpacked(archive)[0][0].mtime_ns == -7 * SECOND


def test_attributes_that_nobody_reads_do_not_pile_up() -> None:
    decoder = Decoder()
    for number in range(50):
        payload = write_records({f"comment-{number}": b"x" * 10_000})
        decoder.feed(block(letter=b"g", size=len(payload)) + padded(payload))
    assert decoder._defaults == {}


def test_global_pax_records_hold_for_all_and_give_way_to_a_members_own() -> None:
    everywhere, own = write_records({"mtime": b"7"}), write_records({"mtime": b"9"})
    archive = (
        block(letter=b"g", size=len(everywhere)) + padded(everywhere) + block(b"a")
        + block(letter=b"x", size=len(own)) + padded(own) + block(b"b") + block(b"c") + END_MARK
    )  # fmt: skip
    assert [member.mtime_ns // SECOND for member, _ in unpacked(archive)] == [7, 9, 7]


def test_a_name_with_a_slash_at_its_end_is_a_directory() -> None:
    assert unpacked(block(b"d/", b"\0") + END_MARK) == [(Member(name="d", kind=Kind.DIRECTORY), b"")]


def test_a_content_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder()
    decoder.feed(block(size=10**9))
    for _ in range(100):
        events = decoder.feed(bytes(100_000))
        assert sum(len(event) for event in events if isinstance(event, memoryview)) == 100_000
    assert len(decoder._rest) + len(decoder._extended) == 0


@pytest.mark.parametrize("content", [[b"hell"], [b"hello", b"!"], []])
def test_a_content_of_another_size_is_an_error_that_names_it(content: list[bytes]) -> None:
    with pytest.raises(Conflict, match=r"'a' gave (more|less) than its 5 bytes; it changed"):
        list(pack([(Member(name="a", size=5), content)]))


def test_contents_are_asked_for_when_their_turn_comes() -> None:
    asked: list[str] = []

    def content(name: str) -> Iterator[bytes]:
        asked.append(name)
        yield bytes(2**20)

    chunks = pack((Member(name=name, size=2**20), content(name)) for name in "ab")
    next(chunks)
    assert asked == ["a"]


def test_a_size_past_octal_is_written_for_others_to_read() -> None:
    big = Member(name="big", size=9 * 2**30)
    head = next(iter(pack([(big, (bytes(2**18) for _ in range(9 * 2**12)))])))[: 3 * BLOCK_BYTES]
    with tarfile.open(fileobj=io.BytesIO(head + END_MARK)) as archive:
        info = archive.next()
    assert info is not None
    assert info.size == big.size


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_pythons_own_module_are_read(format: int) -> None:
    buffer = io.BytesIO()
    names = [
        "a",
        "d" * 90 + "/" + "f" * 60,
        *(["n" * 150, "ü" * 120] if format != tarfile.USTAR_FORMAT else []),
    ]
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = 5, 1_700_000_000, 0o640
            archive.addfile(info, io.BytesIO(b"hello"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, names[-1][:90]
        archive.addfile(link)
    *files, (last, _) = unpacked(buffer.getvalue())
    assert files == [file(name, b"hello", mode=0o640, mtime_ns=1_700_000_000 * SECOND) for name in names]
    assert (last.kind, last.link) == (Kind.SYMLINK, names[-1][:90])


def test_archives_of_ours_are_read_by_pythons_own_module() -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(*MEMBERS)), errors="surrogateescape") as archive:
        found = [(info.name, info.size, info.mode, info.mtime, info.linkname) for info in archive]
    assert found == [
        (member.name, member.size, member.mode, member.mtime_ns / SECOND, member.link)
        for member, _ in MEMBERS
    ]


@pytest.mark.parametrize("format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_archives_of_gnu_tar_are_read(format: str, tmp_path: Path) -> None:
    long = "" if format in {"v7", "ustar"} else "long" * 30
    (tmp_path / f"a{long}").write_bytes(b"hello")
    (tmp_path / f"link{long}").symlink_to(f"target{long}")
    os.link(tmp_path / f"a{long}", tmp_path / f"z{long}")
    command = ["tar", f"--format={format}", "--sort=name", "-cf", "-", "-C", str(tmp_path), "."]
    members = unpacked(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert [(member.name, member.kind, member.link, content) for member, content in members] == [
        (".", Kind.DIRECTORY, "", b""),
        (f"./a{long}", Kind.FILE, "", b"hello"),
        (f"./link{long}", Kind.SYMLINK, f"target{long}", b""),
        (f"./z{long}", Kind.HARD_LINK, f"./a{long}", b""),
    ]


def test_sparse_archives_of_gnu_tar_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as holes:
        holes.truncate(2**20)
    for format in ("gnu", "posix"):
        command = ["tar", f"--format={format}", "-S", "-cf", "-", "-C", str(tmp_path), "holes"]
        archive = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        with pytest.raises(ArchiveInvalid, match="stored sparse; pack it again without --sparse"):
            unpacked(archive)
