"""audit: who did what, and never what it held."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RateLimited, Unauthorized
from protocol.limits import Limits
from protocol.messages.audit import Audit
from protocol.operations import OPERATIONS
from tests.builder import (
    PATIENCE_SECONDS,
    TOKEN,
    Daemon,
    Http,
    Json,
    http_of,
    raw_of,
    running,
    socket_of,
    until,
)
from tests.signing import Signer
from toolserver.system.trail import Trail
from toolserver.tools.auditing import Auditing
from toolserver.tools.call import Call
from toolserver.tools.subject import subject

SECRET = "hush-2f9c-hush"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("audited"), TOOL_SERVER_STOP_GRACE_MS="300") as daemon:
        yield daemon


async def newest(http: Http, **params: Any) -> list[Json]:
    lines: list[Json] = (await http.ok("audit", **params))["lines"]
    return lines


async def test_a_line_says_who_what_where_how_long_and_how_much(http: Http, daemon: Daemon) -> None:
    await http.ok("write", path="src/a.txt", content=SECRET)
    (line,) = await newest(http, limit=1)
    assert line.pop("durationMs") > 0
    assert line.pop("time").endswith("+00:00")
    assert line.pop("number") > 0
    assert line.pop("requestId").startswith("r")
    assert line.pop("bytesOut") > 100
    assert line == {
        "type": "line",
        "who": "static",
        "operation": "write",
        "outcome": "ok",
        "tokenId": None,
        "paths": ["src/a.txt"],
        "morePaths": 0,
        "program": None,
        "bytesIn": len(json.dumps({"path": "src/a.txt", "content": SECRET})),
        "peer": None,
        "unlisted": 0,
    }


async def test_every_door_is_audited(http: Http, daemon: Daemon) -> None:
    since = (await http.ok("audit"))["last"]
    async with http.session.put("/v1/files/raw.bin", data=b"x" * 300_000):
        pass
    async with http.session.get("/v1/files/raw.bin") as response:
        await response.read()
    async with http.session.get("/v1/archive", params={"format": "tar"}) as response:
        archive = await response.read()
    async with http.session.put("/v1/archive", data=archive):
        pass
    async with http.session.delete("/v1/files/raw.bin"):
        pass
    async with socket_of(daemon) as socket:
        await socket.ok("stat", path=".")
    told = [
        (each["operation"], each["outcome"], each["paths"], each["bytesIn"], each["bytesOut"])
        for each in await newest(http, since=since)
        if each["operation"] not in ("audit", "stat")
    ]
    assert told == [
        ("raw_write", "ok", ["raw.bin"], 300_000, 0),
        ("raw_read", "ok", ["raw.bin"], 0, 300_000),
        ("save", "ok", [], 0, len(archive)),
        ("inject", "ok", [], len(archive), 0),
        ("raw_remove", "ok", ["raw.bin"], 0, 0),
    ]


async def test_who_is_turned_away_is_told_by_the_address_pattern(http: Http, daemon: Daemon) -> None:
    asked = f"GET /v1/files/{SECRET} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {SECRET}\r\n\r\n"
    async with raw_of(daemon, asked.encode()) as reader:
        await reader.readline()
    (line,) = (each for each in await newest(http, limit=5) if each["outcome"] == "unauthorized")
    assert (line["who"], line["operation"], line["peer"]) == ("nobody", "/v1/files/{path}", "127.0.0.1")


async def test_a_follower_is_told_what_comes(http: Http, daemon: Daemon) -> None:
    async with socket_of(daemon) as watching:
        await watching.send("f", "audit", {"follow": True, "since": (await http.ok("audit"))["last"]})
        await http.ok("mkdir", path="told")
        while (event := (await watching.next_of("f"))["event"])["operation"] != "mkdir":
            pass
        assert event["paths"] == ["told"]
        await watching.send("f", "cancel")
        _, last = await watching.end_of("f")
        assert last["error"]["code"] == "cancelled"


async def test_secrets_given_in_any_place_are_in_no_line(http: Http, daemon: Daemon) -> None:
    """Content, patches, commands, variables, input, patterns: what lines hold, holds none of them."""
    await http.ok("write", path="s.txt", content=f"one\n{SECRET}\n")
    await http.ok("edit", path="s.txt", oldText=SECRET, newText=SECRET + "2")
    patch = f"--- a/s.txt\n+++ b/s.txt\n@@ -1,2 +1,3 @@\n one\n {SECRET}2\n+++ {SECRET}\n"
    await http.ok("edit", patch=patch)
    await http.ok("search", pattern=SECRET)
    await http.ok("replace", pattern=SECRET, replacement="x", dryRun=True)
    for command in (f"echo {SECRET}", f"A={SECRET} true", f"<{SECRET}", f"{SECRET}|cat", f"'{SECRET}'"):
        await http.ok("command", command=command, env={"TOKEN": SECRET}, stdin=SECRET)
    await http.ok("command", argv=["true", SECRET])
    await http.ok("shell", command=f"true {SECRET}")
    await http.refused_body("read", f'{{"{SECRET}": 1}}'.encode())
    async with socket_of(daemon, Authorization=f"Bearer {TOKEN}") as socket:
        await socket.ok("list")
    lines = await newest(http, limit=1000)
    assert {"git", "sh", "true", "echo"} >= {each["program"] for each in lines if each["program"]}
    assert SECRET not in json.dumps(lines)
    kept = daemon.state / "audit.jsonl"
    number = lines[-1]["number"]
    await until(lambda: kept.exists() and f'"number":{number},' in kept.read_text(), "the line")
    for text in (kept.read_text(), daemon.errors.read_text()):
        assert SECRET not in text
        assert TOKEN not in text
    assert kept.stat().st_mode & 0o077 == 0


async def test_lines_are_there_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        async with http_of(daemon) as http:
            await http.ok("mkdir", path="before")
    with running(tmp_path) as daemon:
        async with http_of(daemon) as http:
            (line,) = await newest(http)
    assert (line["number"], line["operation"], line["paths"]) == (1, "mkdir", ["before"])


async def test_whoever_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    with running(tmp_path, TOOL_SERVER_MAX_REQUESTS_PER_SECOND="1") as daemon:
        async with http_of(daemon) as http, socket_of(daemon) as socket:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    async with http.session.post("/v1/stat", data=b'{"path": "."}') as response:
                        answer = await response.json()
                        if response.status != 200:
                            break
            error = answer["error"]
            assert (response.status, error["code"], error["retryable"]) == (429, "rate_limited", True)
            assert error["details"].pop("retryAfterMs") > 0
            assert error["details"] == {"limit": "maxRequestsPerSecond", "value": 1}
            assert int(response.headers["Retry-After"]) >= 1
            codes = set()
            for _ in range(20):
                _, last = await socket.call("list")
                codes.add(last.get("error", {}).get("code"))
            assert "rate_limited" in codes


async def test_more_operations_than_the_limit_are_refused(tmp_path: Path) -> None:
    with running(tmp_path, TOOL_SERVER_MAX_OPERATIONS="2", TOOL_SERVER_STOP_GRACE_MS="300") as daemon:
        async with http_of(daemon) as http, socket_of(daemon) as socket:
            for id in ("one", "two"):
                await socket.send(id, "command", {"command": "echo up; sleep 60"})
                assert (await socket.next_of(id))["event"]["type"] in ("started", "stdout")
            refused = await http.refused("command", command="true")
            assert (refused.status, refused.code) == (503, "busy")
            assert refused.details == {"limit": "maxOperations", "value": 2}


async def test_one_user_cannot_take_the_place_of_all(tmp_path: Path) -> None:
    signer = Signer()
    keys = {"TOOL_SERVER_PUBLIC_KEY": signer.public, "SESSION_ID": "s1", "TOOL_SERVER_STOP_GRACE_MS": "300"}
    limits = {"TOOL_SERVER_MAX_OPERATIONS": "2", "TOOL_SERVER_MAX_OPERATIONS_IN_ALL": "3"}
    ann, bob = (f"Bearer {signer.signed(signer.claims('read', sub=user))}" for user in ("ann", "bob"))
    with running(tmp_path, **keys, **limits) as daemon:
        async with (
            socket_of(daemon, Authorization=ann) as hers,
            socket_of(daemon, Authorization=bob) as his,
            http_of(daemon, Authorization=ann) as again,
        ):
            for id in ("one", "two"):
                await hers.send(id, "watch")
                assert (await hers.next_of(id))["event"]["type"] == "watching"
            refused = await again.refused("list")
            assert (refused.code, refused.details) == ("busy", {"limit": "maxOperations", "value": 2})
            await his.ok("list")
            await his.send("three", "watch")
            assert (await his.next_of("three"))["event"]["type"] == "watching"
            full = await his.call("list")
            assert full[1]["error"]["details"] == {"limit": "maxOperationsInAll", "value": 3}


# -- the lines themselves ---------------------------------------------------------------------------------


def noted(auditing: Auditing, line: Json) -> None:
    auditing.note(1.5e9, json.dumps(line).encode())


def lines_of(trail: Path) -> list[Json]:
    return [json.loads(line) for line in trail.read_text().splitlines()]


async def test_a_flood_of_strangers_is_counted_and_not_listed() -> None:
    begun, auditing = time.monotonic(), Auditing(Limits())
    listed = [auditing.may_list({}) for _ in range(1000)]
    assert sum(listed) <= 20 + (time.monotonic() - begun)
    auditing._looked -= 60
    line: dict[str, Any] = {}
    assert auditing.may_list(line)
    assert line == {"unlisted": 1000 - sum(listed)}


async def test_memory_and_files_are_bounded(tmp_path: Path) -> None:
    limits = Limits(max_audit_entries=50, max_audit_bytes=8_000)
    auditing = Auditing(limits, Trail(tmp_path, limits.max_audit_bytes))
    for number in range(400):
        noted(auditing, {"who": "ann", "operation": "read", "outcome": "ok", "paths": [f"{number}"]})
        if number % 10 == 9:
            await auditing.close()
    answer = await auditing.audit(Audit(since=0, limit=1000), Call("r"))
    assert [each.number for each in answer.lines] == list(range(351, 401))
    assert (answer.last, answer.missed, answer.more) == (400, 350, False)
    files = sorted(tmp_path.iterdir())
    assert [each.name for each in files] == ["audit.1.jsonl", "audit.jsonl"]
    assert sum(each.stat().st_size for each in files) <= 8_000
    numbers = [each["number"] for file in files for each in lines_of(file)]
    assert numbers == list(range(numbers[0], 401))


async def test_what_was_cut_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    good = {"number": 7, "time": "2026-01-01T00:00:00.000+00:00", "who": "ann", "operation": "read"}
    whole = json.dumps({**good, "outcome": "ok"}).encode()
    (tmp_path / "audit.jsonl").write_bytes(b"\xff\xfe\n[]\n{}\n" + whole + b'\n{"number":8,"ti')
    auditing = Auditing(Limits(), Trail(tmp_path, 10_000))
    auditing.remember()
    noted(auditing, {"who": "bob", "operation": "list", "outcome": "ok"})
    found = (await auditing.audit(Audit(), Call("r"))).lines
    assert [(each.number, each.who) for each in found] == [(7, "ann"), (8, "bob")]
    await auditing.close()
    again = Auditing(Limits(), Trail(tmp_path, 10_000))
    again.remember()
    assert [each.who for each in (await again.audit(Audit(), Call("r"))).lines] == ["ann", "bob"]


async def test_a_page_after_another_misses_nothing() -> None:
    auditing, seen, since = Auditing(Limits()), [], 0
    for _ in range(25):
        noted(auditing, {"who": "ann", "operation": "read", "outcome": "ok"})
    while True:
        page = await auditing.audit(Audit(since=since, limit=10), Call("r"))
        seen += [each.number for each in page.lines]
        since = page.lines[-1].number
        if not page.more:
            break
    assert seen == list(range(1, 26))


CONTENT = ("content", "old_text", "new_text", "patch", "pattern", "replacement", "stdin", "data", "env")


@given(st.sampled_from(sorted(OPERATIONS)), st.text(min_size=12), st.binary(max_size=4))
def test_no_field_that_holds_content_comes_into_a_line(operation: str, secret: str, extra: bytes) -> None:
    kind = OPERATIONS[operation].request
    for field in msgspec.structs.fields(kind):
        if field.name in CONTENT:
            with suppress(TypeError):
                required = {each.name: "x" for each in msgspec.structs.fields(kind) if each.required}
                line: dict[str, Any] = {}
                subject(line, operation, kind(**{**required, field.name: secret + repr(extra)}))
                assert secret not in repr(line)


async def test_an_error_counts_once_however_often_it_passes() -> None:
    from toolserver.tools.ledger import Ledger

    ledger, error = Ledger(), RateLimited("x", limit="maxRequestsPerSecond", value=1)
    for _ in range(3):
        ledger.hit(error)
    ledger.hit(Unauthorized("x"))
    assert ledger.figures.limits == {"maxRequestsPerSecond": 1}


def test_a_trail_that_cannot_be_begun_anew_closes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor that was closed may be another's by then."""
    opened, close, closed = os.open, os.close, list[int]()

    def full(path: Any, flags: int, *given: Any, **more: Any) -> int:
        if flags & os.O_EXCL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, flags, *given, **more)

    def noted_close(fd: int) -> None:
        closed.append(fd)
        close(fd)

    trail = Trail(tmp_path, 200)
    trail.append(b"x" * 90 + b"\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        patch.setattr(os, "close", noted_close)
        with pytest.raises(OSError, match="No space"):
            trail.append(b"y" * 90 + b"\n")
    assert len(closed) == 1
    trail.append(b"z\n")
    assert (tmp_path / "audit.jsonl").read_bytes() == b"z\n"
