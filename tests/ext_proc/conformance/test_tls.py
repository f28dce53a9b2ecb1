"""TLS on each transport: HTTP/2 by ALPN and nothing else, and client certificates."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import trustme

from tests.ext_proc.clients import SERVING, USER, ask, health
from tests.ext_proc.conformance.answers import LARGEST, UNTOUCHED_BODY, body_message
from tests.ext_proc.conformance.checks import ANSWER
from tests.ext_proc.conformance.frames import PREFACE, frame, message, plain
from tests.ext_proc.conformance.peer import Closed, Peer, connect
from tests.ext_proc.conformance.served import TRANSPORTS, Served, serving

pytestmark = pytest.mark.process

NAMES = [("grpc.ssl_target_name_override", "localhost")]


class Papers:
    """A certificate authority, and files with its certificates."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.stranger = trustme.CA()
        folder.mkdir(exist_ok=True)
        self.files = {name: str(folder / f"{name}.pem") for name in ("cert", "key", "client_ca")}
        server = self.authority.issue_cert("localhost", "127.0.0.1")
        server.cert_chain_pems[0].write_to_path(self.files["cert"])
        server.private_key_pem.write_to_path(self.files["key"])
        self.authority.cert_pem.write_to_path(self.files["client_ca"])

    def context(self, *protocols: str) -> ssl.SSLContext:
        """A client that trusts the authority."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def credentials(self, issuer: trustme.CA | None = None) -> grpc.ChannelCredentials:
        """Credentials for grpcio's client, with a client certificate if an issuer is given."""
        root = self.authority.cert_pem.bytes()
        if issuer is None:
            return grpc.ssl_channel_credentials(root)
        own = issuer.issue_cert("envoy")
        return grpc.ssl_channel_credentials(root, own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module", params=TRANSPORTS)
def secure(
    request: pytest.FixtureRequest, papers: Papers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server with a certificate."""
    files = {name: papers.files[name] for name in ("cert", "key")}
    limits = {"handshake": 1.0, "check": 0.1} if request.param == "nghttp2" else {}
    with serving(tmp_path_factory.mktemp("tls"), request.param, tls=files, limits=limits) as server:
        server.command("set_serving")
        yield server
        server.forgets()


async def test_calls_are_answered(secure: Served, papers: Papers) -> None:
    async with grpc.aio.secure_channel(secure.tcp, papers.credentials(), options=NAMES) as channel:
        assert await ask(channel) == ANSWER
        assert await health(channel) == SERVING
        assert await ask(channel, body_message(LARGEST)) == UNTOUCHED_BODY


def test_http_2_is_agreed_on(secure: Served, papers: Papers) -> None:
    for protocols in (("h2",), ("http/1.1", "h2")):
        with Peer(secure.tcp, context=papers.context(*protocols)) as found:
            assert isinstance(found.raw, ssl.SSLSocket)
            assert found.raw.selected_alpn_protocol() == "h2"
            assert found.open().call(1, USER).messages == [ANSWER]


def test_a_call_may_come_in_records_of_one_byte(secure: Served, papers: Papers) -> None:
    with Peer(secure.tcp, context=papers.context("h2")) as found:
        found.open()
        for byte in found.headers(1).serialize() + found.data(1, message(USER), end=True).serialize():
            found.send(bytes((byte,)))
        assert found.result(1).messages == [ANSWER]


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)], ids=["none", "HTTP/1.1"])
def test_a_client_that_does_not_offer_http_2_is_closed(
    secure: Served, papers: Papers, protocols: tuple[str, ...]
) -> None:
    with (
        contextlib.suppress(ConnectionResetError, ssl.SSLError),
        Peer(secure.tcp, context=papers.context(*protocols)) as found,
    ):
        found.send(PREFACE + frame(4, 0, 0) + frame(1, 5, 1, plain()))
        with contextlib.suppress(Closed):
            found.until(lambda: False, 10)
        assert not found.streams[1].over
    answers(secure, papers)


def test_handshakes_that_lead_nowhere_end(secure: Served, papers: Papers) -> None:
    """All at the same time, because some wait for the time limit."""
    first_bytes = (b"", b"\x16\x03\x01", PREFACE + frame(4, 0, 0), b"GET / HTTP/1.1\r\n\r\n", bytes(100))
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(connect(secure.tcp))) for _ in first_bytes]
        for raw, sent in zip(opened, first_bytes, strict=True):
            raw.sendall(sent)
        answers(secure, papers)
        if secure.transport == "nghttp2":
            for raw in opened:
                raw.settimeout(10)
                with contextlib.suppress(ConnectionResetError):
                    while raw.recv(4096):
                        pass


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_protocols_are_refused(secure: Served, papers: Papers) -> None:
    context = papers.context("h2")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        Peer(secure.tcp, context=context)


def test_a_peer_that_vanishes_leaves_nothing(secure: Served, papers: Papers) -> None:
    for linger in (True, False):
        with Peer(secure.tcp, context=papers.context("h2")) as found:
            found.open().send(found.headers(1), found.data(1, message(USER)[:20]))
            found.ping()
            if linger:
                found.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    secure.forgets()


def answers(server: Served, papers: Papers) -> None:
    """Check that other connections are served."""
    with Peer(server.tcp, context=papers.context("h2")) as found:
        assert found.open().call(1, USER).messages == [ANSWER]
    server.unharmed()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_only_clients_with_a_certificate_from_the_ca_are_served(
    tmp_path: Path, papers: Papers, transport: str
) -> None:
    with serving(tmp_path, transport, tls=papers.files) as server:
        credentials = papers.credentials(papers.authority)
        async with grpc.aio.secure_channel(server.tcp, credentials, options=NAMES) as channel:
            assert await ask(channel) == ANSWER
        for refused in (papers.credentials(), papers.credentials(papers.stranger)):
            async with grpc.aio.secure_channel(server.tcp, refused, options=NAMES) as channel:
                with pytest.raises(grpc.aio.AioRpcError):
                    await ask(channel)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_drain_closes_connections_with_goaway(tmp_path: Path, papers: Papers, transport: str) -> None:
    files = {name: papers.files[name] for name in ("cert", "key")}
    with serving(tmp_path, transport, tls=files) as server, Peer(server.tcp, context=papers.context("h2")) as found:
        found.open().call(1, USER)
        started = time.monotonic()
        server.command("drain 10")
        assert found.end() == 0
        server.until(lambda now: server.command("drained")["drained"], "the end of the drain")
        assert time.monotonic() - started < 8
