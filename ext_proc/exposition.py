"""Serves the server's counts as Prometheus metrics over HTTP.

:mod:`ext_proc.server` and :mod:`ext_proc.workers.supervisor` serve one endpoint per server. Labels hold only names from
a document and causes from lists of ours, so no client can add metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from abmesh.experiment.errors import StartError
from abmesh.experiment.store import format_generation
from ext_proc.settings import parse_tcp
from ext_proc.telemetry import BUCKETS_US, Config, Counts

_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_IDLE_SHARE: Final = 3.0
"""Time to rest after rendering, as a multiple of the time that it took: scrapes take at most a quarter of a core."""


_REFUSED: Final = "Connections and messages that the server refused to protect itself, by cause."
_METRICS_REFUSED: Final = "Connections that the metrics port refused or cut off, by cause."


@contextlib.asynccontextmanager
async def serve_metrics(
    address: str | None, collectors: Iterable[Collector], config: Callable[[], Config]
) -> AsyncIterator[str | None]:
    """Serve metrics, ``/generation`` and ``/healthz`` while the context lasts.

    Args:
        address: ``HOST:PORT``, or None to serve none.
        collectors: the metrics to serve.
        config: the state of the configuration when it is called.

    Yields:
        The endpoint's URL with its real port, or None.

    Raises:
        StartError: the endpoint cannot listen on the address.
    """
    if address is None:
        yield None
        return
    # Late imports: they take 15 MB, which workers and a server without metrics do not need.
    from aiohttp import web

    from abmesh.serving import HttpServer

    wanted = parse_tcp(address, "--metrics")
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    rendered = Rendered(lambda: generate_latest(registry))

    async def page() -> web.Response:
        return web.Response(body=await rendered.text(), headers={"content-type": _CONTENT_TYPE})

    async def generation() -> web.Response:
        found = generation_page(config())
        return web.json_response(found, status=503 if found["generation"] is None else 200)

    async def health() -> web.Response:
        found = health_page(config())
        return web.json_response(found, status=200 if found["serving"] else 503)

    server = HttpServer({"/metrics": page, "/generation": generation, "/healthz": health})
    registry.register(_Refusals(server.refused))
    try:
        bound = await server.start(wanted.host, wanted.port)
    except StartError as error:
        raise StartError(f"--metrics: {error}") from error
    try:
        yield f"http://{bound}/metrics"
    finally:
        await server.stop()


def generation_page(config: Config) -> dict[str, Any]:
    """What is in force: ``generation``, None if nothing is, and in a cluster a digest of each experiment."""
    present = None if config.generation is None else format_generation(config.generation)
    return {"generation": present, "experiments": {n: format_generation(d) for n, d in config.digests.items()}}


def health_page(config: Config) -> dict[str, Any]:
    """Whether requests are assigned, and what is wrong even so: neither trouble nor a refusal fails traffic."""
    return {"serving": config.generation is not None, "trouble": config.trouble, "refused": config.error}


class Rendered:
    """The metrics as text, rendered in a thread while requests are answered.

    Whoever asks gets numbers from after the question. Those who ask while another text is being rendered share the
    next one, so that no number of scrapes takes more than a bounded share of the processor from requests.
    """

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._next: asyncio.Task[bytes] | None = None
        self._one = asyncio.Lock()
        self._rests_until = 0.0

    async def text(self) -> bytes:
        """A new text."""
        if self._next is None:
            self._next = asyncio.create_task(self._make())
        return await asyncio.shield(self._next)

    async def _make(self) -> bytes:
        loop = asyncio.get_running_loop()
        async with self._one:
            await asyncio.sleep(self._rests_until - loop.time())
            self._next = None
            begun = loop.time()
            try:
                return await asyncio.to_thread(self._render)
            finally:
                self._rests_until = loop.time() + _IDLE_SHARE * (loop.time() - begun)


class _Refusals(Collector):
    """What the metrics port itself refused."""

    def __init__(self, refused: Mapping[str, int]) -> None:
        self._refused = refused

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily("abmesh_ext_proc_metrics_refused", _METRICS_REFUSED, labels=("cause",))
        for cause, count in list(self._refused.items()):
            family.add_metric((cause,), count)
        yield family


class Processes(Collector):
    """The standard ``process_*`` metrics: of this process, or of several, each with a label ``worker``."""

    def __init__(self, workers: Callable[[], Mapping[str, int]] | None = None) -> None:
        """Without ``workers``, of this process; else of those that it returns, process ids by label, at each scrape."""
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """The metric families, for one scrape."""
        if self._workers is None:
            yield from ProcessCollector(registry=None).collect()
            return
        families: dict[str, Metric] = {}
        for worker, pid in self._workers().items():
            for found in ProcessCollector(pid=_returning(pid), registry=None).collect():
                family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
                for sample in found.samples:
                    family.add_sample(sample.name, {"worker": worker}, sample.value)
        yield from families.values()


def _returning(pid: int) -> Callable[[], int]:
    return lambda: pid


class Exposition(Collector):
    """Exports counts as Prometheus metric families."""

    def __init__(self, counts: Callable[[], Counts], now: Callable[[], float]) -> None:
        """Export what ``counts`` returns at each scrape; ``now`` returns seconds since the epoch."""
        self._counts = counts
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """The metric families, for one scrape."""
        counts = self._counts()
        requests = CounterMetricFamily(
            "abmesh_ext_proc_requests",
            "Requests by experiment, variant and reason.",
            labels=("experiment", "variant", "reason"),
        )
        for key, count in list(counts.requests.items()):
            requests.add_metric(key, count)
        yield requests
        yield _by_kind("abmesh_ext_proc_messages", "Messages from Envoy by kind.", counts.messages)
        yield _by_kind("abmesh_ext_proc_errors", "Errors by kind.", counts.errors)
        refused = CounterMetricFamily("abmesh_ext_proc_refused", _REFUSED, labels=("cause",))
        for cause, count in list(counts.refused.items()):
            refused.add_metric((cause,), count)
        yield refused
        yield _processing(counts)
        yield from self._config(counts.config)

    def _config(self, config: Config) -> Iterator[Metric]:
        generation = config.generation
        if generation is not None:
            yield GaugeMetricFamily("abmesh_config_generation", "Generation of the document in force.", generation)
            yield GaugeMetricFamily(
                "abmesh_config_loaded_timestamp_seconds",
                "When the document in force took effect, in seconds since the epoch.",
                config.loaded_at,
            )
            age = max(0.0, self._now() - config.loaded_at)
            yield GaugeMetricFamily(
                "abmesh_config_age_seconds", "How long the document in force has been in force.", age
            )
        yield CounterMetricFamily("abmesh_config_rejected", "Refused edits of the document.", config.rejected)
        yield GaugeMetricFamily(
            "abmesh_config_followed", "1 while changes are followed, 0 while they cannot be.", int(not config.trouble)
        )
        yield GaugeMetricFamily(
            "abmesh_config_valid", "1 while the newest edit is in force, 0 while it is refused.", int(config.valid)
        )


def _by_kind(name: str, documentation: str, counts: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=("kind",))
    for kind, count in list(counts.items()):
        family.add_metric((kind,), count)
    return family


def _processing(counts: Counts) -> Metric:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*BUCKETS_US, None), list(counts.durations), strict=True):
        total += count
        buckets.append(("+Inf" if bound is None else repr(bound / 1e6), total))
    family = HistogramMetricFamily(
        "abmesh_ext_proc_processing_seconds", "Processing time of one message, without the transport's share."
    )
    family.add_metric((), buckets, counts.duration_ns / 1e9)
    return family
