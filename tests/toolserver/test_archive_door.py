"""PUT and GET /v1/archive, and the manifests: whole or not at all, by real sockets and real kills."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.paths import RESERVED
from tests.builder import Daemon, Http, Refusal, emptied, http_of, running, until
from tests.toolserver.system.test_tarballs import HOSTILE, gnu_tar, tar_of
from tests.trees import Directory, File, Link, Tree, described, plant

OLD: Tree = {"a": File(b"old"), "d": Directory(), "d/x": File(b"x", 0o755), "link": Link("a")}
NEW: Tree = {"a": File(b"new"), "n": Directory(), "n/z": File(b"z")}


def tar(tree: Tree) -> bytes:
    """By another program than ours."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, node in tree.items():
            member = tarfile.TarInfo(f"./{path}")
            content = b""
            match node:
                case File(content, mode):
                    member.size, member.mode = len(content), mode
                case Link(target):
                    member.type, member.linkname = tarfile.SYMTYPE, target
                case Directory(mode):
                    member.type, member.mode = tarfile.DIRTYPE, mode
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


async def put(http: Http, archive: Any, headers: dict[str, str] | None = None, **query: str) -> Any:
    # As a file: aiohttp warns of a megabyte of bytes.
    body_sent = io.BytesIO(archive) if isinstance(archive, bytes) else archive
    async with http.session.put("/v1/archive", data=body_sent, params=query, headers=headers) as response:
        body = await response.json()
        return body if response.status == 200 else Refusal.of(response.status, body)


async def get(http: Http, **query: str) -> bytes:
    async with http.session.get("/v1/archive", params={"format": "tar", **query}) as response:
        assert response.status == 200, await response.text()
        return await response.read()


