"""Tokens while they are in use: over, revoked, renewed, bound to a session, in a signed address."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.builder import (
    PATIENCE_SECONDS,
    Daemon,
    Json,
    Socket,
    http_of,
    out_of_time,
    run_to_end,
    running,
    socket_of,
    until,
)
from tests.signing import ALL, Signer

SIGNER = Signer()
LEEWAY = 30
"""For two clocks; a token that is to end soon has been over for nearly so long."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    keys = {"TOOL_SERVER_PUBLIC_KEY": SIGNER.public, "SESSION_ID": "s1"}
    with running(tmp_path_factory.mktemp("tokens"), TOOL_SERVER_STOP_GRACE_MS="300", **keys) as daemon:
        (daemon.root / "a.txt").write_text("a\n")
        yield daemon


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def ending(seconds: float, *scopes: str, **more: Any) -> str:
    """A token that is taken for so much longer, or up to a second less."""
    return SIGNER.token(*scopes, seconds=seconds - LEEWAY, **more)


async def test_static_and_session_tokens_go_side_by_side(daemon: Daemon) -> None:
    for token in (daemon.token, SIGNER.token("read")):
        for headers in (bearer(str(token)), {"Authorization": "Basic eA==", "X-Workspace-Token": str(token)}):
            async with http_of(daemon, **headers) as http:
                assert (await http.ok("read", path="a.txt"))["content"] == "a\n"


async def test_a_forged_token_is_refused_on_both_doors_and_written_nowhere(daemon: Daemon) -> None:
    forged = Signer().token(*ALL, jti="forged")
    async with http_of(daemon, **bearer(forged)) as http:
        refusal = await http.refused("list")
        assert (refusal.status, refusal.code) == (401, "unauthorized")
        async with http.session.get("/v1/ws", headers={"Upgrade": "websocket"}) as response:
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    good = SIGNER.token("read")
    async with http_of(daemon, **bearer(good)) as http:
        await http.ok("list")
    log = daemon.errors.read_text()
    assert not any(part in log for token in (forged, good) for part in token.split(".")[1:])


async def test_a_browser_offers_it_as_a_subprotocol_and_it_is_logged_nowhere(daemon: Daemon) -> None:
    for spoken in (["workspace.v1+json"], []):
        token = SIGNER.token("read")
        offered = [Subprotocol(each) for each in (*spoken, f"bearer.{token}")]
        async with connect(daemon.url.replace("http", "ws", 1) + "/v1/ws", subprotocols=offered) as socket:
            await socket.send('{"id": "1", "op": "list"}')
            assert "entries" in str(await socket.recv())
            assert socket.subprotocol in ("workspace.v1+json", None)
        assert token.split(".")[1] not in daemon.errors.read_text()


