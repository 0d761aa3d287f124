"""``workspace template dev``: what an author saves is in the workspace, and on its page."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.cli.pushing import Pushed, Pusher, difference, look
from orchestrator.client import Client
from orchestrator.templates import SourceKind, find_source
from protocol.errors import Unavailable
from protocol.exclusions import Exclusions
from protocol.messages.archives import InjectMode
from tests.orchestrator.live import WAIT_SECONDS, WORKSPACE, Host, get, until
from tests.ports import free_port

PAGE = "<h1>first</h1>\n"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.end_everything()


class Dev:
    """A ``template dev`` that runs."""

    def __init__(self, process: subprocess.Popen[str], root: Path) -> None:
        self.process = process
        self.root = root
        self.said: dict[str, Any] = {}
        self._lines: queue.Queue[str] = queue.Queue()
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read),
            threading.Thread(target=lambda: self._errors.extend(process.stderr or ())),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line)

    def ready(self) -> Dev:
        self.said = self.line()
        self.until_told("following")
        return self

    def line(self) -> dict[str, Any]:
        """The next line of its standard output."""
        try:
            found: dict[str, Any] = json.loads(self._lines.get(timeout=WAIT_SECONDS))
        except queue.Empty:
            raise AssertionError("".join(self._errors)) from None
        return found

    def until_told(self, text: str, times: int = 1) -> None:
        try:
            until(lambda: "".join(self._errors).count(text) >= times)
        except AssertionError:
            raise AssertionError("".join(self._errors)) from None

    def told(self, text: str) -> int:
        """How often it said so."""
        return "".join(self._errors).count(text)

    def page(self, path: str = "") -> str:
        try:
            return get(self.said["previewUrl"] + path)[1].decode()
        except (OSError, http.client.HTTPException) as error:  # it starts anew, or the file changes
            return str(error)

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(WAIT_SECONDS)
        for thread in self._threads:
            thread.join()
        return code


@contextmanager
def dev(host: Host, root: Path) -> Iterator[Dev]:
    ports = ("--port", "0", "--dev-port", str(free_port()))
    command = [*WORKSPACE, "template", "dev", str(root), *ports, "--json"]
    process = subprocess.Popen(
        command,
        cwd=host.directory,
        env=host.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        running = Dev(process, root)
        try:
            yield running.ready()
            assert running.end() == 0
        finally:
            process.kill()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "authored"
    directory.mkdir()
    (directory / "index.html").write_text(PAGE)
    return directory


def test_what_an_author_saves_is_on_the_page(host: Host, root: Path) -> None:
    with dev(host, root) as running:
        assert "first" in running.page()
        (root / "index.html").write_text("<h1>second</h1>\n")
        until(lambda: "second" in running.page())
        pushed = running.line()
        assert (pushed["pushed"], pushed["removed"]) == (["index.html"], [])


def test_new_renamed_and_deleted_files_follow(host: Host, root: Path) -> None:
    (root / "old dir").mkdir()
    (root / "old dir" / "a.txt").write_text("a")
    with dev(host, root) as running:
        (root / "new.txt").write_text("new")
        until(lambda: running.page("new.txt") == "new")
        (root / "old dir").rename(root / "ümläut")
        until(lambda: running.page("%C3%BCml%C3%A4ut/a.txt") == "a")
        until(lambda: "404" in running.page("old%20dir/a.txt"))
        (root / "new.txt").unlink()
        until(lambda: "404" in running.page("new.txt"))
        listed = host.json("call", "list", '{"depth": 3}')["entries"]
        assert [entry["path"] for entry in listed] == ["index.html", "ümläut", "ümläut/a.txt"]


def test_a_file_that_becomes_a_directory_follows(host: Host, root: Path) -> None:
    (root / "thing").write_text("file")
    with dev(host, root) as running:
        (root / "thing").unlink()
        (root / "thing").mkdir()
        (root / "thing" / "inside.txt").write_text("inside")
        until(lambda: running.page("thing/inside.txt") == "inside")


def test_what_the_template_leaves_out_is_not_pushed(host: Host, root: Path) -> None:
    (root / "template.json").write_text('{"files": {"exclude": ["notes"]}}')
    with dev(host, root) as running:
        (root / "notes").mkdir()
        (root / "notes" / "private.txt").write_text("x")
        (root / "debug.log").write_text("x")
        (root / "shown.txt").write_text("x")
        assert running.line()["pushed"] == ["shown.txt"]
        assert "404" in running.page("notes/private.txt")


def test_what_the_workspace_made_itself_stays(host: Host, root: Path) -> None:
    (root / "dir").mkdir()
    (root / "dir" / "authored.txt").write_text("x")
    with dev(host, root) as running:
        host.json("call", "write", '{"path": "dir/built.txt", "content": "built"}')
        (root / "dir").rename(root.parent / "gone")  # in one step: a look may fall between two
        assert running.line()["removed"] == ["dir", "dir/authored.txt"]
        assert running.page("dir/built.txt") == "built"


def test_a_link_that_leads_out_is_told_once_and_keeps_nothing_else_back(host: Host, root: Path) -> None:
    (root / "old.txt").write_text("moved")
    with dev(host, root) as running:
        (root / "out").symlink_to("/etc/passwd")
        running.until_told("not pushed: symlink 'out'")
        (root / "old.txt").rename(root / "new.txt")
        until(lambda: running.page("new.txt") == "moved")
        until(lambda: "404" in running.page("old.txt"))
        (root / "index.html").write_text("<h1>still</h1>")
        until(lambda: "still" in running.page())
        assert running.told("not pushed") == 1
        (root / "out").unlink()
        (root / "out").symlink_to("new.txt")
        until(lambda: running.page("out") == "moved")


def test_a_broken_template_file_is_told_once_and_work_goes_on(host: Host, root: Path) -> None:
    (root / "template.json").write_text('{"name": "before"}')
    with dev(host, root) as running:
        (root / "template.json").write_text('{"devComand": "x"}')
        running.until_told("did you mean 'devCommand'?")
        (root / "index.html").write_text("<h1>still</h1>")
        until(lambda: "still" in running.page())
        assert '"before"' in host.json("call", "read", '{"path": "template.json"}')["content"]
        (root / "template.json").write_text('{"name": "mended"}')
        until(lambda: "mended" in host.json("call", "read", '{"path": "template.json"}')["content"])


def test_another_way_to_start_starts_the_dev_server_anew(host: Host, root: Path) -> None:
    with dev(host, root) as running:
        server = "python3 -m http.server --bind {host} {port}"
        (root / "template.json").write_text(json.dumps({"devCommand": server}))
        running.until_told("template.json changed")
        running.until_told("ready again")
        assert "http.server" in host.json("call", "dev_status")["command"]
        assert "first" in running.page()


def test_nothing_of_it_is_left(host: Host, root: Path) -> None:
    before = sorted(os.walk(root))
    with dev(host, root):
        assert host.processes()
    assert host.sessions() == []
    assert sorted(os.walk(root)) == before


def test_a_second_look_finds_what_changed_in_between(tmp_path: Path) -> None:
    (tmp_path / "same").write_text("same")
    (tmp_path / "gone").write_text("gone")
    (tmp_path / "to").symlink_to("same")
    before = look(tmp_path, Exclusions.default())
    assert difference(before, look(tmp_path, Exclusions.default())) == Pushed()
    (tmp_path / "gone").rename(tmp_path / "there")
    (tmp_path / "to").unlink()
    (tmp_path / "to").symlink_to("there")
    (tmp_path / "same").chmod(0o755)
    now = look(tmp_path, Exclusions.default())
    assert difference(before, now) == Pushed(("same", "there", "to"), ("gone",))


class Refusing:
    """A client whose first archive does not arrive."""

    def __init__(self) -> None:
        self.failures = 1

    async def put_archive(self, chunks: bytes, mode: InjectMode) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("the tool server closed the connection")


async def test_another_way_to_start_that_did_not_arrive_at_once_starts_the_dev_server_anew(
    root: Path,
) -> None:
    source = replace(find_source(str(root), [], root), kind=SourceKind.TEMPLATE)
    pusher, client = await asyncio.to_thread(Pusher, source), cast(Client, Refusing())
    (root / "template.json").write_text('{"devCommand": "serve"}')
    with pytest.raises(Unavailable):
        await pusher.push(client)
    assert pusher.restarts(await pusher.push(client)) == "template.json"
    assert pusher.restarting().dev_command == "serve"
    (root / "index.html").write_text("<h1>second</h1>")
    assert not pusher.restarts(await pusher.push(client))
