"""The Envoy of docs/operations/merging.md with foreign filters of the kinds of ours, and abmesh merged into it."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from abmesh.local.processes import Child, free_ports
from abmesh.mesh.merge.look import plain
from abmesh.mesh.merge.tree import compose
from tests.e2e.echo_upstream import echo_upstream
from tests.e2e.envoy_process import EnvoyProcess
from tests.e2e.rendered_mesh import RenderedMesh, StandInServer, user
from tests.e2e.support import abmesh
from tests.paths import ROOT

EXAMPLES = ROOT / "docs" / "examples"
KEY = {"x-api-key": "k"}
ROUTE = ("--listener", "edge", "--virtual-host", "api", "--route", "llm/chat")
UNASSIGNED = "abmesh.unassigned.route.llm/chat.reason."
TYPES = "type.googleapis.com/envoy.extensions.filters.http"

BEFORE = f"""\
                  - name: envoy.filters.http.ext_proc
                    typed_config:
                      "@type": {TYPES}.ext_proc.v3.ExternalProcessor
                      stat_prefix: before
                      grpc_service: {{envoy_grpc: {{cluster_name: theirs}}}}
                      processing_mode: {{response_header_mode: SKIP}}
                      forward_rules: {{disallowed_headers: {{patterns: [{{exact: x-user-id}}]}}}}
                  - name: envoy.filters.http.header_mutation
                    typed_config: {{"@type": {TYPES}.header_mutation.v3.HeaderMutation, mutations: {{}}}}
"""
AFTER = f"""\
                  - name: after
                    typed_config:
                      "@type": {TYPES}.ext_proc.v3.ExternalProcessor
                      stat_prefix: after
                      grpc_service: {{envoy_grpc: {{cluster_name: theirs}}}}
                      processing_mode: {{response_header_mode: SKIP}}
                      forward_rules: {{disallowed_headers: {{patterns: [{{exact: x-user-id}}]}}}}
                  - name: lua.after
                    typed_config:
                      "@type": {TYPES}.lua.v3.Lua
                      default_source_code:
                        inline_string: |
                          function envoy_on_request(handle)
                            handle:headers():add("x-after", "none")
                          end
                  - name: envoy.filters.http.router
"""
ON_CHAT = f"""\
                          typed_per_filter_config:
                            lua.after:
                              "@type": {TYPES}.lua.v3.LuaPerRoute
                              source_code:
                                inline_string: |
                                  function envoy_on_request(handle)
                                    handle:headers():add("x-after", "chat")
                                  end
                            envoy.filters.http.header_mutation:
                              "@type": {TYPES}.header_mutation.v3.HeaderMutationPerRoute
                              mutations:
                                response_mutations:
                                  - append: {{header: {{key: x-theirs, value: kept}}}}
"""
ON_WEBSITE = f"""\
                          typed_per_filter_config:
                            after: {{"@type": {TYPES}.ext_proc.v3.ExtProcPerRoute, disabled: true}}
                            envoy.filters.http.lua: {{"@type": {TYPES}.lua.v3.LuaPerRoute, disabled: true}}
"""
THEIRS = """\
    - name: theirs
      type: STATIC
      load_assignment:
        cluster_name: theirs
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {pipe: {path: SOCKET}}}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
"""


@dataclass
class Own:
    """The operator's files, and what their Envoy talks to."""

    config: Path
    document: Path
    text: str

    async def render(self, *flags: str) -> str:
        """Run ``abmesh render envoy --into``; what the operator reads."""
        command = ["render", "envoy", "--into", str(self.config), *ROUTE, *flags]
        code, output, errors = await abmesh(*command, config=self.document)
        assert code == 0, errors
        return output + errors


def edited(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) >= 1, old
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def authz() -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=200 if "x-api-key" in request.headers else 401)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    key, made = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(made), "-days", "2", "-subj", "/CN=test"]
    command += ["-addext", "subjectAltName=DNS:billing.example.com"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    return made, context


@asynccontextmanager
async def own_envoy(folder: Path, *, real: bool = False) -> AsyncIterator[tuple[Own, StandInServer, EnvoyProcess]]:
    """The files, our server or its stand-in, and an Envoy that is not started yet."""
    async with AsyncExitStack() as stack:
        short = tempfile.mkdtemp(prefix="abmesh-")
        stack.callback(shutil.rmtree, short, ignore_errors=True)
        ours, theirs = StandInServer(f"unix:{short}/ours"), StandInServer(f"unix:{short}/theirs")
        for server in (theirs,) if real else (ours, theirs):
            stack.callback(server.end)
            await asyncio.to_thread(server.start)
        ca, context = certificate(folder)
        ports = {
            name: await stack.enter_async_context(echo_upstream(name)) for name in ("model-a", "model-b", "website")
        }
        ports["billing"] = await stack.enter_async_context(echo_upstream("billing", context))
        ports["authz"] = await stack.enter_async_context(authz())
        listen, admin = free_ports(2)
        changes = {
            f"port_value: {was}": f"port_value: {ports[name]}"
            for name, was in (("model-a", 8001), ("website", 8080), ("authz", 9000))
        }
        text = edited(
            (EXAMPLES / "existing-envoy.yaml").read_text(),
            {
                **changes,
                "address: billing.example.com, port_value: 443": f"address: 127.0.0.1, port_value: {ports['billing']}",
                "/etc/ssl/certs/ca-certificates.crt": str(ca),
                "address: 0.0.0.0, port_value: 10000": f"address: 127.0.0.1, port_value: {listen}",
                "port_value: 9901": f"port_value: {admin}",
                "                  # The team that pays": BEFORE + "                  # The team that pays",
                "                  - name: envoy.filters.http.router\n": AFTER,
                "                          route:\n                            cluster: model-a": ON_CHAT
                + "                          route:\n                            cluster: model-a",
                "route: {cluster: website}\n": "route: {cluster: website}\n" + ON_WEBSITE,
                "    - name: authz\n      type": THEIRS.replace("SOCKET", f"{short}/theirs")
                + "    - name: authz\n      type",
            },
        )
        document = edited(
            (EXAMPLES / "existing-experiments.yaml").read_text(),
            {"8001": str(ports["model-a"]), "8002": str(ports["model-b"])},
        )
        own = Own(folder / "own.yaml", folder / "experiments.yaml", text)
        own.config.write_text(text)
        own.document.write_text(document)
        await own.render(
            "--in-place", "--before", "after", "--warmup", "", "--ext-proc", ours.address, "--message-timeout", "5s"
        )
        envoy = EnvoyProcess(plain(compose(own.config.read_text(), "")), folder)
        stack.callback(envoy.stop)
        if real:
            serve = [sys.executable, "-m", "abmesh.cli", "ext-proc", "--config", str(own.document)]
            child = Child("ext-proc", [*serve, "--listen", ours.address], folder / "ext-proc.log")
            await child.start()
            stack.push_async_callback(child.kill)
        yield own, ours, envoy


def chat(variant: str = "model-b", slice_: int | None = 7, **script: object) -> dict[str, str]:
    return KEY | user(variant, slice_, "chat-model", **script)


async def healthy(mesh: RenderedMesh) -> bool:
    found = await mesh.counters("^cluster.abmesh-ext-proc.membership_healthy$")
    return found.get("cluster.abmesh-ext-proc.membership_healthy") == 1
