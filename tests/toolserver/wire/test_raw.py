"""Raw files: any size, any bytes, conditional, whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from tests.builder import Daemon, Http, http_of, is_alive, running, until

MIB = 1024 * 1024


def names_in(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


@pytest.fixture
async def files(daemon: Daemon, root: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A session whose addresses begin below ``/v1/files/``."""
    headers = {"Authorization": f"Bearer {daemon.token}"}
    async with aiohttp.ClientSession(f"{daemon.url}/v1/files/", headers=headers) as session:
        yield session


async def test_bytes_come_back_as_they_were_sent(files: aiohttp.ClientSession, root: Path) -> None:
    data = os.urandom(3 * MIB + 7)
    async with files.put("deep/new/a.bin", data=io.BytesIO(data)) as response:
        answer = await response.json()
    assert (response.status, answer["created"], answer["size"]) == (201, True, len(data))
    assert answer["hash"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert (root / "deep/new/a.bin").read_bytes() == data
    async with files.get("deep/new/a.bin") as response:
        assert await response.read() == data
    assert response.headers["ETag"]
    assert response.content_type == "application/octet-stream"


async def test_a_replaced_file_keeps_its_mode_unless_told(files: aiohttp.ClientSession, root: Path) -> None:
    (root / "run.sh").write_text("old")
    (root / "run.sh").chmod(0o750)
    async with files.put("run.sh", data=b"new") as response:
        assert response.status == 200
    assert (root / "run.sh").stat().st_mode & 0o777 == 0o750
    async with files.put("run.sh?mode=600", data=b"newer"):
        pass
    assert (root / "run.sh").stat().st_mode & 0o777 == 0o600


async def test_a_new_file_is_as_write_makes_it(files: aiohttp.ClientSession, root: Path) -> None:
    async with files.put("a", data=b""):
        pass
    assert ((root / "a").stat().st_mode & 0o777, (root / "a").read_bytes()) == (0o644, b"")


@pytest.mark.parametrize("name", ["a b.txt", "ümläut/☃.txt", "100%.txt", "a#b?c.txt", 'quo"te\n.txt'])
async def test_any_name_travels_in_the_address(files: aiohttp.ClientSession, root: Path, name: str) -> None:
    address = URL("/v1/files/") / name
    async with files.put(address, data=b"here"):
        pass
    assert (root / name).read_bytes() == b"here"
    async with files.get(address) as response:
        assert await response.read() == b"here"


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("bytes=5-2", 200, b"0123456789", None),
    ],
)
async def test_a_range_gives_these_bytes(
    files: aiohttp.ClientSession, root: Path, asked: str, status: int, body: bytes, told: str | None
) -> None:
    (root / "a").write_bytes(b"0123456789")
    async with files.get("a", headers={"Range": asked}) as response:
        assert (response.status, await response.read()) == (status, body)
    assert response.headers.get("Content-Range") == told


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=-0"])
async def test_a_range_past_the_end_is_told(files: aiohttp.ClientSession, root: Path, asked: str) -> None:
    (root / "a").write_bytes(b"0123456789")
    async with files.get("a", headers={"Range": asked}) as response:
        error = (await response.json())["error"]
    assert (response.status, response.headers["Content-Range"]) == (416, "bytes */10")
    assert error["message"] == "the file has 10 bytes; ask for a range within"


async def test_a_range_of_another_version_is_not_mixed_in(files: aiohttp.ClientSession, root: Path) -> None:
    (root / "a").write_bytes(b"0123456789")
    async with files.get("a") as response:
        tag = response.headers["ETag"]
    async with files.get("a", headers={"Range": "bytes=5-", "If-Range": tag}) as response:
        assert await response.read() == b"56789"
    async with files.get("a", headers={"Range": "bytes=5-", "If-Range": '"other"'}) as response:
        assert (response.status, await response.read()) == (200, b"0123456789")


async def test_head_tells_size_and_tag_and_sends_nothing(files: aiohttp.ClientSession, root: Path) -> None:
    (root / "page.html").write_bytes(b"<h1>hi</h1>")
    async with files.head("page.html") as response:
        assert (await response.read(), response.headers["Content-Length"]) == (b"", "11")
    assert response.content_type == "text/html"


