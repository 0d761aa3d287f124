"""The client, against a tool server that says what the test wants."""

from __future__ import annotations

import asyncio
import functools
import importlib
import socket
from typing import Any, assert_type, get_args

import msgspec
import pytest
from websockets.asyncio.client import connect

from orchestrator.client import Client, open_client, request_of
from orchestrator.client.mailbox import MAX_EVENTS
from orchestrator.client.socket import BUFFER_BYTES
from orchestrator.client.verbs import StreamingVerb, Verb
from protocol import __version__
from protocol.codec import ReplyFrame, decode, encode
from protocol.errors import Cancelled, Internal, InvalidRequest, NotFound, TooLarge, Unauthorized, Unavailable
from protocol.limits import MIB, Limits
from protocol.messages.base import Request
from protocol.messages.commands import Command, CommandAnswer, Stdout
from protocol.messages.files import List, ListAnswer, Read, ReadAnswer, Stat
from protocol.messages.processes import Killed, Stop, StopAnswer
from protocol.operations import OPERATIONS
from tests.builder import PATIENCE_SECONDS, exactly
from tests.orchestrator.fake_tool_server import Emit, FakeToolServer

ANSWER = CommandAnswer(
    process_id="p1",
    running=False,
    exit_code=0,
    signal=None,
    stdout="",
    stderr="",
    stdout_bytes=0,
    stderr_bytes=0,
    omitted_bytes=0,
    truncated=False,
    timed_out=False,
    timeout_ms=None,
    duration_ms=1.0,
)


async def listed(request: List, emit: Emit) -> ListAnswer:
    return ListAnswer(path=request.path, entries=[], truncated=False)


async def missing(request: Read, emit: Emit) -> ReadAnswer:
    raise NotFound(f"no file {request.path}", path=request.path)


def writing(count: int, size: int = 10) -> Any:
    async def handler(request: Command, emit: Emit) -> CommandAnswer:
        for number in range(count):
            await emit(Stdout(offset=number * size, next_offset=(number + 1) * size, data="x" * size))
        return ANSWER

    return handler


async def for_ever(request: Any, emit: Emit) -> CommandAnswer:
    await emit(Stdout(offset=0, next_offset=5, data="first"))
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_the_table_is_a_method_with_its_own_types(name: str) -> None:
    operation, verb = OPERATIONS[name], vars(Client)[name]
    assert isinstance(verb, Verb | StreamingVerb)
    assert (verb.request, verb.answer) == (operation.request, operation.answer)
    events = get_args(verb.events)[0] if isinstance(verb, StreamingVerb) else None
    assert events == operation.events


def test_no_method_is_left_over_from_an_operation_that_is_gone() -> None:
    verbs = {name for name, value in vars(Client).items() if isinstance(value, Verb | StreamingVerb)}
    assert verbs == set(OPERATIONS)


async def test_an_answer_has_its_own_type() -> None:
    async with FakeToolServer({"list": listed}).listening() as server, open_client(server.url) as client:
        answer = await client.list(path="src")
    assert_type(answer, ListAnswer)
    assert answer == ListAnswer(path="src", entries=[], truncated=False)


async def test_a_plain_call_asks_for_no_events() -> None:
    async with (
        FakeToolServer({"command": writing(3)}).listening() as server,
        open_client(server.url) as client,
    ):
        assert await client.command(command="ls") == ANSWER
    assert [frame.stream for frame in server.frames] == [False]


async def test_the_token_goes_in_a_header_beside_those_of_the_endpoint() -> None:
    server = FakeToolServer({"list": listed}, token="s3cret")
    async with server.listening(), open_client(server.url, "s3cret", {"X-Route": "a"}) as client:
        await client.list()
    assert server.headers[0]["X-Route"] == "a"


async def test_a_refused_token_raises_what_the_tool_server_said() -> None:
    async with FakeToolServer({}, token="s3cret").listening() as server:
        with pytest.raises(Unauthorized, match="not the one of this tool server") as caught:
            async with open_client(server.url, "wrong"):
                pass
    assert (caught.value.details, caught.value.request_id) == ({"hint": 1}, "r7")