async def manifest(http: Http, digest: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    query = {"digest": digest} if digest else {}
    async with http.session.get("/v1/archive/manifest", params=query) as response:
        assert response.status == 200, await response.text()
        head, *lines = map(json.loads, (await response.text()).splitlines())
    assert len(lines) == head["entries"]
    return head, {line["path"]: line for line in lines}


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


# A manifest, times and deltas, over HTTP


async def test_a_manifest_tells_what_the_newest_save_held(root: Path, http: Http) -> None:
    plant(root, OLD)
    archive = await get(http)
    head, entries = await manifest(http)
    assert (head["digest"], head["files"], head["contentBytes"]) == (digest_of(archive), 2, 4)
    assert (head["leftOut"], head["changed"], head["since"]) == ([], [], None)
    assert set(entries) == set(OLD)
    assert (entries["d/x"]["hash"], entries["d/x"]["size"], entries["d/x"]["mode"]) == (
        digest_of(b"x"),
        1,
        0o755,
    )
    assert (entries["link"]["kind"], entries["link"]["target"]) == ("link", "a")
    assert await manifest(http, head["digest"]) == (head, entries)


async def test_a_name_that_is_no_text_is_told_by_its_bytes(root: Path, http: Http) -> None:
    plant(root, {os.fsdecode(b"caf\xe9"): File(b"")})
    await get(http)
    (entry,) = (await manifest(http))[1].values()
    assert base64.b64decode(entry["pathBytes"]) == b"caf\xe9"


async def test_of_a_save_that_is_not_kept_it_is_said_so(root: Path, http: Http) -> None:
    unknown = "sha256:" + "0" * 64
    for path, query in (("/v1/archive/manifest", "digest"), ("/v1/archive", "since")):
        async with http.session.get(path, params={query: unknown}) as response:
            refused = Refusal.of(response.status, await response.json())
        assert (refused.status, refused.code) == (404, "not_found")
        assert "take a whole save" in refused.message
    async with http.session.get("/v1/archive/manifest", params={"digest": "sha256:../../etc"}) as response:
        assert Refusal.of(response.status, await response.json()).code == "invalid_request"


async def test_a_damaged_manifest_costs_a_delta_and_nothing_else(
    root: Path, http: Http, daemon: Daemon
) -> None:
    plant(root, OLD)
    digest = digest_of(await get(http))
    place = daemon.state / "manifests" / digest.removeprefix("sha256:")
    place.write_bytes(place.read_bytes()[:-3])
    async with http.session.get("/v1/archive", params={"since": digest}) as response:
        assert Refusal.of(response.status, await response.json()).code == "not_found"
    assert digest_of(await get(http)) == digest


async def test_fixed_times_make_one_archive_of_one_content(root: Path, http: Http) -> None:
    plant(root, OLD)
    os.utime(root / "a", (5, 5))
    kept, fixed = await get(http), await get(http, times="fixed")
    os.utime(root / "a", (9, 9))
    assert await get(http, times="fixed") == fixed
    assert await get(http) != kept
    with tarfile.open(fileobj=io.BytesIO(fixed)) as archive:
        assert {member.mtime for member in archive if member.name != "."} == {315532800}


async def test_a_save_a_delta_and_both_back_in_another_workspace(
    root: Path, http: Http, tmp_path: Path
) -> None:
    plant(root, OLD)
    whole = await get(http)
    plant(emptied(root), NEW)
    delta = await get(http, since=digest_of(whole))
    head, entries = await manifest(http, digest_of(delta))
    assert (set(entries), head["since"]) == (set(NEW), digest_of(whole))
    with running(tmp_path) as other:
        async with http_of(other) as there:
            early = await put(there, delta, mode="delta")
            assert (early.status, early.code) == (409, "conflict")
            assert "inject that save first" in early.message
            await put(there, whole)
            refused = await put(there, delta)
            assert (refused.code, "with mode 'delta'" in refused.message) == ("conflict", True)
            assert described(other.root) == OLD
            assert (await put(there, delta, mode="delta"))["digest"] == digest_of(delta)
            assert described(other.root) == NEW
            none = await put(there, whole, mode="delta")
            assert (none.code, described(other.root)) == ("archive_invalid", NEW)


async def test_a_delta_has_the_rules_of_its_base(root: Path, http: Http) -> None:
    plant(root, {"a": File(b""), "b.log": File(b"kept"), "c.tmp": File(b"")})
    since = digest_of(await get(http, include="*.log", exclude="*.tmp", times="fixed"))
    (root / "c.tmp").write_bytes(b"changed")
    delta = await get(http, since=since)
    with tarfile.open(fileobj=io.BytesIO(delta)) as archive:
        assert [name for name in archive.getnames() if "workspace-core" not in name] == ["."]
    for query in ({"exclude": "a"}, {"times": "kept"}):
        async with http.session.get("/v1/archive", params={"since": since, **query}) as response:
            assert Refusal.of(response.status, await response.json()).code == "invalid_request"


async def test_only_so_many_manifests_are_kept(root: Path, http: Http, daemon: Daemon) -> None:
    digests = []
    for number in range(18):
        (root / "a").write_text(str(number))
        digests.append(digest_of(await get(http)))
    assert {path.name for path in (daemon.state / "manifests").iterdir()} <= {
        digest.removeprefix("sha256:") for digest in digests[2:]
    }
    assert len(list((daemon.state / "manifests").iterdir())) == 16


# What is sent


@pytest.mark.parametrize("header", ["Content-Digest", "Repr-Digest"])
@pytest.mark.parametrize("name", ["sha-256", "sha-512"])
async def test_a_body_is_held_against_its_digest(name: str, header: str, root: Path, http: Http) -> None:
    plant(root, OLD)
    archive = gzip.compress(tar(NEW))
    right = base64.b64encode(hashlib.new(name.replace("-", ""), archive).digest()).decode()
    wrong = base64.b64encode(hashlib.new(name.replace("-", ""), b"").digest()).decode()
    refused = await put(http, archive, {header: f"{name}=:{wrong}:"})
    assert (refused.status, refused.code, described(root)) == (422, "archive_invalid", OLD)
    malformed = await put(http, archive, {header: "crc32=:AAAA:"})
    assert (malformed.code, described(root)) == ("invalid_request", OLD)
    assert (await put(http, archive, {header: f"{name}=:{right}:"}))["files"] == 2
    assert described(root) == NEW


async def test_progress_is_told_while_an_archive_comes(root: Path, http: Http) -> None:
    halves = asyncio.Event()
    archive = tar({"a": File(bytes(600_000)), "b": File(bytes(600_000))})

    async def chunks() -> AsyncIterator[bytes]:
        yield archive[:700_000]
        await halves.wait()
        yield archive[700_000:]

    async with http.session.put(
        "/v1/archive", data=chunks(), headers={"Accept": "application/x-ndjson"}
    ) as response:
        assert response.status == 200
        halves.set()
        *events, last = [json.loads(line) async for line in response.content if line.strip()]
    assert last["result"]["files"] == 2
    assert events[-1]["event"] == {
        "type": "unpacked",
        "files": 2,
        "contentBytes": 1_200_000,
        "archiveBytes": len(archive),
    }


CODES = {
    "ArchiveUnsafe": (422, "archive_unsafe"),
    "ArchiveInvalid": (422, "archive_invalid"),
    "TooLarge": (413, "too_large"),
}


@pytest.mark.parametrize("mode", ["replace", "merge"])
async def test_every_hostile_archive_is_refused_by_its_code_and_changes_nothing(
    mode: str, root: Path, http: Http
) -> None:
    plant(root, OLD)
    for what, (entries, error, reason) in HOSTILE.items():
        refused = await put(http, tar_of(*entries), mode=mode)
        assert isinstance(refused, Refusal), what
        assert (refused.status, refused.code) == CODES[error.__name__], what
        assert reason in refused.message
        assert described(root) == OLD, what


async def test_a_stored_sparse_archive_is_refused_by_gnu_tars_own_form(
    root: Path, http: Http, tmp_path: Path
) -> None:
    plant(root, OLD)
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1_000_000)
        file.write(b"x")
        file.seek(2_000_000)
        file.write(b"end")
    for form in ("gnu", "posix"):
        sparse = gnu_tar(f"--format={form}", "-cf", "-", "-C", str(tmp_path), "--sparse", "holes")
        refused = await put(http, sparse)
        assert refused.code == "archive_invalid"
        assert refused.message.endswith("is stored sparse; pack it again without --sparse")
        assert described(root) == OLD
    await put(http, gnu_tar("-cf", "-", "-C", str(tmp_path), "holes"))
    assert (root / "holes").read_bytes() == (tmp_path / "holes").read_bytes()


