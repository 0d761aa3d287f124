from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.memory import resident_mib
from benchmarks.peers import all as every
from benchmarks.peers.all import Field, Peer, gather
from benchmarks.peers.environments import Unobtainable
from benchmarks.peers.piped import piped
from benchmarks.peers.servers import server
from benchmarks.peers.tools import Tools, Wrong
from tests.ports import free_port

ECHO = """
import json, sys
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps({"id": 0, "noise": True}), flush=True)
    told = {"error": "no"} if asked.get("word") == "bad" else {"said": asked.get("word")}
    print(json.dumps({"id": asked["id"], **told}), flush=True)
"""
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *words): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


async def test_an_answer_is_told_from_noise_by_its_number_and_a_refusal_is_raised(tmp_path: Path) -> None:
    async with piped((sys.executable, "-c", ECHO), tmp_path) as pipe:
        await pipe.ready()
        assert (await pipe.ask({"word": "x"}))["said"] == "x"
        with pytest.raises(Wrong, match="no"):
            await pipe.ask({"word": "bad"})


async def test_a_server_is_waited_for_and_ended_with_its_group(tmp_path: Path) -> None:
    port = free_port()
    argv = (sys.executable, "-c", SERVER, str(port))
    async with server(argv, f"http://127.0.0.1:{port}/", tmp_path) as pid:
        assert resident_mib(pid) > 1
    assert not Path(f"/proc/{pid}").exists()


async def test_a_server_that_ends_at_its_start_says_with_what_status(tmp_path: Path) -> None:
    with pytest.raises(Wrong, match="it ended with status 3 at its start"):
        async with server((sys.executable, "-c", "exit(3)"), "http://127.0.0.1:1/", tmp_path):
            pass


async def test_who_cannot_be_had_or_does_not_start_is_absent_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unobtainable() -> Path:
        raise Unobtainable("it needs another Python")

    async def obtained() -> Path:
        return tmp_path

    @asynccontextmanager
    async def good(place: Path, root: Path) -> AsyncIterator[Tools]:
        yield Tools("good", root)

    @asynccontextmanager
    async def broken(place: Path, root: Path) -> AsyncIterator[Tools]:
        if root.exists():
            raise OSError("no port")
        yield Tools("broken", root)

    peers = (
        Peer("gone", "gone==1", unobtainable, good),
        Peer("broken", "broken==1", obtained, broken),
        Peer("good", "good==1", obtained, good),
    )
    monkeypatch.setattr(every, "PEERS", peers)
    field: Field = await gather(True)
    async with field.running(tmp_path) as tools:
        assert [each.name for each in tools] == ["good"]
    assert field.absent == {"gone": "it needs another Python", "broken": "it does not start: no port"}