async def test_a_page_out_of_the_workspace_gets_no_rights_here(
    files: aiohttp.ClientSession, root: Path
) -> None:
    (root / "page.html").write_bytes(b"<script>alert(1)</script>")
    async with files.get("page.html") as response:
        headers = response.headers
    assert (headers["Content-Security-Policy"], headers["X-Content-Type-Options"]) == (
        "sandbox; frame-ancestors 'none'",
        "nosniff",
    )


async def test_what_is_known_already_is_not_sent_again(files: aiohttp.ClientSession, root: Path) -> None:
    (root / "a").write_bytes(b"x")
    async with files.get("a") as response:
        tag = response.headers["ETag"]
    async with files.get("a", headers={"If-None-Match": f'"z", W/{tag}'}) as response:
        assert (response.status, await response.read()) == (304, b"")
    async with files.put("a", data=b"y") as response:
        assert response.headers["ETag"] != tag
    async with files.get("a", headers={"If-None-Match": tag}) as response:
        assert (response.status, await response.read()) == (200, b"y")


async def test_a_stale_write_changes_nothing(files: aiohttp.ClientSession, root: Path) -> None:
    (root / "a").write_bytes(b"first")
    async with files.get("a") as response:
        tag = response.headers["ETag"]
    # By some kernels' slow clock for files, two writes one after the other come at the same time.
    at = (root / "a").stat().st_mtime_ns
    await until(lambda: (root / "a").write_bytes(b"other") and (root / "a").stat().st_mtime_ns != at)
    async with files.put("a", data=b"mine", headers={"If-Match": tag}) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (412, "conflict")
    assert error["message"] == "'a' has changed since it was read; read it again"
    assert (root / "a").read_bytes() == b"other"


async def test_a_write_may_expect_the_hash_that_read_told(files: aiohttp.ClientSession, root: Path) -> None:
    (root / "a").write_bytes(b"first")
    hashed = f'"sha256:{hashlib.sha256(b"first").hexdigest()}"'
    async with files.put("a", data=b"second", headers={"If-Match": hashed}) as response:
        assert response.status == 200
    async with files.put("a", data=b"third", headers={"If-Match": hashed}) as response:
        assert response.status == 412
    assert (root / "a").read_bytes() == b"second"


async def test_create_only_creates(files: aiohttp.ClientSession, root: Path) -> None:
    only_new = {"If-None-Match": "*"}
    async with files.put("a", data=b"1", headers=only_new) as response:
        assert response.status == 201
    async with files.put("a", data=b"2", headers=only_new) as response:
        assert response.status == 412
    async with files.put("gone", data=b"2", headers={"If-Match": "*"}) as response:
        error = (await response.json())["error"]
    assert error["message"] == "'gone' does not exist any more, as it did when it was read; read it again"
    assert names_in(root) == ["a"]


async def test_of_many_conditional_writers_one_wins(files: aiohttp.ClientSession, root: Path) -> None:
    (root / "a").write_bytes(b"0")
    async with files.get("a") as response:
        tag = response.headers["ETag"]

    async def write(data: bytes) -> int:
        async with files.put("a", data=data, headers={"If-Match": tag}) as response:
            return response.status

    statuses = await asyncio.gather(*(write(b"%d" % number) for number in range(1, 9)))
    assert sorted(statuses) == [200, *[412] * 7]
    assert (root / "a").read_bytes() == b"%d" % (statuses.index(200) + 1)


async def test_delete_removes_a_file_and_nothing_else(files: aiohttp.ClientSession, root: Path) -> None:
    (root / "a").write_bytes(b"x")
    (root / "d").mkdir()
    (root / "link").symlink_to("a")
    async with files.delete("link") as response:
        assert response.status == 204
    assert (root / "a").exists()
    async with files.delete("a", headers={"If-Match": '"other"'}) as response:
        assert response.status == 412
    async with files.delete("a") as response:
        assert response.status == 204
    async with files.delete("d") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (409, "not_a_file")
    assert names_in(root) == ["d"]


@pytest.mark.parametrize(
    ("address", "status", "code"),
    [
        ("%2e%2e/%2e%2e/etc/passwd", 403, "outside_workspace"),
        ("/etc/passwd", 403, "outside_workspace"),
        ("out", 403, "outside_workspace"),
        ("nothing", 404, "not_found"),
        ("d", 409, "not_a_file"),
        ("fifo", 409, "not_a_file"),
        (".workspace-core/x", 403, "outside_workspace"),
        ("a%00b", 400, "invalid_request"),
        ("a?version=2", 400, "invalid_request"),
    ],
)
async def test_what_is_no_file_in_here_is_refused(
    files: aiohttp.ClientSession, root: Path, address: str, status: int, code: str
) -> None:
    (root / "d").mkdir()
    (root / "out").symlink_to("/etc/passwd")
    os.mkfifo(root / "fifo")
    target = URL(f"{files._base_url}{address}", encoded=True)
    async with files.get(target) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (status, code)


