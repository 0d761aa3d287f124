"""``workspace token`` and ``link``, and a client that renews itself, on a tool server that runs."""

from __future__ import annotations

import asyncio
import importlib
import json
import urllib.error
import urllib.request
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.client import open_client, renewing
from orchestrator.keys import KeyRing
from orchestrator.paths import PathManager
from orchestrator.tokens import Grant, mint
from protocol.errors import Forbidden, Unauthorized, Unavailable
from protocol.tokens import Scope
from tests.orchestrator.live import WAIT_SECONDS, Host


@pytest.fixture(scope="module")
def url(host: Host) -> str:
    return str(host.json("ls")[0]["toolServerUrl"])


def fetched(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    """By whom has nothing but the address."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    asked = urllib.request.Request(url, data, method="GET" if data is None else "PUT")
    try:
        with opener.open(asked, timeout=WAIT_SECONDS) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


async def told(host: Host, *words: str) -> Any:
    """A command's answer, by a process of its own: this one's loop runs."""
    done = await asyncio.to_thread(host.run, *words, "--json")
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


async def test_a_token_reads_and_no_more_unless_it_is_said(host: Host, url: str) -> None:
    token = (await asyncio.to_thread(host.run, "token")).stdout.decode().strip()
    async with open_client(url, token) as client:
        assert (await client.list()).entries
        with pytest.raises(Forbidden, match="write needs the scope 'write'; this token has 'read'"):
            await client.write(path="x", content="")


def test_what_it_is_good_for_is_told_beside_it(host: Host) -> None:
    done = host.inside("token", "--scope", "read", "--scope", "write", "--path", "src", "--expires", "5m")
    said = done.stderr.decode()
    assert "read, write; below 'src' only; until 20" in said
    token = done.stdout.decode().strip()
    assert token not in said
    page = host.json("token", "--dev-port", "4321")
    assert (page["scopes"], page["path"], page["devPort"]) == ([], ".", 4321)


def test_a_token_for_too_long_is_refused(host: Host) -> None:
    done = host.inside("token", "--expires", "25h")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"it is good for 1 to 86400 seconds, not for 90000" in done.stderr


async def test_it_is_taken_back_by_its_id(host: Host, url: str) -> None:
    granted = await told(host, "token")
    await told(host, "call", "revoke", f'{{"tokenId": "{granted["tokenId"]}"}}')
    with pytest.raises(Unauthorized, match="was revoked"):
        async with open_client(url, granted["token"]):
            pass


async def test_new_keys_reach_a_tool_server_that_runs(host: Host, url: str) -> None:
    old = (await told(host, "token"))["token"]
    KeyRing.open(PathManager(host.data)).rotate()
    for token in ((await told(host, "token"))["token"], old):
        async with open_client(url, token) as client:
            await client.list()


def test_a_link_is_a_download_or_an_upload_once(host: Host) -> None:
    up = host.inside("link", "new file.txt", "--upload").stdout.decode().strip()
    assert fetched(up, b"sent")[0] == 201
    assert fetched(up, b"again")[0] == 401
    down = host.json("link", "new file.txt")["url"]
    assert fetched(down) == (200, b"sent")
    assert fetched(down)[0] == 401
    status, archive = fetched(host.json("link", ".")["url"])
    assert (status, archive[:2]) == (200, b"\x1f\x8b")


async def test_a_client_renews_itself_by_what_is_fetched_until_it_is_left(
    host: Host, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next one is wanted soon, and none is over before it is taken back.
    monkeypatch.setattr(importlib.import_module("orchestrator.client.renewing"), "_SHARE", 0.0)
    granted = await told(host, "token")
    session, ring = granted["session"], KeyRing.open(PathManager(host.data))
    fetched, often = list[str](), asyncio.Event()

    async def fetch() -> str:
        """As whoever hands them out makes them."""
        made = mint(ring, Grant(session, "default", [Scope.READ]), timedelta(minutes=10))
        fetched.append(made.claims.jti)
        if len(fetched) == 3:
            often.set()
        return made.token

    owner = mint(ring, Grant(session, "default", list(Scope)), timedelta(minutes=10))
    async with (
        asyncio.timeout(WAIT_SECONDS),
        open_client(url, owner.token) as admin,
        open_client(url, granted["token"]) as client,
    ):
        async with renewing(client, fetch):
            await often.wait()
        await admin.revoke(token_id=granted["tokenId"])
        assert (await client.list()).entries
        for each in fetched:
            await admin.revoke(token_id=each)
        await client.wait_closed()
        with pytest.raises(Unavailable, match="closed the connection: the token was revoked"):
            await client.list()
