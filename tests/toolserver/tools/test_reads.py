"""read and read_many: whole, by lines, by bytes; encodings, images, limits, files of any size."""

from __future__ import annotations

import base64
import hashlib
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builder import Daemon, Http, Json, http_of, running
from toolserver.tools.pieces import Bounds, Lines

PNG = b"\x89PNG\r\n\x1a\n\0\xff"


NO_FILES = [
    ("missing", 404, "not_found", "there is nothing at 'missing'; 'list' shows what there is"),
    ("dir", 409, "not_a_file", "'dir' is a directory; name a file in it, or use 'list'"),
    ("fifo", 409, "not_a_file", "'fifo' is neither a file nor a directory, so it has no content to read"),
    ("file/x", 404, "not_found", "'file/x', or a name on the way to it, is not a directory"),
    ("../x", 403, "outside_workspace", "'../x' is outside the workspace; use a path below its root"),
    (
        "/proc/self/environ",
        403,
        "outside_workspace",
        "'/proc/self/environ' is outside the workspace; use a path below its root",
    ),
    ("link-out", 403, "outside_workspace", "'link-out' leads outside the workspace over a link"),
    ("link-proc", 403, "outside_workspace", "'link-proc' leads outside the workspace over a link"),
    (
        "link-relative",
        403,
        "outside_workspace",
        "'link-relative' leads outside the workspace over a link",
    ),
    ("a\0b", 400, "invalid_request", "a path holds a NUL character, which no file system takes"),
    ("x" * 300, 400, "invalid_request", "a path is too long: at most 4096 bytes, and 255 a name"),
    ("", 400, "invalid_request", "a path is empty; use '.' for the workspace root"),
    (
        ".workspace-core/x",
        403,
        "outside_workspace",
        "'.workspace-core' belongs to the tool server; use another name",
    ),
]

MIB = 1024 * 1024


def hash_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def content_of(answer: Json) -> bytes:
    text: str = answer["content"]
    return base64.b64decode(text) if answer["encoding"] == "base64" else text.encode()


async def test_a_text_comes_with_lines_and_hash(http: Http, root: Path) -> None:
    (root / "a.txt").write_text("one\ntwo\nthree")
    answer = await http.ok("read", path="a.txt")
    assert answer.pop("hash").startswith("sha256:")
    told = {name: value for name, value in answer.items() if value not in (None, False, [])}
    assert told == {
        "path": "a.txt",
        "content": "one\ntwo\nthree",
        "encoding": "utf-8",
        "charset": "utf-8",
        "mediaType": "text/plain",
        "size": 13,
        "totalLines": 3,
    }


async def test_the_hash_is_that_of_sha256sum(http: Http, root: Path) -> None:
    (root / "a").write_bytes(b"abc")
    told = (await http.ok("command", argv=["sha256sum", "a"]))["stdout"].split()[0]
    assert (await http.ok("read", path="a"))["hash"] == f"sha256:{told}"


async def test_a_range_of_lines_is_of_the_whole_file(http: Http, root: Path) -> None:
    (root / "a").write_text("1\n2\n3\n4\n")
    answer = await http.ok("read", path="a", startLine=2, endLine=-2)
    assert (answer["content"], answer["startLine"], answer["endLine"]) == ("2\n3\n", 2, 3)
    assert (answer["size"], answer["totalLines"]) == (8, 4)


async def test_a_binary_comes_as_base64(http: Http, root: Path) -> None:
    (root / "a.png").write_bytes(PNG)
    answer = await http.ok("read", path="a.png")
    assert (answer["encoding"], base64.b64decode(answer["content"])) == ("base64", PNG)
    assert (answer["size"], answer["totalLines"]) == (len(PNG), None)


async def test_a_binary_has_no_lines(http: Http, root: Path) -> None:
    (root / "a.png").write_bytes(PNG)
    refused = await http.refused("read", path="a.png", startLine=1)
    assert (refused.code, refused.message) == (
        "invalid_request",
        "'a.png' has no lines to count, for it is not text that is known here; read it whole or by bytes",
    )


async def test_an_empty_file_is_text_without_lines(http: Http, root: Path) -> None:
    (root / "empty").touch()
    answer = await http.ok("read", path="empty")
    assert (answer["content"], answer["totalLines"], answer["encoding"]) == ("", 0, "utf-8")


