"""terminal_open and its family: one program, many people, each of whom sees it as it is."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from protocol.limits import Limits
from protocol.messages.terminals import Resized, TerminalAttach, TerminalScreen
from tests.builder import PATIENCE_SECONDS, Daemon, Http, Json, Socket, http_of, running, socket_of, until
from toolserver.system.output import OutputLog
from toolserver.system.screen import Screen
from toolserver.system.viewing import Drawing, View
from toolserver.tools.call import Call
from toolserver.tools.terminals import SharedTerminals

NAMES = iter(range(10**9))


class Terminal:
    """One terminal of a daemon, and the socket it was opened on."""

    def __init__(self, socket: Socket, name: str, process_id: str) -> None:
        self.socket = socket
        self.name = name
        self.id = process_id

    async def types(self, text: str) -> None:
        await self.socket.ok("send_input", processId=self.id, data=text)

    async def resize(self, cols: int, rows: int) -> None:
        await self.socket.ok("resize", processId=self.id, cols=cols, rows=rows)


class Viewer:
    """A person: a terminal of his own that shows what he is sent."""

    def __init__(self, socket: Socket, id: str) -> None:
        self.socket = socket
        self.id = id
        self.screen: Screen
        self.events: list[Json] = []
        self.answer: Json | None = None

    async def take(self) -> bool:
        """One frame; False after the last."""
        frame = await self.socket.next_of(self.id)
        if "event" not in frame:
            self.answer = frame
            return False
        event = frame["event"]
        self.events.append(event)
        if event["type"] == "screen":
            self.screen = Screen(event["cols"], event["rows"])
        if event["type"] == "resized":
            self.screen.resize(event["cols"], event["rows"])
        else:
            self.screen.feed(event["data"].encode())
        return True

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen._screen.display]

    async def until(self, line: str) -> None:
        """Until one line of the screen is this."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not hasattr(self, "screen") or line not in self.lines:
                assert await self.take(), self.answer

    async def until_end(self) -> Json:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.take():
                pass
        assert self.answer is not None
        result: Json = self.answer["result"]
        return result


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def opened(socket: Socket, command: str | None = None, **params: Any) -> Terminal:
    name = f"terminal-{next(NAMES)}"
    asked = {"name": name, **({} if command is None else {"command": command}), **params}
    answer = await socket.ok("terminal_open", **asked)
    assert answer["created"]
    return Terminal(socket, name, answer["processId"])


async def viewer_of(daemon: Daemon, stack: AsyncExitStack, terminal: Terminal, **params: Any) -> Viewer:
    """A person with a socket of his own."""
    socket = await stack.enter_async_context(socket_of(daemon))
    await socket.send("view", "terminal_attach", {"terminal": terminal.name, **params})
    return Viewer(socket, "view")


ECHO = 'stty -echo; echo ready; while read line; do echo "<$line>"; done'
"""Says when it listens, then repeats each line."""


async def test_everybody_sees_the_same(
    daemon: Daemon, socket: Socket, root: Path, stack: AsyncExitStack
) -> None:
    terminal = await opened(socket, ECHO, cols=30, rows=6)
    early = await viewer_of(daemon, stack, terminal)
    await early.until("ready")
    await terminal.types("one\n")
    await early.until("<one>")
    late = await viewer_of(daemon, stack, terminal)
    await late.until("<one>")
    assert [each["type"] for each in late.events] == ["screen"]
    await terminal.types("two\n")
    for viewer in (early, late):
        await viewer.until("<two>")
    assert early.lines == late.lines == ["ready", "<one>", "<two>", "", "", ""]
    await terminal.types("\x04")
    for viewer in (early, late):
        answer = await viewer.until_end()
        assert (answer["running"], answer["exitCode"], answer["screen"]) == (False, 0, None)


async def test_without_a_command_it_is_a_shell_for_people(
    daemon: Daemon, socket: Socket, root: Path, stack: AsyncExitStack
) -> None:
    terminal = await opened(socket, env={"PS1": "$ "}, argv=["bash", "--norc"])
    viewer = await viewer_of(daemon, stack, terminal)
    await viewer.until("$")
    await terminal.types("echo $TERM; stty size\n")
    await viewer.until("xterm-256color")
    await viewer.until("24 80")
    await terminal.types("exit 3\n")
    assert (await viewer.until_end())["exitCode"] == 3
    shell = await opened(socket)
    listed = (await socket.ok("terminals"))["terminals"]
    assert [each["argv"][0].endswith("sh") for each in listed if each["processId"] == shell.id] == [True]
    await socket.ok("stop", processId=shell.id)