async def test_a_link_inside_is_written_through(files: aiohttp.ClientSession, root: Path) -> None:
    (root / "real").write_bytes(b"old")
    (root / "link").symlink_to("real")
    async with files.put("link", data=b"new"):
        pass
    assert ((root / "link").is_symlink(), (root / "real").read_bytes()) == (True, b"new")


@pytest.mark.parametrize("mode", ["8", "999", "-755", "7777", "rwx"])
async def test_a_mode_that_is_none_is_refused(files: aiohttp.ClientSession, root: Path, mode: str) -> None:
    async with files.put("a", params={"mode": mode}, data=b"x") as response:
        error = (await response.json())["error"]
    assert (response.status, error["details"]["field"]) == (400, "mode")
    assert names_in(root) == []


async def test_an_upload_that_breaks_off_leaves_what_was_there(
    files: aiohttp.ClientSession, root: Path
) -> None:
    (root / "a").write_bytes(b"old")
    begun = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        begun.set()
        await asyncio.Event().wait()

    sending = asyncio.create_task(files.put("a", data=half()).__aenter__())
    await begun.wait()
    sending.cancel()
    await asyncio.wait([sending])
    assert ((root / "a").read_bytes(), names_in(root)) == (b"old", ["a"])


async def test_a_file_past_the_limit_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with running(tmp_path, TOOL_SERVER_MAX_UPLOAD_BYTES="1000") as daemon:
        headers = {"Authorization": f"Bearer {daemon.token}"}

        async def unannounced() -> AsyncIterator[bytes]:
            yield b"x" * 1001

        async with aiohttp.ClientSession(f"{daemon.url}/v1/files/", headers=headers) as files:
            for body in (b"x" * 1001, unannounced()):
                async with files.put("a", data=body) as response:
                    error = (await response.json())["error"]
                assert (response.status, error["details"]["limit"]) == (413, "maxUploadBytes")
        assert names_in(daemon.root) == []


async def test_a_daemon_killed_during_an_upload_leaves_no_trace(tmp_path: Path) -> None:
    # The first daemon's exit code is not 0, which is what ``running`` looks at.
    with pytest.raises(AssertionError, match="exit code -9"), running(tmp_path) as daemon:
        await _killed_amid_an_upload(daemon)
    assert names_in(tmp_path / "root") == []


async def _killed_amid_an_upload(daemon: Daemon) -> None:
    begun = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        begun.set()
        await asyncio.Event().wait()

    headers = {"Authorization": f"Bearer {daemon.token}"}
    async with aiohttp.ClientSession(f"{daemon.url}/v1/files/", headers=headers) as files:
        sending = asyncio.create_task(files.put("a", data=half()).__aenter__())
        await begun.wait()
        await until(lambda: any("(deleted)" in each for each in daemon.descriptors()), "the upload's file")
        daemon.process.kill()
        await asyncio.wait([sending])
        sending.exception()
        await until(lambda: not is_alive(daemon.pid), "its end")


async def test_a_large_file_goes_through_a_small_daemon(daemon: Daemon, root: Path) -> None:
    async with http_of(daemon) as http:
        await _warm(http)
    before = daemon.memory("VmRSS")
    sum_sent = hashlib.sha256()

    async def content() -> AsyncIterator[bytes]:
        for number in range(96):
            chunk = bytes([number]) * MIB
            sum_sent.update(chunk)
            yield chunk

    headers = {"Authorization": f"Bearer {daemon.token}"}
    async with aiohttp.ClientSession(f"{daemon.url}/v1/files/", headers=headers) as files:
        async with files.put("large", data=content()) as response:
            answer = await response.json()
        assert answer["hash"] == f"sha256:{sum_sent.hexdigest()}"
        sum_got = hashlib.sha256()
        async with files.get("large") as response:
            async for chunk in response.content.iter_chunked(MIB):
                sum_got.update(chunk)
    assert sum_got.digest() == sum_sent.digest()
    assert daemon.memory("VmHWM") - before < 48 * MIB


async def _warm(http: Http) -> None:
    await http.ok("list", path=".")
