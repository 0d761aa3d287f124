"""The doors that need more of the image than curl: session tokens by a public key, agents, figures."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from typing import Any

import pytest

from tests.image.support import HARDENED, IMAGE, PORTS, Guest, Refused, created, workspace
from tests.signing import Signer

WAYS = pytest.mark.parametrize("options", [(), HARDENED], ids=["plain", "hardened"])


@WAYS
def test_by_a_public_key_alone_session_tokens_are_good_for_what_they_say(options: tuple[str, ...]) -> None:
    signer = Signer("s1")
    key = ("--env", f"TOOL_SERVER_PUBLIC_KEY={signer.public}", "--env=SESSION_ID=s1")
    with created(*PORTS, *key, *options, IMAGE) as guest:
        guest.wait_healthy()
        assert guest.first_line() == "listening on http://0.0.0.0:3001", "no token of its own is made"
        assert replace(guest, token=signer.token("command")).output("id -un") == "node"
        with pytest.raises(Refused, match="command needs the scope 'command'; this token has 'read'"):
            replace(guest, token=signer.token("read")).run("true")
        with pytest.raises(Refused, match="401: the token is for another session"):
            replace(guest, token=signer.token("command", sid="s2")).run("true")
        with pytest.raises(Refused, match=r"401: .* by none of the keys"):
            replace(guest, token=Signer("s1").token("command")).run("true")


@WAYS
def test_one_that_waits_for_somebody_is_bound_to_a_session_once(options: tuple[str, ...]) -> None:
    signer = Signer("s1")
    with created(*PORTS, "--env", f"TOOL_SERVER_PUBLIC_KEY={signer.public}", *options, IMAGE) as waiting:
        waiting.wait_healthy()
        guest = replace(waiting, token=signer.token("command", "admin"))
        with pytest.raises(Refused, match="belongs to no session yet"):
            guest.run("true")
        guest.call("bind_session", {"sessionId": "s1"})
        assert guest.output("echo bound") == "bound"
        with pytest.raises(Refused, match="401: the token is for another session"):
            replace(guest, token=signer.token("admin", sid="s2")).call("bind_session", {"sessionId": "s2"})


@WAYS
def test_agents_call_tools_and_figures_count_them(options: tuple[str, ...]) -> None:
    with workspace(*options) as guest:
        tools = {each["name"] for each in mcp(guest, "tools/list")["tools"]}
        assert {"search", "read", "edit", "command"} <= tools
        called = mcp(guest, "tools/call", name="write", arguments={"path": "a.txt", "content": "by an agent"})
        assert not called.get("isError")
        assert guest.output("cat a.txt") == "by an agent"
        status, figures = guest.get("/metrics")
        assert status == 200
        assert 'toolserver_requests_total{operation="write",outcome="ok"} 1.0' in figures.decode().split("\n")
        assert guest.get("/metrics", token=False)[0] == 401


def mcp(guest: Guest, method: str, **params: Any) -> dict[str, Any]:
    """The result of one call at the agents' door, whether it comes as JSON or as a stream of one event."""
    headers = {
        "Authorization": f"Bearer {guest.token}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(f"{guest.url()}/mcp", body, headers)
    with urllib.request.urlopen(request, timeout=100) as response:
        text = response.read().decode()
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    result: dict[str, Any] = json.loads(data[-1] if data else text)["result"]
    return result