@pytest.mark.parametrize(
    ("path", "status", "code", "message"), NO_FILES, ids=[each[0][:20] for each in NO_FILES]
)
async def test_what_is_no_file_of_the_workspace_is_refused(
    http: Http, root: Path, path: str, status: int, code: str, message: str
) -> None:
    (root / "dir").mkdir()
    (root / "file").touch()
    os.mkfifo(root / "fifo")
    (root / "link-out").symlink_to("/etc/passwd")
    (root / "link-proc").symlink_to("/proc/self/environ")
    (root / "link-relative").symlink_to("../state")
    refused = await http.refused("read", path=path)
    assert (refused.status, refused.code, refused.message) == (status, code, message)


async def test_a_file_over_the_limit_is_refused_with_the_limit(http: Http, root: Path) -> None:
    with (root / "big").open("wb") as file:
        file.truncate(10 * 2**20 + 1)
    refused = await http.refused("read", path="big")
    assert (refused.status, refused.code) == (413, "too_large")
    assert refused.message == (
        "'big' has 10485761 bytes, and the limit here is 10485760; read a range of its lines or "
        "bytes, or use /v1/files"
    )
    assert refused.details == {
        "path": "big",
        "size": 10485761,
        "limit": "maxReadBytes",
        "value": 10485760,
    }


async def test_the_largest_file_is_read(http: Http, root: Path) -> None:
    (root / "big").write_bytes(b"x\n" * (5 * 2**20))
    assert (await http.ok("read", path="big"))["totalLines"] == 5 * 2**20


@pytest.mark.parametrize(
    ("asked", "content"),
    [
        ({"offset": 2, "length": 3}, b"234"),
        ({"offset": -3}, b"789"),
        ({"length": 2}, b"01"),
        ({"offset": 8, "length": 99}, b"89"),
        ({"offset": 10}, b""),
        ({"offset": 2, "length": 5, "maxBytes": 2}, b"23"),
    ],
)
async def test_a_range_of_bytes(http: Http, root: Path, asked: Json, content: bytes) -> None:
    (root / "a").write_bytes(b"0123456789")
    answer = await http.ok("read", path="a", **asked)
    assert content_of(answer) == content
    assert (answer["length"], answer["size"], answer["hash"]) == (len(content), 10, hash_of(b"0123456789"))
    assert answer["cutBy"] == (["maxBytes"] if "maxBytes" in asked else [])


async def test_a_range_that_cuts_a_character_comes_as_it_is(http: Http, root: Path) -> None:
    (root / "a").write_text("aéb")
    answer = await http.ok("read", path="a", offset=2, length=2)
    assert (answer["encoding"], content_of(answer)) == ("base64", b"\xa9b")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"offset": 11}, "the file has 10 bytes, none at 11"),
        ({"offset": 0, "startLine": 1}, "ask for a range of lines or for a range of bytes, not both"),
        ({"length": -1}, "'length' is 0 or more"),
        ({"maxLines": 0}, "'maxLines' is 1 or more; leave it out for no limit of your own"),
        ({"startLine": 9}, "line 9 does not exist; the file has 1 line"),
    ],
)
async def test_a_range_that_cannot_be_is_told(http: Http, root: Path, asked: Json, message: str) -> None:
    (root / "a").write_bytes(b"0123456789")
    refused = await http.refused("read", path="a", **asked)
    assert (refused.code, refused.message) == ("invalid_request", message)


async def test_each_limit_is_told_when_it_cut(http: Http, root: Path) -> None:
    (root / "a").write_text("short\n" + "long" * 10 + "\nshort\nend\n")
    answer = await http.ok("read", path="a", maxLineBytes=8, maxLines=3)
    assert answer["content"] == "short\nlonglong\nshort\n"
    assert (answer["truncated"], answer["cutBy"]) == (True, ["maxLineBytes", "maxLines"])
    assert (answer["cutLines"], answer["startLine"], answer["endLine"]) == ([2], 1, 3)
    assert answer["totalLines"] == 4
    answer = await http.ok("read", path="a", maxBytes=7)
    assert (answer["content"], answer["cutBy"], answer["endLine"]) == ("short\nl", ["maxBytes"], 2)
    answer = await http.ok("read", path="a", maxBytes=1000, maxLines=4, maxLineBytes=40)
    assert (answer["truncated"], answer["cutBy"], answer["endLine"]) == (False, [], None)


