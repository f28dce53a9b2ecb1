"""One server as a program, called over real gRPC."""

import asyncio
import signal
import socket
from pathlib import Path

import grpc
import pytest
from envoy.service.ext_proc.v3.external_processor_pb2 import ProtocolConfiguration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ext_proc import wire
from tests.ext_proc.clients import NOT_SERVING, SERVING, USER, ask, connected, health, opened, scrape, total
from tests.ext_proc.conformance.frames import frame, plain
from tests.ext_proc.conformance.peer import Peer
from tests.ext_proc.programs import LIMIT, Program, eventually, program
from tests.ext_proc.samples import DOCUMENT_TEXT, EVERY_KIND, headers_set, request_headers

pytestmark = pytest.mark.process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a valid document."""
    (tmp_path / "experiments.yaml").write_text(DOCUMENT_TEXT)
    return tmp_path


async def test_a_server_answers_on_tcp_and_on_a_unix_socket_and_ends_cleanly(folder: Path) -> None:
    path = folder / "ext_proc.sock"
    async with program(folder, "--listen", "127.0.0.1:0", "--listen", f"unix:{path}") as server:
        await server.ready()
        assert len(server.addresses) == 2
        for address in server.addresses:
            async with connected(address) as channel:
                assert headers_set(await ask(channel))["x-ab-experiment"] == "chat-model"
                assert await health(channel) == await health(channel, wire.SERVICE) == SERVING
                assert await ask(channel, b"\xff") is None  # ended, not failed
        samples = await asyncio.to_thread(scrape, server.metrics)
        assert total(samples, "abmesh_ext_proc_requests_total") == 2
        assert samples["abmesh_ext_proc_errors_total{kind=undecodable}"] == 2
        assert samples["abmesh_ext_proc_processing_seconds_count"] == 4
        assert await server.stop() == 0
        assert not path.exists()
        assert "Traceback" not in server.text


async def test_an_unexpected_end_of_grpcio_is_counted_and_it_is_restarted(folder: Path) -> None:
    async with program(folder, "--listen", "127.0.0.1:0", "--transport", "grpcio") as server:
        await server.ready()
        await asyncio.to_thread(end_grpc_aio, server.addresses[0])
        async with connected(server.addresses[0]) as channel:
            await asyncio.wait_for(channel.channel_ready(), LIMIT)
            assert await ask(channel) is not None
        samples = await asyncio.to_thread(scrape, server.metrics)
        assert samples["abmesh_ext_proc_errors_total{kind=grpcio}"] == 1
        assert await server.stop() == 0


def end_grpc_aio(address: str) -> None:
    """Make grpc.aio end, by a call whose path is not UTF-8; returns when the connection is closed."""
    with Peer(address) as found:
        found.open()
        found.send(frame(1, 5, 1, plain().replace(b"/Process", b"/Proce\xf0s")))
        found.end()


async def test_health_follows_the_document_and_a_broken_edit_never_takes_effect(tmp_path: Path) -> None:
    config = tmp_path / "experiments.yaml"
    edit(config, "version: 1\nexperiments: 7\n")
    async with program(tmp_path, "--listen", "127.0.0.1:0") as server:
        await server.ready()
        await follow_edits(server, config)


def edit(config: Path, text: str) -> None:
    config.write_text(text)


async def follow_edits(server: Program, config: Path) -> None:
    async with connected(server.addresses[0]) as channel:
        assert "generation none" in server.text
        assert await health(channel) == await health(channel, wire.SERVICE) == NOT_SERVING
        assert await ask(channel) == wire.UNCONFIGURED

        edit(config, DOCUMENT_TEXT)
        await eventually(lambda: "document in force" in server.text, "the fixed document")
        assert await health(channel) == await health(channel, wire.SERVICE) == SERVING
        assert headers_set(await ask(channel))["x-ab-experiment"] == "chat-model"
        before = await asyncio.to_thread(scrape, server.metrics)
        assert before["abmesh_config_valid"] == 1
        assert before["abmesh_config_rejected_total"] == 1

        edit(config, DOCUMENT_TEXT.replace("weight: 50", "weight: 60"))
        await eventually(lambda: server.text.count("document refused") == 2, "the refusal")
        assert "stays in force" in server.text
        assert await health(channel) == SERVING
        assert headers_set(await ask(channel))["x-ab-experiment"] == "chat-model"
        after = await asyncio.to_thread(scrape, server.metrics)
        assert after["abmesh_config_valid"] == 0
        assert after["abmesh_config_rejected_total"] == 2
        assert after["abmesh_config_generation"] == before["abmesh_config_generation"]

        edit(config, DOCUMENT_TEXT.replace("chat-model", "renamed"))
        await eventually(lambda: server.text.count("document in force") == 2, "the next good edit")
        assert headers_set(await ask(channel))["x-ab-experiment"] == "renamed"
        assert (await asyncio.to_thread(scrape, server.metrics))["abmesh_config_valid"] == 1


async def test_sigterm_under_load_fails_no_call_of_clients_that_heed_health(folder: Path) -> None:
    """They call until health turns NOT_SERVING, as Envoy does; every call up to then is answered."""
    async with program(folder, "--listen", "127.0.0.1:0") as server:
        await server.ready()
        answered, leave = 0, asyncio.Event()

        async def load() -> None:
            nonlocal answered
            async with connected(server.addresses[0]) as channel:
                while not leave.is_set():
                    assert headers_set(await ask(channel))
                    answered += 1

        async with connected(server.addresses[0]) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            waiting = opened(channel)  # answered, and kept open as by an older Envoy during a long response
            await waiting.write(USER)
            assert headers_set(await waiting.read())
            callers = [asyncio.create_task(load()) for _ in range(8)]
            await eventually(lambda: answered > 200, "load")
            at_signal = answered
            server.process.send_signal(signal.SIGTERM)
            assert (await watch.read()).status == NOT_SERVING
            await eventually(lambda: answered > at_signal + 50, "answers while draining")
            leave.set()
            await asyncio.gather(*callers)
            assert await waiting.code() == await watch.code() == grpc.StatusCode.OK
        assert await asyncio.wait_for(server.process.wait(), 30) == 0
        assert "Traceback" not in server.text


async def test_a_drain_ends_in_time_whatever_clients_do(folder: Path) -> None:
    async with program(folder, "--listen", "127.0.0.1:0", "--drain", "1") as server:
        await server.ready()
        caller = asyncio.create_task(call_for_ever(server))
        await eventually(lambda: calls_seen(server) > 50, "load")
        assert await server.stop() == 0
        with pytest.raises(grpc.aio.AioRpcError):
            await caller


async def test_a_second_signal_stops_at_once(folder: Path) -> None:
    async with program(folder, "--listen", "127.0.0.1:0", "--drain", "3600") as server:
        await server.ready()
        caller = asyncio.create_task(call_for_ever(server))
        await eventually(lambda: calls_seen(server) > 50, "load")
        server.process.send_signal(signal.SIGTERM)
        await eventually(lambda: "draining" in server.text, "the drain")
        assert await server.stop() == 1
        with pytest.raises(grpc.aio.AioRpcError):
            await caller


async def call_for_ever(server: Program) -> None:
    async with connected(server.addresses[0]) as channel:
        while True:
            await ask(channel)


def calls_seen(server: Program) -> float:
    return total(scrape(server.metrics), "abmesh_ext_proc_requests_total")


async def test_a_taken_port_is_reported_in_one_clear_line(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flags in (("--listen", address), ("--listen", "127.0.0.1:0", "--metrics", address)):
            async with program(folder, *flags) as server:
                assert await asyncio.wait_for(server.process.wait(), 30) == 1
                assert f"cannot listen on {address}" in server.text.splitlines()[-1]
                assert "Traceback" not in server.text


async def test_invalid_flags_are_a_usage_error(folder: Path) -> None:
    async with program(folder, "--listen", "nowhere") as server:
        assert await asyncio.wait_for(server.process.wait(), 30) == 2
        assert "--listen: not an address; found 'nowhere'" in server.text


async def test_a_server_that_takes_over_a_unix_socket_survives_the_end_of_the_one_before(folder: Path) -> None:
    """The first one stops after the second has started, as in a restart without a gap."""
    path = folder / "ext_proc.sock"
    (folder / "two").mkdir()
    (folder / "two" / "experiments.yaml").write_text(DOCUMENT_TEXT.replace("chat-model", "second"))
    async with program(folder, "--listen", f"unix:{path}") as first:
        await first.ready()
        async with program(folder / "two", "--listen", f"unix:{path}") as second:
            await second.ready()
            assert await first.stop() == 0
            async with connected(f"unix:{path}") as channel:
                assert headers_set(await ask(channel))["x-ab-experiment"] == "second"
            assert await second.stop() == 0
        assert not path.exists()


async def test_a_socket_left_by_a_killed_server_is_replaced(folder: Path) -> None:
    path = folder / "ext_proc.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with program(folder, "--listen", f"unix:{path}") as server:
        await server.ready()
        async with connected(f"unix:{path}") as channel:
            assert headers_set(await ask(channel))


async def test_a_stream_is_closed_after_the_answer_that_decides_and_only_then(folder: Path) -> None:
    several = [EVERY_KIND[kind].SerializeToString() for kind in ("request_headers", "request_body", "response_headers")]
    only = request_headers([("x-user-id", b"u")], protocol_config=ProtocolConfiguration())
    async with program(folder, "--listen", "127.0.0.1:0") as server:
        await server.ready()
        async with connected(server.addresses[0]) as channel:
            stream = opened(channel)
            for message in several:
                await stream.write(message)
                assert isinstance(await stream.read(), bytes)
            stream.cancel()
            stream = opened(channel)
            await stream.write(only)
            assert "x-model-version" in headers_set(await stream.read())
            assert not isinstance(await stream.read(), bytes)
            assert await stream.code() == grpc.StatusCode.OK