async def test_merging_touches_nothing_that_is_the_same(root: Path, http: Http) -> None:
    plant(root, OLD)
    before = {path: os.lstat(root / path) for path in OLD}
    await put(http, tar(OLD | {"d/y": File(b"y"), "a": File(b"other")}), mode="merge")
    after = {path: os.lstat(root / path) for path in OLD}
    changed = {
        path
        for path in OLD
        if (before[path].st_ino, before[path].st_ctime_ns) != (after[path].st_ino, after[path].st_ctime_ns)
    }
    assert changed == {"a", "d"}
    assert before["d"].st_ino == after["d"].st_ino


async def test_of_two_injections_at_once_one_is_refused_and_none_is_mixed(root: Path, http: Http) -> None:
    plant(root, OLD)
    goes_on = asyncio.Event()
    archive = tar(NEW)
    staged = root.parent / "state" / "swap"
    await until(lambda: not staged.exists(), "the tidying after whoever injected before")

    async def slowly() -> AsyncIterator[bytes]:
        yield archive[:512]
        await goes_on.wait()
        yield archive[512:]

    first = asyncio.create_task(put(http, slowly()))
    await until(staged.exists, "the first to be under way")
    for mode in ("replace", "merge"):
        second = await put(http, tar({"second": File(b"")}), mode=mode)
        assert (second.status, second.code) == (503, "busy")
    assert described(root) == OLD
    goes_on.set()
    assert (await first)["files"] == 2
    assert described(root) == NEW