class TestOver:
    """By tokens that end soon: one that is over before anything has begun gives way to the next."""

    async def test_an_open_socket_is_closed_and_its_command_lives_on(self, daemon: Daemon) -> None:
        line = "until [ -e over ]; do sleep 0.05; done"

        async def closed(milliseconds: int) -> tuple[str, tuple[int, str]] | None:
            id = f"lives-{milliseconds}"
            try:
                async with socket_of(daemon, **bearer(ending(milliseconds / 1000, *ALL))) as socket:
                    await socket.send("1", "command", {"command": line, "commandId": id})
                    if (await socket.next_of("1")).get("event", {}).get("type") != "started":
                        return None
                    return id, await socket.closed()
            except (InvalidStatus, ConnectionClosed):
                return None

        told = await out_of_time(closed, bool)
        assert told is not None
        id, end = told
        assert end == (4401, "the token expired: fetch a new one")
        (daemon.root / "over").touch()
        async with http_of(daemon) as http:
            assert (await http.ok("wait", processId=id))["exitCode"] == 0

    async def test_a_stream_over_http_ends_with_the_reason(self, daemon: Daemon) -> None:
        async def watched(milliseconds: int) -> list[Json]:
            headers = {**bearer(ending(milliseconds / 1000, "read")), "Accept": "application/x-ndjson"}
            async with (
                http_of(daemon, **headers) as http,
                http.session.post("/v1/watch", json={}) as response,
            ):
                return [json.loads(line) async for line in response.content if line.strip()]

        frames = await out_of_time(watched, lambda frames: "event" in frames[0])
        assert frames[0]["event"]["type"] == "watching"
        assert frames[-1]["error"]["code"] == "unauthorized"
        assert frames[-1]["error"]["message"] == "the token expired: fetch a new one"

    async def test_an_agents_long_call_ends_with_the_reason(self, daemon: Daemon) -> None:
        params = {"name": "command", "arguments": {"command": "sleep 30"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {"Accept": "application/json, text/event-stream", "Mcp-Protocol-Version": "2025-06-18"}

        async def called(milliseconds: int) -> Json:
            async with http_of(daemon, **bearer(ending(milliseconds / 1000, "command"))) as http:
                async with http.session.post("/mcp", json=body, headers=headers) as response:
                    last: Json = json.loads((await response.text()).strip().rpartition("data: ")[2])
                    return last

        last = await out_of_time(called, lambda last: "result" in last)
        assert last["result"]["isError"]
        assert last["result"]["content"][0]["text"] == "the token expired: fetch a new one"

    async def test_one_that_is_over_opens_nothing(self, daemon: Daemon) -> None:
        async with http_of(daemon, **bearer(ending(-5, *ALL))) as http:
            told = re.search(r"the token expired (\d+) seconds ago", (await http.refused("list")).message)
        assert told is not None
        assert int(told[1]) >= 5 + LEEWAY


class TestRenewed:
    async def test_a_socket_outlives_its_token_and_has_the_new_ones_scopes(self, daemon: Daemon) -> None:
        second = SIGNER.token("read", "command", jti="second")
        async with AsyncExitStack() as stack:

            async def in_time(milliseconds: int) -> tuple[Socket, float, Json, Json] | None:
                over = time.time() + milliseconds / 1000
                first = bearer(ending(milliseconds / 1000, "read"))
                try:
                    socket = await stack.enter_async_context(socket_of(daemon, **first))
                    before = (await socket.call("processes"))[1]
                    last = (await socket.call("renew", token=second))[1]
                except (InvalidStatus, ConnectionClosed):
                    return None
                return (socket, over, before, last["result"]) if "result" in last else None

            renewing = await out_of_time(in_time, bool)
            assert renewing is not None
            socket, over, before, renewed = renewing
            assert before["error"]["code"] == "forbidden"
            assert (renewed["tokenId"], renewed["scopes"]) == ("second", ["read", "command"])
            assert renewed["expires"].endswith("Z")
            await socket.ok("processes")
            while time.time() < over + 0.5:
                await asyncio.sleep(0.1)
                await socket.ok("processes")

    async def test_it_may_have_less_from_now_on(self, daemon: Daemon) -> None:
        async with socket_of(daemon, **bearer(SIGNER.token(*ALL))) as socket:
            await socket.ok("renew", token=SIGNER.token("dev"))
            assert (await socket.call("list"))[1]["error"]["code"] == "forbidden"

    @pytest.mark.parametrize(
        ("more", "code"),
        [
            ({"sub": "bob"}, "forbidden"),
            ({"sid": "s2"}, "unauthorized"),
            ({"exp": int(time.time()) - 60}, "unauthorized"),
        ],
    )
    async def test_another_users_token_renews_nothing(self, daemon: Daemon, more: Json, code: str) -> None:
        async with socket_of(daemon, **bearer(SIGNER.token("read"))) as socket:
            _, last = await socket.call("renew", token=SIGNER.token(*ALL, **more))
            assert last["error"]["code"] == code
            await socket.ok("list")

    async def test_each_try_is_told_by_the_audit_with_whom_it_was_for(self, daemon: Daemon) -> None:
        async with socket_of(daemon, **bearer(SIGNER.token("read", sub="carol"))) as socket:
            await socket.call("renew", token=Signer().token("read", sub="carol"))
            await socket.ok("renew", token=SIGNER.token("read", sub="carol", jti="hers"))
        async with http_of(daemon) as http:
            lines = (await http.ok("audit", limit=100))["lines"]
        told = [
            (line["outcome"], line["tokenId"])
            for line in lines
            if (line["operation"], line["who"]) == ("renew", "carol")
        ]
        assert told == [("unauthorized", None), ("ok", "hers")]

    async def test_one_of_the_static_token_has_nothing_to_renew(self, daemon: Daemon) -> None:
        async with socket_of(daemon) as socket:
            _, last = await socket.call("renew", token=SIGNER.token(*ALL))
        assert last["error"]["message"] == (
            "this socket is open by a token that does not expire: there is nothing to renew"
        )

    async def test_a_frame_without_a_token_says_what_is_missing(self, daemon: Daemon) -> None:
        async with socket_of(daemon, **bearer(SIGNER.token("read"))) as socket:
            _, last = await socket.call("renew")
        assert last["error"]["message"] == "required field 'token' is missing"


class TestRevoked:
    async def test_all_that_is_open_by_it_is_closed_and_it_comes_in_no_more(self, daemon: Daemon) -> None:
        token = SIGNER.token(*ALL, jti="leaked")
        async with http_of(daemon) as admin, http_of(daemon, **bearer(token)) as http:
            async with socket_of(daemon, **bearer(token)) as socket, socket_of(daemon) as other:
                stream = asyncio.create_task(http.stream("watch"))
                await socket.ok("list")
                async with asyncio.timeout(30):
                    while (await admin.ok("activity"))["requests"] < 1:
                        await asyncio.sleep(0.02)
                assert await admin.ok("revoke", tokenId="leaked") == {"tokenId": "leaked", "closed": 2}
                assert await socket.closed() == (4401, "the token was revoked: fetch a new one")
                assert (await stream)[-1]["error"]["message"] == "the token was revoked: fetch a new one"
                await other.ok("list")
            assert (await http.refused("list")).message == "the token was revoked: fetch a new one"

    async def test_a_request_whose_body_comes_after_that_does_nothing(self, daemon: Daemon) -> None:
        token, body = SIGNER.token(*ALL, jti="slow"), b'{"command": "touch ran"}'
        head = (
            f"POST /v1/command HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
            f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with http_of(daemon) as admin, http_of(daemon, **bearer(token)) as http:
            await http.ok("list")
            reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
            writer.write(head.encode())
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                await admin.ok("revoke", tokenId="slow")
                writer.write(body)
                assert (await reader.readline()).split()[1] == b"401"
            writer.close()
        assert not (daemon.root / "ran").exists()

    async def test_a_renewed_socket_is_closed_by_the_token_it_has_now(self, daemon: Daemon) -> None:
        old, new = SIGNER.token("read", jti="before"), SIGNER.token("read", jti="after")
        async with http_of(daemon) as admin, socket_of(daemon, **bearer(old)) as socket:
            await socket.ok("renew", token=new)
            assert (await admin.ok("revoke", tokenId="before"))["closed"] == 0
            await socket.ok("list")
            assert (await admin.ok("revoke", tokenId="after"))["closed"] == 1
            assert (await socket.closed())[0] == 4401

    async def test_a_restart_forgets_none(self, tmp_path: Path) -> None:
        keys, token = {"TOOL_SERVER_PUBLIC_KEY": SIGNER.public, "SESSION_ID": "s1"}, SIGNER.token("read")
        for _ in range(2):
            with running(tmp_path, **keys) as daemon:
                async with http_of(daemon) as admin, http_of(daemon, **bearer(token)) as http:
                    if _ == 0:
                        await http.ok("list")
                        await admin.ok("revoke", tokenId=json_of(token)["jti"])
                    assert (await http.refused("list")).code == "unauthorized"


def test_a_tool_server_that_cannot_know_what_was_revoked_does_not_start(tmp_path: Path) -> None:
    memory = tmp_path / "state" / "tokens.json"
    memory.parent.mkdir(mode=0o700)
    memory.write_text('{"spent": {"t1')
    state = {"TOOL_SERVER_STATE_DIR": str(memory.parent)}
    done = run_to_end(tmp_path, TOOL_SERVER_PUBLIC_KEY=SIGNER.public, **state)
    assert done.returncode == 1
    assert f"which tokens were revoked is not known, for {memory} cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def json_of(token: str) -> Json:
    import base64

    part = token.split(".")[1]
    said: Json = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return said


class TestSignedAddresses:
    async def asked(
        self, daemon: Daemon, method: str, path: str, data: bytes | None = None
    ) -> tuple[int, str]:
        """Without any token in a header."""
        async with http_of(daemon, Authorization="") as http:
            async with http.session.request(method, path, data=data) as response:
                return response.status, await response.text()

    async def test_a_download_and_an_upload_work_once(self, daemon: Daemon) -> None:
        down = f"/v1/files/a.txt?ticket={SIGNER.ticket('GET', '/v1/files/a.txt')}"
        assert await self.asked(daemon, "GET", down) == (200, "a\n")
        status, text = await self.asked(daemon, "GET", down)
        assert (status, "was used already" in text) == (401, True)
        up = SIGNER.ticket("PUT", "/v1/files/ä b.txt", options={"mode": "600"})
        status, _ = await self.asked(daemon, "PUT", f"/v1/files/%C3%A4%20b.txt?mode=600&ticket={up}", b"up")
        assert (status, (daemon.root / "ä b.txt").read_bytes()) == (201, b"up")

    @pytest.mark.parametrize("door", ["/v1/ws", "/metrics", "/openapi.json", "/", "/v1/archive/manifest"])
    async def test_no_other_door_is_opened_by_one(self, daemon: Daemon, door: str) -> None:
        status, text = await self.asked(daemon, "GET", f"{door}?ticket={SIGNER.ticket('GET', door)}")
        assert (status, f"signed for files and archives, not for '{door}'" in text) == (403, True)

    async def test_an_archive_is_had_once(self, daemon: Daemon) -> None:
        ticket = SIGNER.ticket("GET", "/v1/archive", options={"format": "tar"})
        async with http_of(daemon, Authorization="") as http:
            async with http.session.get(f"/v1/archive?format=tar&ticket={ticket}") as response:
                assert (response.status, b"a.txt" in await response.read()) == (200, True)

    async def test_two_at_once_are_let_in_once(self, daemon: Daemon) -> None:
        path = f"/v1/files/a.txt?ticket={SIGNER.ticket('GET', '/v1/files/a.txt')}"
        found = await asyncio.gather(*(self.asked(daemon, "GET", path) for _ in range(5)))
        assert sorted(status for status, _ in found) == [200, 401, 401, 401, 401]

    async def test_for_another_request_it_is_refused(self, daemon: Daemon) -> None:
        ticket = SIGNER.ticket("GET", "/v1/files/a.txt")
        for method, path in (
            ("DELETE", "/v1/files/a.txt?ticket="),
            ("GET", "/v1/files/b.txt?ticket="),
            ("GET", "/v1/files/a.txt?mode=1&ticket="),
            ("GET", f"/v1/files/a.txt?ticket={ticket}&ticket="),
            ("POST", "/v1/list?ticket="),
            ("GET", "/v1/ws?ticket="),
        ):
            status, text = await self.asked(daemon, method, path + ticket)
            assert (status, "forbidden" in text) == (403, True), (method, path, text)
        assert (await self.asked(daemon, "GET", f"/v1/files/a.txt?ticket={ticket}"))[0] == 200

    @pytest.mark.parametrize("name", ["token", "access_token", "bearer", "authorization"])
    async def test_no_other_token_is_taken_from_an_address(self, daemon: Daemon, name: str) -> None:
        for token in (daemon.token, SIGNER.token(*ALL)):
            assert (await self.asked(daemon, "GET", f"/v1/files/a.txt?{name}={token}"))[0] == 401
        assert (await self.asked(daemon, "GET", f"/v1/files/a.txt?ticket={SIGNER.token(*ALL)}"))[0] == 401


class TestBound:
    async def test_a_waiting_tool_server_is_given_its_session_once(self, tmp_path: Path) -> None:
        with running(tmp_path, token=None, TOOL_SERVER_PUBLIC_KEY=SIGNER.public) as daemon:
            mine, others = SIGNER.token(*ALL, sid="s7"), SIGNER.token(*ALL, sid="s8")
            async with http_of(daemon, **bearer(mine)) as http, http_of(daemon, **bearer(others)) as other:
                refusal = await http.refused("list")
                assert (refusal.code, refusal.status) == ("conflict", 409)
                assert refusal.message == (
                    "this tool server belongs to no session yet: bind it to one by bind_session"
                )
                assert (await other.refused("bind_session", sessionId="s7")).code == "forbidden"
                bound = await http.ok("bind_session", sessionId="s7")
                assert bound == {"sessionId": "s7", "keyIds": [SIGNER.id]}
                await http.ok("list")
                assert (await other.refused("bind_session", sessionId="s8")).code == "unauthorized"
                assert (await http.refused("bind_session", sessionId="s8")).code == "conflict"
        with running(tmp_path, token=None, TOOL_SERVER_PUBLIC_KEY=SIGNER.public) as daemon:
            async with http_of(daemon, **bearer(others)) as other:
                assert (await other.refused("bind_session", sessionId="s8")).code == "unauthorized"

    async def test_only_a_token_for_that_binds(self, tmp_path: Path) -> None:
        with running(tmp_path, token=None, TOOL_SERVER_PUBLIC_KEY=SIGNER.public) as daemon:
            async with http_of(daemon, **bearer(SIGNER.token("read", sid="s7"))) as http:
                assert (await http.refused("bind_session", sessionId="s7")).code == "forbidden"
            assert (await self.nothing(daemon)).status == 401

    async def nothing(self, daemon: Daemon) -> Any:
        async with http_of(daemon) as http:
            return await http.refused("bind_session", sessionId="s7")

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"sessionId": ""}, "'sessionId' has 1 to 200 printable ASCII characters"),
            (
                {"sessionId": "s1", "publicKeys": ["abc"]},
                "'publicKeys' must be Ed25519 public keys, 32 bytes each in base64, with commas between",
            ),
            ({"sessionId": "s1", "publicKeys": [SIGNER.public] * 17}, "'publicKeys' holds at most 16"),
        ],
    )
    async def test_what_is_no_session_or_key_is_refused(
        self, daemon: Daemon, params: Json, message: str
    ) -> None:
        async with http_of(daemon) as http:
            assert (await http.refused("bind_session", **params)).message == message

    async def test_new_keys_count_at_once_and_old_ones_no_more(self, tmp_path: Path) -> None:
        old, new = Signer(), Signer()
        with running(tmp_path, TOOL_SERVER_PUBLIC_KEY=old.public, SESSION_ID="s1") as daemon:
            async with http_of(daemon) as http:
                async with socket_of(daemon, **bearer(old.token("read"))) as socket:
                    await socket.ok("list")
                    await http.ok("bind_session", sessionId="s1", publicKeys=[new.public])
                    _, last = await socket.call("renew", token=old.token("read"))
                    assert last["error"]["code"] == "unauthorized"
                    await socket.ok("renew", token=new.token("read"))
            async with http_of(daemon, **bearer(old.token("read"))) as gone:
                assert (await gone.refused("list")).code == "unauthorized"


async def test_the_memory_of_tokens_is_the_daemons_own(daemon: Daemon) -> None:
    async with http_of(daemon) as http:
        await http.ok("revoke", tokenId="remembered")
    file = daemon.state / "tokens.json"
    await until(lambda: file.exists() and "remembered" in json.loads(file.read_text())["revoked"])
    assert file.stat().st_mode & 0o777 == 0o600