async def test_what_was_drawn_long_ago_is_still_to_be_seen(
    daemon: Daemon, socket: Socket, root: Path, stack: AsyncExitStack
) -> None:
    terminal = await opened(
        socket,
        r"printf '\033[?1049h\033[2J\033[Htitle\033[3;1H\033[31mred\033[0m'; sleep 1000",
        cols=20,
        rows=4,
    )
    watching = await viewer_of(daemon, stack, terminal)
    await watching.until("red")
    viewer = await viewer_of(daemon, stack, terminal)
    await viewer.until("red")
    assert viewer.lines == ["title", "", "red", ""]
    assert viewer.screen._screen.buffer[2][0].fg == "red"
    await socket.ok("stop", processId=terminal.id)
    for each in (watching, viewer):
        assert (await each.until_end())["signal"] in ("SIGTERM", None)


async def test_a_new_size_is_told_to_the_program_and_to_all_viewers(
    daemon: Daemon, socket: Socket, root: Path, stack: AsyncExitStack
) -> None:
    command = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done"
    terminal = await opened(socket, command, cols=30, rows=6)
    viewers = [await viewer_of(daemon, stack, terminal) for _ in range(2)]
    for viewer in viewers:
        await viewer.until("ready")
    await terminal.resize(50, 10)
    for viewer in viewers:
        await viewer.until("10 50")
        resized = [each for each in viewer.events if each["type"] == "resized"]
        assert [(each["cols"], each["rows"]) for each in resized] == [(50, 10)]
    late = await viewer_of(daemon, stack, terminal)
    await late.until("10 50")
    assert (late.events[0]["cols"], late.events[0]["rows"]) == (50, 10)
    await socket.ok("stop", processId=terminal.id)


class SlowlyDrawn(View):
    """A screen that is drawn, and then not told until it is let."""

    def __init__(self, log: OutputLog) -> None:
        super().__init__(log, (80, 24))
        self.drawn, self.let = asyncio.Event(), asyncio.Event()

    async def drawing(self) -> Drawing:
        drawing = await super().drawing()
        self.drawn.set()
        await self.let.wait()
        return drawing


async def test_a_size_that_comes_while_the_screen_is_drawn_is_told_after_it(tmp_path: Path) -> None:
    log, told = OutputLog(tmp_path, 1000), list[Any]()

    async def emit(event: Any) -> None:
        told.append(event)

    view = SlowlyDrawn(log)
    terminals = SharedTerminals(*cast(Any, (None, None, {}, Limits())))
    request, process = TerminalAttach(terminal="x"), cast(Any, SimpleNamespace(stdout=log))
    showing = asyncio.create_task(terminals._show(process, view, request, Call("1", emit)))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await view.drawn.wait()
        view.resize((100, 40))
        for _ in range(10):
            await asyncio.sleep(0)
        view.let.set()
    await until(lambda: len(told) == 2)
    assert [(type(each), each.cols, each.rows) for each in told] == [
        (TerminalScreen, 80, 24),
        (Resized, 100, 40),
    ]
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)
    log.release()


async def test_a_viewer_that_never_reads_delays_nobody_and_gets_the_screen_when_it_does(
    tmp_path: Path, stack: AsyncExitStack
) -> None:
    with running(tmp_path, TOOL_SERVER_MAX_QUEUED_FRAMES="2") as daemon:
        async with socket_of(daemon) as socket:
            terminal = await opened(socket, ECHO, cols=30, rows=6)
            slow = await viewer_of(daemon, stack, terminal)
            await slow.until("ready")
            fast = await viewer_of(daemon, stack, terminal)
            await fast.until("ready")
            line = "stty -onlcr; seq 1 3000000 | cat; echo; echo end; touch written; sleep 1000"
            many = await opened(socket, line, cols=30, rows=6)
            unread = await viewer_of(daemon, stack, many)
            unread.socket.hold_little()
            # Not by looking again and again: each look has the daemon emulate what came. And by way of `cat`,
            # for `seq` would write each line to a terminal by itself.
            await until((daemon.root / "written").exists)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not any(line.strip() == "end" for line in (await shown(socket, many))):
                    await asyncio.sleep(0.05)
            # The other terminal's viewers were never held up.
            await terminal.types("now\n")
            await fast.until("<now>")
            await unread_until(unread, "end")
            screens = [each for each in unread.events if each["type"] == "screen"]
            assert screens[-1]["skippedBytes"] > 0
            sent = sum(len(each["data"]) for each in unread.events if each["type"] == "output")
            assert sent < 22_000_000 // 2


async def unread_until(viewer: Viewer, text: str) -> None:
    """Until one line of the screen is this. What came before the last whole screen is read, and not shown:
    megabytes of it lie in the sockets, and to emulate them takes long."""
    tail = ""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while text not in tail:
            frame = await viewer.socket.next_of(viewer.id)
            assert "event" in frame, frame
            viewer.events.append(frame["event"])
            tail = tail[-len(text) :] + frame["event"]["data"]
    last = max(number for number, each in enumerate(viewer.events) if each["type"] == "screen")
    viewer.screen = Screen(viewer.events[last]["cols"], viewer.events[last]["rows"])
    for event in viewer.events[last:]:
        viewer.screen.feed(event["data"].encode())
    assert text in [line.strip() for line in viewer.lines]