async def test_a_refusal_is_the_same_class_with_details_and_request_id() -> None:
    async with FakeToolServer({"read": missing}).listening() as server, open_client(server.url) as client:
        with pytest.raises(NotFound, match=r"no file a\.txt") as caught:
            await client.read(path="a.txt")
    assert (caught.value.details, caught.value.request_id) == ({"path": "a.txt"}, "r1")


async def test_events_come_in_order_and_the_answer_last() -> None:
    async with (
        FakeToolServer({"command": writing(500)}).listening() as server,
        open_client(server.url) as client,
    ):
        async with client.command.stream(command="x") as stream:
            offsets = [event.offset async for event in stream if isinstance(event, Stdout)]
            answer = await stream.result()
    assert_type(answer, CommandAnswer)
    assert (offsets, answer) == ([n * 10 for n in range(500)], ANSWER)


async def test_a_stream_that_fails_ends_and_result_raises() -> None:
    async def failing(request: Command, emit: Emit) -> CommandAnswer:
        await emit(Stdout(offset=0, next_offset=1, data="a"))
        raise NotFound("no program x")

    async with FakeToolServer({"command": failing}).listening() as server, open_client(server.url) as client:
        async with client.command.stream(command="x") as stream:
            assert len([event async for event in stream]) == 1
            with pytest.raises(NotFound, match="no program x"):
                await stream.result()


async def test_the_answer_can_be_had_without_taking_the_events() -> None:
    async with (
        FakeToolServer({"command": writing(5000)}).listening() as server,
        open_client(server.url) as client,
    ):
        async with client.command.stream(command="x") as stream:
            assert await stream.result() == ANSWER


async def test_leaving_a_stream_early_cancels_it_on_the_tool_server() -> None:
    async with FakeToolServer({"command": for_ever}).listening() as server, open_client(server.url) as client:
        async with client.command.stream(command="x") as stream:
            async for _ in stream:
                break
        assert server.cancelled == ["1"]


async def test_a_finished_stream_is_not_cancelled() -> None:
    async with (
        FakeToolServer({"command": writing(1)}).listening() as server,
        open_client(server.url) as client,
    ):
        async with client.command.stream(command="x") as stream:
            await stream.result()
    assert [frame.op for frame in server.frames] == ["command"]