@pytest.mark.parametrize(
    ("charset", "text", "mark"),
    [
        ("utf-8", "\ufeffgrüße\n", b""),
        ("utf-16-le", "grüße\nzwei\n", b"\xff\xfe"),
        ("utf-16-be", "grüße\nzwei\n", b"\xfe\xff"),
        ("iso-8859-1", "viele grüße aus köln\n", b""),
    ],
)
async def test_an_encoding_is_known_and_comes_back_the_same(
    http: Http, root: Path, charset: str, text: str, mark: bytes
) -> None:
    data = mark + text.encode(charset)
    (root / "a.txt").write_bytes(data)
    answer = await http.ok("read", path="a.txt")
    assert (answer["charset"], answer["encoding"]) == (charset, "utf-8")
    assert answer["content"].lstrip("\ufeff") == text.lstrip("\ufeff")
    assert answer["totalLines"] == text.count("\n")
    await http.ok("write", path="b.txt", content=answer["content"], charset=charset)
    assert (root / "b.txt").read_bytes() == data


async def test_a_character_that_a_charset_has_not_is_refused(http: Http, root: Path) -> None:
    refused = await http.refused("write", path="a", content="日本", charset="iso-8859-1")
    assert refused.message == "'日' is no character of iso-8859-1; choose another charset"
    assert not (root / "a").exists()


async def test_text_comes_as_bytes_when_asked(http: Http, root: Path) -> None:
    (root / "a").write_bytes("é".encode("latin-1") + b"bcdefg")
    answer = await http.ok("read", path="a", encoding="base64")
    assert (answer["charset"], content_of(answer)) == ("iso-8859-1", b"\xe9bcdefg")


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"".join(b"\0" + b"\xff" * width for _ in range(height)))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


async def test_an_image_comes_with_its_size(http: Http, root: Path) -> None:
    (root / "a.png").write_bytes(png(20, 30))
    answer = await http.ok("read", path="a.png")
    assert (answer["mediaType"], answer["image"]) == ("image/png", {"width": 20, "height": 30})
    assert content_of(answer) == png(20, 30)


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0", b"GIF89a", b"\xff\xd8\xff", b"\0" * 100, b"BM\0"])
async def test_what_only_begins_like_an_image_is_no_error(http: Http, root: Path, data: bytes) -> None:
    (root / "a.png").write_bytes(data)
    assert content_of(await http.ok("read", path="a.png")) == data


async def test_what_is_known_already_is_not_sent(http: Http, root: Path) -> None:
    (root / "a").write_text("x")
    seen = await http.ok("read", path="a")
    again = await http.ok("read", path="a", ifHash=seen["hash"])
    assert (again["unchanged"], again["content"], again["hash"]) == (True, "", seen["hash"])
    (root / "a").write_text("y")
    again = await http.ok("read", path="a", ifHash=seen["hash"])
    assert (again["unchanged"], again["content"]) == (False, "y")


async def test_several_files_come_at_once_and_each_has_its_own_error(http: Http, root: Path) -> None:
    (root / "a").write_text("1\n2\n")
    (root / "d").mkdir()
    asked = [{"path": "a", "startLine": 2}, {"path": "gone"}, {"path": "../x"}, {"path": "d"}, {"path": "a"}]
    files = (await http.ok("read_many", files=asked))["files"]
    assert [each["path"] for each in files] == ["a", "gone", "../x", "d", "a"]
    assert [each["file"] and each["file"]["content"] for each in files] == ["2\n", None, None, None, "1\n2\n"]
    codes = [each["error"] and each["error"]["code"] for each in files]
    assert codes == [None, "not_found", "outside_workspace", "not_a_file", None]


async def test_no_files_and_too_many_are_refused(http: Http, root: Path) -> None:
    for files in ([], [{"path": "a"}] * 201):
        refused = await http.refused("read_many", files=files)
        assert (refused.message, refused.details["value"]) == ("'files' has 1 to 200 entries", 200)


