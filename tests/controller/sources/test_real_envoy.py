"""What the admin source reads from a real Envoy, and that a restart of it is recognised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controller.codec.outlines import evidence_outline
from controller.evidence.parse import Sample
from controller.evidence.summary import VariantEvidence
from controller.evidence.summing import summarize
from controller.evidence.window import Reading, Window, extend, open_window
from controller.sources.envoy_admin import EnvoyAdminSource
from tests.e2e.envoy_process import EnvoyProcess

pytestmark = pytest.mark.envoy


def _stat(name: str, *tags: tuple[str, str]) -> dict[str, Any]:
    every = (("experiment", "%REQ(x-ab-experiment)%"), ("variant", "%REQ(x-model-version)%"), *tags)
    return {"name": name, "tags": [{"name": tag, "value_format": value} for tag, value in every]}


def _bootstrap() -> dict[str, Any]:
    """An Envoy that answers by itself, after the delay and with the code that a request asks for, and counts it."""
    extensions = "type.googleapis.com/envoy.extensions"
    slice_, code = ("slice", "%REQ(x-ab-slice)%"), ("code", "%RESPONSE_CODE%")
    logger = {
        "@type": f"{extensions}.access_loggers.stats.v3.Config",
        "stats_scope": {"prefix": "abmesh"},
        "counters": [
            {"stat": _stat("requests", slice_, code), "value_fixed": 1},
            {"stat": _stat("duration_ms", slice_), "value_format": "%DURATION%"},
        ],
        "histograms": [
            {
                "stat": _stat("duration", ("group", "%REQ(x-ab-group)%")),
                "value_format": "%DURATION%",
                "unit": "Milliseconds",
            }
        ],
    }
    fault = {
        "@type": f"{extensions}.filters.http.fault.v3.HTTPFault",
        "delay": {"header_delay": {}, "percentage": {"numerator": 100}},
        "abort": {"header_abort": {}, "percentage": {"numerator": 100}},
    }
    manager = {
        "@type": f"{extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "access_log": [{"name": "stats", "typed_config": logger}],
        "http_filters": [
            {"name": "fault", "typed_config": fault},
            {"name": "router", "typed_config": {"@type": f"{extensions}.filters.http.router.v3.Router"}},
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
    }
    loopback = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {
        "admin": {"address": loopback},
        "stats_flush_interval": "1s",
        "static_resources": {"listeners": [{"name": "http", "address": loopback, "filter_chains": [chain]}]},
    }


async def _serve(envoy: EnvoyProcess, count: int, *, code: int = 200, delay_ms: int = 30) -> None:
    headers = {
        "x-ab-experiment": "chat",
        "x-model-version": "model-b",
        "x-ab-slice": "7",
        "x-ab-group": "1",
        "x-envoy-fault-delay-request": str(delay_ms),
        **({"x-envoy-fault-abort-request": str(code)} if code != 200 else {}),
    }
    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            async with session.get(envoy.url, headers=headers) as response:
                assert response.status == code


async def _leave(envoy: EnvoyProcess) -> None:
    """A request whose client goes away before there is a response."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await _serve(envoy, 1, delay_ms=60_000)


class _Watch:
    """The window of one Envoy, extended at every look."""

    def __init__(self) -> None:
        self.window: Window | None = None
        self.sample = Sample()
        self.source = EnvoyAdminSource((), timeout=10)

    async def point_at(self, envoy: EnvoyProcess) -> None:
        """Look at another process, as the same Envoy: a restarted one, on ports that are certainly free."""
        await self.source.close()
        self.source = EnvoyAdminSource((envoy.admin_url,), timeout=10)

    async def look(self) -> VariantEvidence:
        at = datetime.now(UTC)
        (found,) = await self.source.observe()
        assert found.sample is not None, found.error
        self.sample = found.sample
        readings = {"envoy": Reading(at, found.sample.uptime, found.sample.counts("chat"))}
        self.window = open_window(readings, at) if self.window is None else extend(self.window, readings)
        return summarize(self.window.totals, ("model-b",))["model-b"]

    async def until(self, condition: Callable[[VariantEvidence], bool]) -> VariantEvidence:
        async with asyncio.timeout(30):
            while not condition(evidence := await self.look()):  # noqa: ASYNC110 - it waits for another process
                await asyncio.sleep(0.1)
        return evidence


@pytest.fixture
async def watch() -> AsyncIterator[_Watch]:
    watch = _Watch()
    yield watch
    await watch.source.close()


async def test_a_real_envoys_statistics_become_evidence_and_survive_its_restart(tmp_path: Path, watch: _Watch) -> None:
    with EnvoyProcess(_bootstrap(), tmp_path / "first") as envoy:
        await watch.point_at(envoy)
        await _serve(envoy, 5, code=503)
        # Histograms show only after a flush; a window that opens before it would count them late.
        await watch.until(lambda _: bool(watch.sample.counts("chat").bins) and (watch.sample.uptime or 0) >= 3)
        watch.window = None
        assert (await watch.look()).codes == {}

        await _serve(envoy, 20)
        await _serve(envoy, 2, code=503)
        await _leave(envoy)
        evidence = await watch.until(lambda found: sum(found.bins.values()) == 23)
        assert evidence.codes == {200: 20, 503: 2, 0: 1}
        assert (evidence.requests, evidence.errors, evidence.aborted) == (22, 2, 1)
        assert evidence.mean_ms is not None
        assert evidence.mean_ms >= 30
        p50 = evidence_outline(evidence)["p50_ms"]
        assert p50 is not None
        assert 30 <= p50 < 200
        assert evidence.slices[7].requests == 22
        assert list(evidence.groups) == [1]
    (absent,) = await watch.source.observe()
    assert absent.sample is None

    with EnvoyProcess(_bootstrap(), tmp_path / "second") as envoy:
        await watch.point_at(envoy)
        # More than the first had counted, so that no counter went back: the uptime tells.
        await _serve(envoy, 40)
        evidence = await watch.until(lambda found: sum(found.bins.values()) == 63)
        assert evidence.codes == {200: 60, 503: 2, 0: 1}
