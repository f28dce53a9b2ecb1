"""Envoy with each transport of the server: the same assignments, and nothing fails while it drains or dies."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme

from abmesh.experiment.codec import parse
from abmesh.experiment.names import EXT_PROC_CLUSTER
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from tests.e2e.echo_upstream import echo_upstream
from tests.e2e.envoy_process import EnvoyProcess, on_free_ports
from tests.e2e.load import under_load
from tests.e2e.support import PATIENT, ask, ask_all, document, envoy_stats, eventually, predicted, session, stack
from tests.ext_proc.programs import program

pytestmark = pytest.mark.envoy

HALVES = document({"model-a": 50.0, "model-b": 50.0})
ALL_TO_B = document({"model-a": 0.0, "model-b": 100.0})
USERS = [f"user-{number}" for number in range(600)]


@pytest.fixture(params=["grpcio", "nghttp2"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport."""
    name: str = request.param
    if name == "nghttp2":
        pytest.importorskip("ngh2")
    return name


@pytest.mark.parametrize("way", ["tcp", "unix socket", "4 workers"])
async def test_users_get_what_assign_predicts(short_path: Path, transport: str, way: str) -> None:
    workers = 4 if way == "4 workers" else 1
    async with stack(short_path, HALVES, transport=transport, workers=workers, tcp=way != "unix socket") as running:
        expected = await predicted(running.config, USERS)
        answers = await ask_all(running.url, USERS)
        assert {user: answer.variant for user, answer in answers.items()} == expected
        failures = await envoy_stats(running, "ext_proc.(streams_failed|message_timeouts|failure_mode_allowed)")
        assert sum(failures.values()) == 0, failures
        assert sum((await envoy_stats(running, "^abmesh.requests")).values()) == len(USERS)
        server = running.children["ext-proc"]
        if workers > 1:
            assert len(psutil.Process(server.pid).children()) >= workers
        assert await server.stop(seconds=20) == 0, server.tail()
        assert "Traceback" not in server.log.read_text()


async def test_no_request_fails_while_the_server_drains_or_is_killed_again_and_again(
    tmp_path: Path, transport: str
) -> None:
    async with stack(tmp_path, ALL_TO_B, transport=transport) as running:
        server = running.children["ext-proc"]
        async with under_load(running.url, USERS) as load:

            async def open_again() -> bool:
                return load.answers[-1][1].variant is None

            async def assigned_again() -> bool:
                return [answer.variant for _, answer in load.answers[-20:]] == ["model-b"] * 20

            await load.more(100)
            begun = time.monotonic()
            assert await server.stop(seconds=20) == 0, server.tail()
            assert time.monotonic() - begun < 6, "Envoy's health checks held up the drain, which may take 10 s"
            await load.more(50)
            await server.start()
            await eventually(assigned_again)
            for _ in range(3):
                await load.more(50)
                server.signal(signal.SIGKILL)
                await server.stop()
                await eventually(open_again)
                await server.start()
                await eventually(assigned_again)
        assert not load.failures
        assert {answer.status for _, answer in load.answers} == {200}


@pytest.fixture
def papers(tmp_path: Path) -> dict[str, Path]:
    """Files of an authority, and of what it certified for the server and for Envoy."""
    authority = trustme.CA()
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "envoy")}
    authority.cert_pem.write_to_path(files["ca"])
    server = authority.issue_cert("localhost")
    server.cert_chain_pems[0].write_to_path(files["cert"])
    server.private_key_pem.write_to_path(files["key"])
    authority.issue_cert("envoy").private_key_and_cert_chain_pem.write_to_path(files["envoy"])
    return files


def over_tls(bootstrap: dict[str, Any], papers: dict[str, Path], *, known: bool) -> dict[str, Any]:
    """The bootstrap with TLS between Envoy and the server, which shows its certificate, as Envoy does if known."""
    for cluster in bootstrap["static_resources"]["clusters"]:
        if cluster["name"] == EXT_PROC_CLUSTER:
            envoy = {"filename": str(papers["envoy"])}
            common = {
                "alpn_protocols": ["h2"],
                "tls_certificates": [{"certificate_chain": envoy, "private_key": envoy}] if known else [],
                "validation_context": {"trusted_ca": {"filename": str(papers["ca"])}},
            }
            cluster["transport_socket"] = {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "common_tls_context": common,
                    "sni": "localhost",
                },
            }
    return bootstrap


@pytest.mark.parametrize("workers", [1, 2])
async def test_envoy_reaches_the_server_over_tls_and_only_with_its_certificate(
    tmp_path: Path, transport: str, papers: dict[str, Path], workers: int
) -> None:
    async with AsyncExitStack() as ending:
        ports = {name: await ending.enter_async_context(echo_upstream(name)) for name in ("model-a", "model-b")}
        clusters = "".join(f"  {name}: {{host: 127.0.0.1, port: {port}}}\n" for name, port in ports.items())
        text = f"{HALVES}clusters:\n{clusters}"
        (tmp_path / "experiments.yaml").write_text(text)
        files = (
            "--tls-cert",
            str(papers["cert"]),
            "--tls-key",
            str(papers["key"]),
            "--tls-client-ca",
            str(papers["ca"]),
        )
        flags = ("--listen", "127.0.0.1:0", "--transport", transport, "--workers", str(workers), *files)
        server = await ending.enter_async_context(program(tmp_path, *flags))
        await server.ready()
        options = RenderOptions(ext_proc=(server.addresses[0],), message_timeout=PATIENT)
        parsed = parse(text, "the test's document")
        client = await ending.enter_async_context(session())
        for name, known in (("known", True), ("unknown", False)):
            secured = over_tls(render_bootstrap(parsed, on_free_ports(options)), papers, known=known)
            envoy = EnvoyProcess(secured, tmp_path / name)
            ending.callback(envoy.stop)
            await asyncio.to_thread(envoy.start)

            async def version(envoy: EnvoyProcess = envoy) -> str | None:
                return (await ask(client, envoy.url, {"x-user-id": "user-1"}, path="/v1/x")).variant

            if known:
                await eventually(version)
                expected = await predicted(tmp_path / "experiments.yaml", USERS[:50])
                for user in USERS[:50]:
                    answer = await ask(client, envoy.url, {"x-user-id": user}, path="/v1/x")
                    assert (answer.status, answer.variant) == (200, expected[user])
            else:
                assert [await version() for _ in range(20)] == [None] * 20
        assert await server.stop() == 0
        assert "Traceback" not in server.text