async def test_a_save_while_files_change_holds_of_each_file_one_state(root: Path, http: Http) -> None:
    names = [f"{number:03}" for number in range(200)]
    plant(root, {name: File(b"0" * 5000) for name in names})
    stop = asyncio.Event()

    async def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await http.ok("write", path=names[number % 200], content=str(number % 10) * 5000)

    changing = asyncio.create_task(change())
    try:
        for _ in range(3):
            archive = await get(http)
            with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
                contents = {
                    member.name: opened.extractfile(member).read()  # type: ignore[union-attr]
                    for member in opened
                    if member.isfile()
                }
            assert len(contents) == 200
            assert all(len(set(content)) == 1 and len(content) == 5000 for content in contents.values())
            hashes = {
                f"./{path}": line["hash"]
                for path, line in (await manifest(http, digest_of(archive)))[1].items()
            }
            assert hashes == {name: digest_of(content) for name, content in contents.items()}
    finally:
        stop.set()
        await changing


# Kills


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["replace", "merge"])
async def test_a_daemon_that_is_killed_while_it_injects_leaves_one_tree(mode: str, tmp_path: Path) -> None:
    """At instants that chance picks, from the first byte to after the answer; ``killed`` tries every one."""
    many: Tree = {f"n/{number:03}": File(b"n" * 100) for number in range(300)}
    old = dict(sorted((OLD | {f"o{number:02}": File(b"o") for number in range(50)}).items()))
    new = dict(sorted((NEW | many).items()))
    expected = new if mode == "replace" else dict(sorted((old | new).items()))
    archive, ends = gzip.compress(tar(new), 1), set()
    for part in (0.5, 1.0, 1.0, 1.0):
        place = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        plant(place / "root", old)
        await _killed(place, archive, mode, part)
        with running(place) as daemon:
            found = described(daemon.root)
            assert found in (old, expected)
            assert not (daemon.state / "swap").exists()
            ends.add(found == old)
    assert True in ends


async def _killed(place: Path, archive: bytes, mode: str, part: float) -> None:
    """Send that part of the archive, wait until it was taken, and kill."""
    sent = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield archive[: int(len(archive) * part)]
        sent.set()
        if part < 1.0:
            await asyncio.Event().wait()

    async def put_and_kill(daemon: Daemon) -> None:
        async with http_of(daemon) as http:
            putting = asyncio.create_task(put(http, chunks(), mode=mode))
            await sent.wait()
            if 0.0 < part < 1.0:
                await until((daemon.state / "swap").exists, "the staging")
            os.kill(daemon.pid, signal.SIGKILL)
            await until(lambda: daemon.process.poll() is not None, "its death")
            await asyncio.gather(putting, return_exceptions=True)

    with pytest.raises(AssertionError, match="exit code -9"):
        async with _alive(place) as daemon:
            await put_and_kill(daemon)


@contextlib.asynccontextmanager
async def _alive(place: Path) -> AsyncIterator[Daemon]:
    with running(place) as daemon:
        yield daemon


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A place for a daemon whose root is a file system of its own."""
    root = tmp_path / "root"
    root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs", str(root)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


async def content_of(root: Path) -> Tree:
    """Once what was there before is removed, which comes after an answer."""
    await until(lambda: not (root / RESERVED).exists(), "the tidying")
    return described(root)


async def test_the_root_may_be_a_mount_point(mounted: Path) -> None:
    plant(mounted / "root", OLD)
    with running(mounted) as daemon:
        async with http_of(daemon) as http:
            whole = await get(http)
            await put(http, tar(NEW))
            assert await content_of(daemon.root) == NEW
            delta = await get(http, since=digest_of(whole))
            await put(http, tar({"n/z": File(b"3")}), mode="merge")
            assert await content_of(daemon.root) == NEW | {"n/z": File(b"3")}
            await put(http, whole)
            assert await content_of(daemon.root) == OLD
            await put(http, delta, mode="delta")
            assert await content_of(daemon.root) == NEW