async def shown(socket: Socket, terminal: Terminal) -> list[str]:
    """The screen, asked for once."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        id = f"look-{next(NAMES)}"
        await socket.send(id, "terminal_attach", {"terminal": terminal.name}, stream=False)
        _, last = await socket.end_of(id)
    answer = last["result"]
    screen = Screen(answer["cols"], answer["rows"])
    screen.feed(answer["screen"].encode())
    return [line.rstrip() for line in screen._screen.display]


async def test_where_no_events_are_wanted_the_answer_is_the_screen(
    http: Http, socket: Socket, daemon: Daemon, root: Path, stack: AsyncExitStack
) -> None:
    terminal = await opened(socket, "echo hello; sleep 1000", cols=20, rows=3)
    await (await viewer_of(daemon, stack, terminal)).until("hello")
    answer = await http.ok("terminal_attach", terminal=terminal.id, encoding="base64")
    screen = Screen(20, 3)
    screen.feed(base64.b64decode(answer["screen"]))
    assert screen._screen.display[0].rstrip() == "hello"
    assert (answer["running"], answer["exitCode"], answer["offset"]) == (True, None, 7)
    await socket.ok("stop", processId=terminal.id)


async def test_a_lost_viewer_goes_on_where_it_was(
    daemon: Daemon, socket: Socket, root: Path, stack: AsyncExitStack
) -> None:
    terminal = await opened(socket, ECHO, cols=30, rows=6)
    async with AsyncExitStack() as short:
        first = await viewer_of(daemon, short, terminal)
        await first.until("ready")
    offset = first.events[-1].get("nextOffset", first.events[-1]["offset"])
    await terminal.types("more\n")
    again = await stack.enter_async_context(socket_of(daemon))
    await again.send("view", "terminal_attach", {"terminal": terminal.name, "fromOffset": offset})
    event = (await again.next_of("view"))["event"]
    assert (event["type"], event["offset"]) == ("output", offset)
    assert event["data"].startswith("<more>"[: len(event["data"])])
    await socket.ok("stop", processId=terminal.id)


async def test_a_name_is_opened_once_until_its_program_ends(socket: Socket, root: Path) -> None:
    name = f"terminal-{next(NAMES)}"
    first = await socket.ok("terminal_open", name=name, argv=["cat"])
    again = await socket.ok("terminal_open", name=name, argv=["cat"])
    assert (again["processId"], again["created"]) == (first["processId"], False)
    await socket.ok("stop", processId=first["processId"])
    after = await socket.ok("terminal_open", name=name, argv=["true"])
    assert (after["created"], after["processId"] != first["processId"]) == (True, True)


async def test_a_command_with_a_terminal_can_be_viewed_too(socket: Socket, root: Path) -> None:
    answer = await socket.ok("command", command="echo hi", pty={"cols": 20, "rows": 3})
    _, last = await socket.call("terminal_attach", terminal=answer["processId"])
    assert last["result"]["exitCode"] == 0
    plain = await socket.ok("command", command="echo hi")
    _, last = await socket.call("terminal_attach", terminal=plain["processId"])
    assert last["error"]["code"] == "conflict"


async def test_what_is_wrong_is_said(http: Http, socket: Socket, root: Path) -> None:
    assert (
        await http.refused("terminal_open", cols=0)
    ).message == "a terminal has 1 to 1000 columns and rows"
    assert (await http.refused("terminal_open", command="a", argv=["a"])).code == "invalid_request"
    assert (await http.refused("terminal_open", argv=["no-such-program"])).code == "not_found"
    assert (await http.refused("terminal_attach", terminal="none")).code == "not_found"
    done = await socket.ok("command", command="true", pty={})
    refusal = await http.refused("resize", processId=done["processId"], cols=10, rows=10)
    assert refusal.code == "conflict"


async def test_viewers_are_bounded(tmp_path: Path) -> None:
    assert Limits().max_viewers > 2
    with running(tmp_path, TOOL_SERVER_MAX_VIEWERS="2") as daemon:
        async with socket_of(daemon) as socket, http_of(daemon):
            terminal = await opened(socket, "sleep 1000")
            for number in range(2):
                await socket.send(f"v{number}", "terminal_attach", {"terminal": terminal.name})
                assert (await socket.next_of(f"v{number}"))["event"]["type"] == "screen"
            _, last = await socket.call("terminal_attach", terminal=terminal.name)
            assert last["error"]["code"] == "busy"
            assert last["error"]["details"] == {"limit": "maxViewers", "value": 2}


async def test_a_slow_viewer_does_not_hold_up_the_program(daemon: Daemon, socket: Socket, root: Path) -> None:
    terminal = await opened(socket, "seq 1 1000000 | cat; exit 7")
    async with socket_of(daemon) as other:
        await other.send("view", "terminal_attach", {"terminal": terminal.name})
        # Nothing is received on that socket, and the program ends all the same.
        answer = await socket.ok("attach", processId=terminal.id)
        assert answer["exitCode"] == 7
