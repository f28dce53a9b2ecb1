"""Calls from grpcio's own client on each transport: every type of call, cancellation, deadlines and many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.ext_proc.clients import PROCESS, USER, ask, connected, opened
from tests.ext_proc.conformance.answers import EOF, LARGEST, MESSAGES, UNTOUCHED_BODY, body_message, expected, method
from tests.ext_proc.conformance.frames import REQUEST, Headers, message
from tests.ext_proc.conformance.peer import peer
from tests.ext_proc.conformance.served import Served
from tests.ext_proc.samples import request_headers

pytestmark = pytest.mark.process


@pytest.mark.parametrize("name", MESSAGES)
async def test_every_message_gets_the_bytes_that_the_service_gives(served: Served, name: str) -> None:
    for address in served.addresses:
        async with connected(address) as channel:
            assert await ask(channel, MESSAGES[name]) == expected(MESSAGES[name])


@pytest.mark.parametrize("streaming_request", [False, True])
@pytest.mark.parametrize("streaming_answer", [False, True])
def test_the_synchronous_client_may_use_any_type_of_call(
    served: Served, streaming_request: bool, streaming_answer: bool
) -> None:
    """They are equal on the wire; a client that expects one answer fails unless it gets exactly one."""
    with grpc.insecure_channel(served.tcp) as channel:
        call = {
            (False, False): "unary_unary",
            (False, True): "unary_stream",
            (True, False): "stream_unary",
            (True, True): "stream_stream",
        }[streaming_request, streaming_answer]
        answer = method(channel, call)(PROCESS)(iter([USER]) if streaming_request else USER, timeout=30)
        assert (list(answer) if streaming_answer else [answer]) == [expected(USER)]


@pytest.mark.parametrize("streaming_request", [False, True])
@pytest.mark.parametrize("streaming_answer", [False, True])
async def test_the_asynchronous_client_may_use_any_type_of_call(
    served: Served, streaming_request: bool, streaming_answer: bool
) -> None:
    async with connected(served.tcp) as channel:
        call = {
            (False, False): "unary_unary",
            (False, True): "unary_stream",
            (True, False): "stream_unary",
            (True, True): "stream_stream",
        }[streaming_request, streaming_answer]
        running = method(channel, call)(PROCESS)(iter([USER]) if streaming_request else USER)
        answers = [answer async for answer in running] if streaming_answer else [await running]
        assert answers == [expected(USER)]
        assert await running.code() == grpc.StatusCode.OK
        assert await running.details() == ""


async def test_many_messages_on_a_stream_are_answered_in_their_order(served: Served) -> None:
    users = [request_headers([("x-user-id", f"u-{number}".encode())]) for number in range(50)]
    several = [
        message
        for user in users
        for message in (user, MESSAGES["request_body"], MESSAGES["told only"], MESSAGES["user"])
    ]
    async with connected(served.tcp) as channel:
        stream = opened(channel)

        async def write() -> None:
            for message in several:
                await stream.write(message)
            await stream.done_writing()

        writing = asyncio.create_task(write())
        answers = [answer async for answer in stream]
        await writing
        assert answers == [answer for message in several if (answer := expected(message)) is not None]
        assert await stream.code() == grpc.StatusCode.OK


async def test_a_stream_without_a_message_ends_without_an_error(served: Served) -> None:
    async with connected(served.tcp) as channel:
        stream = opened(channel)
        await stream.done_writing()
        assert await stream.read() is EOF
        assert await stream.code() == grpc.StatusCode.OK


@pytest.mark.parametrize(("name", "answers"), [("last", 1), ("undecodable", 0), ("empty", 0)])
async def test_the_server_may_end_a_stream_before_the_client_does(served: Served, name: str, answers: int) -> None:
    async with connected(served.tcp) as channel:
        stream = opened(channel)
        await stream.write(MESSAGES[name])
        assert [answer async for answer in stream] == [expected(MESSAGES[name])] * answers
        assert await stream.code() == grpc.StatusCode.OK
        assert await ask(channel) == expected(USER)


async def test_answers_carry_no_metadata_beyond_what_grpc_needs(served: Served) -> None:
    async with connected(served.tcp) as channel:
        stream = opened(channel)
        await stream.write(USER)
        await stream.done_writing()
        await stream.read()
        assert not list(await stream.initial_metadata())
        assert await stream.read() is EOF
        assert not list(await stream.trailing_metadata())


@pytest.mark.parametrize(
    "path",
    ["/envoy.service.ext_proc.v3.ExternalProcessor/Other", "/other.Service/Process", "/grpc.health.v1.Health/Other"],
)
async def test_an_unknown_method_is_unimplemented(served: Served, path: str) -> None:
    async with connected(served.tcp) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await method(channel, "unary_unary")(path)(USER)
        assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert await ask(channel) == expected(USER)


async def test_thousands_of_streams_on_a_connection_are_open_at_the_same_time(served: Served) -> None:
    async with connected(served.tcp) as channel:
        streams = []
        for _ in range(20):  # grpcio refuses some of a thousand that arrive at once
            some = [opened(channel) for _ in range(100)]
            await asyncio.gather(*(stream.write(USER) for stream in some))
            assert set(await asyncio.gather(*(stream.read() for stream in some))) == {expected(USER)}
            streams += some
        now = await asyncio.to_thread(served.counters)
        assert now.streams in {None, 2000}
        assert now.tasks - served.idle_tasks >= 2000 or now.streams is not None
        for stream in streams[::2]:
            stream.cancel()
        rest = streams[1::2]
        await asyncio.gather(*(stream.write(MESSAGES["request_body"]) for stream in rest))
        assert set(await asyncio.gather(*(stream.read() for stream in rest))) == {UNTOUCHED_BODY}
        await asyncio.gather(*(stream.done_writing() for stream in rest))
        assert set(await asyncio.gather(*(stream.code() for stream in rest))) == {grpc.StatusCode.OK}


@pytest.mark.parametrize("number", [0, 1], ids=["tcp", "unix"])
async def test_many_connections_are_served_at_the_same_time(served: Served, number: int) -> None:
    before = served.counters()

    async def one() -> None:
        async with connected(served.addresses[number]) as channel:
            stream = opened(channel)
            await stream.write(USER)
            assert await stream.read() == expected(USER)
            arrived.release()
            await leave.wait()
            await stream.done_writing()
            assert await stream.code() == grpc.StatusCode.OK

    arrived, leave = asyncio.Semaphore(0), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(100):
            tasks.create_task(one())
        for _ in range(100):
            await arrived.acquire()
        now = await asyncio.to_thread(served.counters)
        assert now.files >= before.files + 100
        leave.set()
    await asyncio.to_thread(served.until, lambda now: now.files <= before.files, "closed connections")


writing: list[asyncio.Task[None]] = []


def _each_point() -> Sequence[tuple[str, Callable[[Any], Any]]]:
    async def at_once(stream: Any) -> None: ...

    async def after_opening(stream: Any) -> None:
        await stream.wait_for_connection()

    async def after_a_message(stream: Any) -> None:
        await stream.write(USER)

    async def after_an_answer(stream: Any) -> None:
        await stream.write(USER)
        assert await stream.read() == expected(USER)

    async def after_half_closing(stream: Any) -> None:
        await stream.write(USER)
        await stream.done_writing()

    async def amid_a_large_message(stream: Any) -> None:
        await stream.wait_for_connection()  # a write that is cancelled before waits forever, in grpc.aio itself
        writing.append(asyncio.create_task(stream.write(body_message(LARGEST))))
        await asyncio.sleep(0.001)

    async def amid_many_messages(stream: Any) -> None:
        for _ in range(20):
            await stream.write(USER)

    every = (
        at_once, after_opening, after_a_message, after_an_answer, after_half_closing, amid_a_large_message,
        amid_many_messages,
    )  # fmt: skip
    return [(each.__name__, each) for each in every]


@pytest.mark.parametrize(("name", "reach"), _each_point(), ids=lambda value: value if isinstance(value, str) else "")
async def test_a_call_may_be_cancelled_at_any_point(served: Served, name: str, reach: Callable[[Any], Any]) -> None:
    async with connected(served.tcp) as channel:
        for _ in range(20 if name != "amid_a_large_message" else 3):
            stream = opened(channel)
            await reach(stream)
            stream.cancel()
            if writing:
                await asyncio.gather(writing.pop(), return_exceptions=True)
        assert await ask(channel) == expected(USER)
        await asyncio.to_thread(served.forgets_streams)


@pytest.mark.parametrize("messages", [0, 1])
async def test_a_deadline_ends_a_stream_that_waits(served: Served, messages: int) -> None:
    async with connected(served.tcp) as channel:
        stream = method(channel, "stream_stream")(PROCESS)(timeout=0.3)
        for _ in range(messages):
            await stream.write(USER)
            assert await stream.read() == expected(USER)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stream.read()
        assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.to_thread(served.forgets_streams)
        assert await ask(channel) == expected(USER)


def test_the_server_itself_ends_a_call_at_its_deadline(served: Served) -> None:
    """The client neither cancels nor sends anything more."""
    with peer(served.tcp) as found:
        timed: Headers = (*REQUEST, ("grpc-timeout", "150m"))
        found.send(found.headers(1, timed), found.headers(3, timed), found.data(3, message(USER)))
        found.send(found.headers(5, timed), found.data(5, message(USER)[:20]))
        for stream in (1, 3, 5):
            got = found.result(stream)
            # grpcio's server resets the stream instead of sending a status, if it has answered before.
            assert got.status == "4" or (served.transport == "grpcio" and got.reset in {8, None})
        served.forgets_streams()
        assert found.call(7, USER).messages == [expected(USER)]


async def test_a_deadline_that_is_far_away_changes_nothing(served: Served) -> None:
    async with connected(served.tcp) as channel:
        stream = method(channel, "stream_stream")(PROCESS)(timeout=3600)
        await stream.write(USER)
        assert await stream.read() == expected(USER)
        await stream.done_writing()
        assert await stream.code() == grpc.StatusCode.OK
