"""Serves the server's counts as Prometheus metrics over HTTP.

:mod:`ext_proc.server` and :mod:`ext_proc.workers.supervisor` serve one endpoint per server. Labels hold only names from
a document, so no client can add metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from abmesh.experiment.errors import StartError
from ext_proc.settings import Tcp, parse_tcp
from ext_proc.telemetry import BUCKETS_US, Config, Counts


@contextlib.asynccontextmanager
async def serve_metrics(address: str | None, collectors: Iterable[Collector]) -> AsyncIterator[str | None]:
    """Serve metrics while the context lasts.

    Args:
        address: ``HOST:PORT``, or None to serve none.
        collectors: the metrics to serve.

    Yields:
        The endpoint's URL with its real port, or None.

    Raises:
        StartError: the endpoint cannot listen on the address.
    """
    if address is None:
        yield None
        return
    wanted = parse_tcp(address, "--metrics")
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    try:
        server, thread = start_http_server(wanted.port, wanted.host, registry)
    except OSError as error:
        raise StartError(f"--metrics: cannot listen on {wanted}: {error.strerror or error}") from error
    try:
        yield f"http://{Tcp(wanted.host, server.server_port)}/metrics"
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


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