async def test_a_cancelled_caller_cancels_its_request() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def waiting(request: Stat, emit: Emit) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with FakeToolServer({"stat": waiting}).listening() as server, open_client(server.url) as client:
        call = asyncio.create_task(client.stat(path="a"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await ended.wait()


async def test_many_requests_on_one_socket_each_get_their_own_answer() -> None:
    async def late(request: List, emit: Emit) -> ListAnswer:
        await asyncio.sleep(0.02 if int(request.path) % 2 else 0)  # answers overtake each other
        return await listed(request, emit)

    async with FakeToolServer({"list": late}).listening() as server, open_client(server.url) as client:
        answers = await asyncio.gather(*(client.list(path=str(n)) for n in range(200)))
    assert [answer.path for answer in answers] == [str(n) for n in range(200)]


async def test_a_stream_nobody_reads_holds_up_others_only_for_its_patience() -> None:
    server = FakeToolServer({"command": writing(2000), "list": listed})
    async with server.listening(), open_client(server.url, patience_seconds=0.2) as client:
        async with client.command.stream(command="x") as stream:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await client.list()
            assert [event async for event in stream]  # what it had is still handed out
            with pytest.raises(Cancelled, match=r"no event of this request was taken for 0\.2 s"):
                await stream.result()


async def test_a_slow_reader_that_reads_on_loses_nothing() -> None:
    server = FakeToolServer({"command": writing(600)})
    async with server.listening(), open_client(server.url, patience_seconds=2) as client:
        async with client.command.stream(command="x") as stream:
            offsets = []
            async for event in stream:
                assert isinstance(event, Stdout)
                offsets.append(event.offset)
                if len(offsets) < 50:  # in all longer than the patience for one, each time much shorter
                    await asyncio.sleep(0.05)
    assert offsets == [n * 10 for n in range(600)]


async def test_what_comes_in_pieces_and_behind_a_full_mailbox_keeps_its_order() -> None:
    server = FakeToolServer({"command": for_ever})
    count = 2 * MAX_EVENTS

    async with (
        server.listening(),
        open_client(server.url) as client,
        client.command.stream(command="many") as events,
    ):
        first = await anext(events)
        for number in range(count):
            event = Stdout(offset=number, next_offset=number + 1, data=str(number))
            frame = encode(ReplyFrame(id="1", event=event), "msgpack")
            # Every third one is a message of several frames, as a proxy may make of it.
            await server.connections[0].send([frame] if number % 3 else [frame[:5], frame[5:9], frame[9:]])
        await server.connections[0].send(encode(ReplyFrame(id="1", result=ANSWER), "msgpack"))
        told = [event.data async for event in events if isinstance(event, Stdout)]

    assert isinstance(first, Stdout)
    assert told == [str(number) for number in range(count)]


@pytest.mark.parametrize("more", [-100, -1, 0, 1, 500_000])
async def test_an_answer_as_large_as_what_is_read_at_once_comes_exactly(more: int) -> None:
    text = "".join(f"{number:7d}\n" for number in range((BUFFER_BYTES + more) // 8))

    async def told(request: Command, emit: Emit) -> CommandAnswer:
        return msgspec.structs.replace(ANSWER, stdout=text)

    async with FakeToolServer({"command": told}).listening() as server, open_client(server.url) as client:
        answers = await asyncio.gather(*(client.command(command="x") for _ in range(3)))
    assert [answer.stdout for answer in answers] == [text] * 3


async def test_a_closed_connection_fails_everything_under_way() -> None:
    async with FakeToolServer({"command": for_ever}).listening() as server, open_client(server.url) as client:
        calls = [asyncio.create_task(client.command(command="x")) for _ in range(3)]
        while len(server.frames) < 3:
            await asyncio.sleep(0.01)
        await server.connections[0].close(1001, "the tool server stops")
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 3
        assert "the tool server stops" in str(results[0])
        with pytest.raises(Unavailable):
            await client.list()


async def test_closing_the_client_fails_what_is_under_way() -> None:
    async with FakeToolServer({"command": for_ever}).listening() as server:
        async with open_client(server.url) as client:
            call = asyncio.create_task(client.command(command="x"))
            while not server.frames:
                await asyncio.sleep(0.01)
        with pytest.raises(Unavailable, match="was closed"):
            await call


async def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="could not be reached"):
        async with open_client("http://127.0.0.1:1"):
            pass


async def test_a_peer_that_never_answers_the_handshake_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(Unavailable, match="could not be reached"):
            async with open_client(
                f"http://127.0.0.1:{silent.getsockname()[1]}", connect_timeout_seconds=0.1
            ):
                pass


async def test_a_peer_that_speaks_no_protocol_of_ours_is_refused() -> None:
    server = FakeToolServer({})
    server.subprotocols = []
    async with server.listening():
        with pytest.raises(Unavailable, match="is it a tool server"):
            async with open_client(server.url):
                pass


async def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="give http://HOST:PORT"):
        async with open_client("127.0.0.1:3001"):
            pass


async def test_an_answer_of_another_shape_is_our_fault_not_the_callers() -> None:
    async def odd(request: List, emit: Emit) -> dict[str, int]:
        return {"path": 7}

    async with FakeToolServer({"list": odd}).listening() as server, open_client(server.url) as client:
        with pytest.raises(Internal, match="of one version"):
            await client.list()


class _EarlierList(Request, frozen=True, kw_only=True):
    """What a tool server of another build has for ``list``."""

    path: str = "."


async def of_before(request: List, emit: Emit) -> ListAnswer:
    decode(encode({"path": request.path, "depth": request.depth}), _EarlierList)
    raise AssertionError


@pytest.mark.parametrize("version", ["0.0.9", None])
async def test_a_field_that_the_tool_server_does_not_know_is_told_as_another_build(
    version: str | None,
) -> None:
    server = FakeToolServer({"list": of_before})
    server.version = version
    async with server.listening(), open_client(server.url) as client:
        sentence = (
            f"the tool server at {server.url} knows no field 'depth' of 'list', which this program does "
            f"(version {version or 'unknown'} there, {__version__} here); rebuild its image by `make image` "
            "where it runs in one, then start the session anew by `workspace down` and `workspace up`"
        )
        with pytest.raises(Internal, match=exactly(sentence)):
            await client.list(depth=2)


async def test_an_operation_that_the_tool_server_does_not_have_is_told_as_another_build() -> None:
    async def unknown(request: Any, emit: Emit) -> CommandAnswer:
        raise NotFound("there is no operation 'search'; did you mean 'read'?", operation="search")

    async with FakeToolServer({"search": unknown}).listening() as server, open_client(server.url) as client:
        async with client.search.stream(pattern="x") as events:
            with pytest.raises(Internal, match="knows no operation 'search', which this program does"):
                await events.result()


async def test_a_reply_that_is_no_frame_ends_the_connection() -> None:
    async with FakeToolServer({"command": for_ever}).listening() as server, open_client(server.url) as client:
        call = asyncio.create_task(client.command(command="x"))
        while not server.connections:
            await asyncio.sleep(0.01)
        await server.connections[0].send(b"\xff\xff")
        with pytest.raises(Internal, match="not understood"):
            await call


async def test_a_request_above_the_frame_limit_is_refused_here_and_the_socket_lives() -> None:
    async with FakeToolServer({"list": listed}).listening() as server, open_client(server.url) as client:
        with pytest.raises(TooLarge, match="put_archive"):
            await client.inject(archive=bytes(Limits().max_frame_bytes))
        assert (await client.list()).path == "."


KILLED = [Killed(pid=1, name="sh", signal="SIGTERM")]


async def test_a_request_made_from_json_is_asked_by_its_type() -> None:
    async def stopped(request: Stop, emit: Emit) -> StopAnswer:
        return StopAnswer(process_id=request.process_id, killed=KILLED, survivors=[])

    async with FakeToolServer({"stop": stopped}).listening() as server, open_client(server.url) as client:
        answer = await client.call(request_of("stop", b'{"processId": "p"}'))
    assert answer == StopAnswer(process_id="p", killed=KILLED, survivors=[])


@pytest.mark.parametrize(
    ("operation", "params", "message"),
    [
        ("serch", b"{}", "no operation 'serch'"),
        ("read", b'{"pth": "a"}', "did you mean 'path'"),
        ("read", b"{", "not valid JSON"),
    ],
)
def test_a_wrong_request_is_refused_before_it_is_sent(operation: str, params: bytes, message: str) -> None:
    with pytest.raises((NotFound, InvalidRequest), match=message):
        request_of(operation, params)


async def test_wait_closed_returns_when_the_tool_server_goes() -> None:
    async with FakeToolServer({}).listening() as server, open_client(server.url) as client:
        waiting = asyncio.create_task(client.wait_closed())
        while not server.connections:
            await asyncio.sleep(0.01)
        await server.connections[0].close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await waiting


async def test_a_tool_server_that_stays_silent_after_cancel_is_left_behind() -> None:
    async def stubborn(request: Command, emit: Emit) -> CommandAnswer:
        await emit(Stdout(offset=0, next_offset=1, data="a"))
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if len(server.frames) > 2:
                    raise

    server = FakeToolServer({"command": stubborn, "list": listed})
    async with server.listening(), open_client(server.url, close_timeout_seconds=0.2) as client:
        async with client.command.stream(command="x") as stream:
            async for _ in stream:
                break
        assert (await client.list()).path == "."


async def test_closing_leaves_a_tool_server_that_takes_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Else its pings find out, within forty seconds.
    unasked = functools.partial(connect, ping_interval=None)
    monkeypatch.setattr(importlib.import_module("orchestrator.client"), "connect", unasked)

    async def deaf(request: List, emit: Emit) -> ListAnswer:
        server.connections[0].transport.pause_reading()
        return await listed(request, emit)

    server = FakeToolServer({"list": deaf})
    async with server.listening():
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            open_client(server.url, close_timeout_seconds=0.2) as client,
        ):
            await client.list()
            # More than the sockets between us hold.
            sending = [asyncio.create_task(client.write(path="a", content="x" * 12 * MIB)) for _ in range(4)]
            await asyncio.sleep(0)
        told = await asyncio.gather(*sending, return_exceptions=True)
    assert [type(each) for each in told] == [Unavailable] * 4