async def test_several_files_stay_within_one_answer(http: Http, root: Path) -> None:
    (root / "big").write_bytes(b"x" * (6 * MIB))
    files = (await http.ok("read_many", files=[{"path": "big"}] * 3))["files"]
    assert [len(each["file"]["content"]) for each in files] == [6 * MIB, 4 * MIB, 0]
    assert [each["file"]["cutBy"] for each in files] == [[], ["maxBytes"], ["maxBytes"]]


LARGE_LINES = 3_000_000


@pytest.fixture(scope="module")
def large(daemon: Daemon) -> bytes:
    return b"".join(b"line %07d\n" % number for number in range(1, LARGE_LINES + 1))


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ({"startLine": 2_500_000, "endLine": 2_500_001}, 2_500_000, 2_500_001),
        ({"startLine": -2}, LARGE_LINES - 1, LARGE_LINES),
        ({"endLine": 2}, 1, 2),
        ({"startLine": 2_999_999, "endLine": -1}, LARGE_LINES - 1, LARGE_LINES),
        ({"startLine": 7, "maxLines": 2}, 7, 8),
    ],
)
async def test_lines_come_out_of_a_file_past_the_limit(
    http: Http, root: Path, large: bytes, asked: Json, first: int, last: int
) -> None:
    (root / "large").write_bytes(large)
    answer = await http.ok("read", path="large", **asked)
    wanted = "".join(f"line {number:07d}\n" for number in range(first, last + 1))
    assert (answer["content"], answer["startLine"], answer["endLine"]) == (wanted, first, last)
    assert (answer["size"], answer["hash"]) == (len(large), None)


async def test_bytes_come_out_of_a_file_past_the_limit(http: Http, root: Path, large: bytes) -> None:
    (root / "large").write_bytes(large)
    answer = await http.ok("read", path="large", offset=-13)
    assert answer["content"] == "line 3000000\n"
    answer = await http.ok("read", path="large", ifHash=hash_of(large))
    assert answer["unchanged"] is True


async def test_a_range_of_a_huge_file_takes_little_memory(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        with (daemon.root / "huge").open("wb") as file:
            file.truncate(1024 * MIB)
            file.seek(512 * MIB)
            file.write(b"here\n")
        with (daemon.root / "text").open("wb") as file:
            for _ in range(256):
                file.write((b"x" * 99 + b"\n") * (MIB // 100))
        async with http_of(daemon) as http:
            await http.ok("read", path="text", offset=0, length=1)
            before = daemon.memory()
            answer = await http.ok("read", path="huge", offset=512 * MIB, length=4)
            assert answer["content"] == "here"
            answer = await http.ok("read", path="text", startLine=-1)
            assert answer["content"] == "x" * 99 + "\n"
        assert daemon.memory() - before < 32 * MIB


@given(
    st.lists(st.sampled_from([b"\n", b"a", b"bcd", "é".encode(), "日本".encode(), b"e\r\n"]), max_size=30),
    st.integers(1, 12),
    st.integers(0, 8),
    st.integers(1, 7),
    st.tuples(st.integers(1, 40), st.none() | st.integers(1, 5), st.none() | st.integers(1, 6)),
)
def test_however_a_file_is_cut_into_blocks_the_same_lines_come_out(
    parts: list[bytes], first: int, more: int, block: int, most: tuple[int, int | None, int | None]
) -> None:
    data = b"".join(parts)
    lines = Lines(first, first + more, Bounds(*most))
    for at in range(0, len(data), block):
        lines.feed(data[at : at + block])
    assert lines.content == wanted_lines(data, first, first + more, *most)


def wanted_lines(
    data: bytes, first: int, last: int, most: int, max_lines: int | None, max_line: int | None
) -> bytes:
    """The same by a whole list of lines, as nobody would do it with a gigabyte."""
    chosen = data.decode().split("\n")
    lines = [each + "\n" for each in chosen[:-1]] + ([chosen[-1]] if chosen[-1] else [])
    kept = lines[first - 1 : last][:max_lines]
    shown = b"".join(cut(line, max_line) for line in kept)
    return shown[:most].decode(errors="ignore").encode()


def cut(line: str, most: int | None) -> bytes:
    body, end = (line[:-1], b"\n") if line.endswith("\n") else (line, b"")
    return body.encode()[:most].decode(errors="ignore").encode() + end
