"""What the transports are made of, without a peer: the choice of one, health, addresses and TLS files."""

import asyncio
import importlib
import logging
import socket
import ssl
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from abmesh.experiment.errors import SettingsError, StartError
from ext_proc import wire
from ext_proc.settings import Tcp, Tls, parse_tls, parse_transport
from ext_proc.transport import choice
from ext_proc.transport.grpc_protocol import CallError, Status
from ext_proc.transport.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Health
from ext_proc.transport.sockets import bound
from ext_proc.transport.tls import server_context


def question(service: str = "") -> bytes:
    asked: bytes = HealthCheckRequest(service=service).SerializeToString()
    return asked


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if packages were not installed, or built for another machine."""
    load = importlib.import_module

    def missing(name: str) -> ModuleType:
        if name in packages:
            raise ImportError(f"no module {name}")
        return load(name)

    monkeypatch.setattr(importlib, "import_module", missing)


def test_where_the_engine_is_missing_grpcio_serves_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert choice.available("nghttp2") == "nghttp2"
    assert not caplog.records
    without(monkeypatch, "ngh2")
    assert choice.available("nghttp2") == choice.available("grpcio") == "grpcio"
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "ngh2, which cannot be imported (no module ngh2; pip install 'abmesh[fast]'" in record.message
    assert "serving with grpcio instead" in record.message


def test_only_our_own_transport_runs_on_uvloop_and_on_pythons_loop_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choice.loop_factory("grpcio") is None
    factory = choice.loop_factory("nghttp2")
    assert factory is not None
    loop = factory()
    assert type(loop).__module__.startswith("uvloop")
    loop.close()
    with monkeypatch.context() as patched:
        without(patched, "uvloop")
        assert choice.loop_factory("nghttp2") is None
    without(monkeypatch, "ngh2")
    assert choice.loop_factory("nghttp2") is None, "grpcio takes its place"


def test_a_transport_is_one_of_two() -> None:
    assert parse_transport("nghttp2") == "nghttp2"
    with pytest.raises(SettingsError, match="--transport: not a transport; found 'h2'; allowed: grpcio, nghttp2"):
        parse_transport("h2")


def test_tls_needs_a_certificate_and_a_key() -> None:
    cert, key, authority = Path("c"), Path("k"), Path("a")
    assert parse_tls(None, None, None) is None
    assert parse_tls(cert, key, authority) == Tls(cert, key, authority)
    for some in ((cert, None, None), (None, key, None), (None, None, authority), (cert, None, authority)):
        with pytest.raises(SettingsError, match="--tls-cert, --tls-key: TLS needs both"):
            parse_tls(*some)


def test_health_is_told_to_those_who_ask_and_to_those_who_watch() -> None:
    health, told = Health(), list[bytes]()
    assert health.check(question()) == health.check(question(wire.SERVICE)) == NOT_SERVING
    assert health.watch(question(), "watcher", told.append) == NOT_SERVING
    health.set_serving()
    health.set_serving()
    assert told == [SERVING]
    assert health.check(question()) == SERVING
    health.end()
    health.set_serving()
    assert told == [SERVING, NOT_SERVING]
    assert health.check(question()) == NOT_SERVING
    assert HealthCheckResponse.FromString(SERVING).status == HealthCheckResponse.SERVING


def test_health_of_a_service_that_is_not_here() -> None:
    health = Health()
    with pytest.raises(CallError) as caught:
        health.check(question("other"))
    assert caught.value.status is Status.NOT_FOUND
    assert health.watch(question("other"), "watcher", lambda _: None) == SERVICE_UNKNOWN
    assert not health.watchers
    with pytest.raises(CallError) as caught:
        health.check(b"\xff")
    assert caught.value.status is Status.INTERNAL


def speaks_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_all_addresses_of_a_host_get_one_port_that_workers_can_share(host: str) -> None:
    if host == "::1" and not speaks_ipv6():
        pytest.skip("no IPv6 here")
    first = bound(Tcp(host, 0))
    try:
        ports = {made.getsockname()[1] for made in first}
        assert len(ports) == 1
        second = bound(Tcp(host, ports.pop()))
        assert [made.getsockname() for made in second] == [made.getsockname() for made in first]
    finally:
        for made in (*first, *second):
            made.close()


def test_addresses_that_cannot_be_had_are_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Tcp("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(StartError, match=f"cannot listen on {address}: is the port already in use"):
            bound(address)
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:0"):
        bound(Tcp("192.0.2.1", 0))


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with pytest.raises(StartError, match=f"cannot use the TLS files {empty}, {tmp_path}/none.key"):
        server_context(Tls(empty, tmp_path / "none.key"))


def test_tls_is_new_enough_and_asks_for_certificates_where_told(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -days 2"
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    assert server_context(Tls(cert, key)).verify_mode == ssl.CERT_NONE
    strict = server_context(Tls(cert, key, cert))
    assert strict.verify_mode == ssl.CERT_REQUIRED
    assert strict.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_quiet_is_waited_for_and_not_longer_than_most_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from ext_proc.transport import base

    module: ModuleType = base
    monkeypatch.setattr(module, "_QUIET_SECONDS", 0.02)
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.001)
    seen = iter(range(1_000_000))
    begun = asyncio.get_running_loop().time()
    await base.until_quiet(0.1, lambda: next(seen))  # never quiet
    assert asyncio.get_running_loop().time() - begun >= 0.08
    await asyncio.wait_for(base.until_quiet(3600, lambda: 7), 30)
