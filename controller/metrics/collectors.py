"""Metrics of what others keep, read when they are scraped: refused connections, the routes file, stale Envoys.

Registered by :mod:`controller.metrics.telemetry`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.routes.filters_status import FiltersStatus
from controller.routes.publisher import RoutesStatus
from controller.sources.renderings import Renderings


class HttpMetrics(Collector):
    """Connections that ``/metrics`` and ``/healthz`` refused, read when they are scraped."""

    def __init__(self, refused: Mapping[str, int]) -> None:
        self._refused = refused

    def collect(self) -> Iterator[Metric]:
        """The family, for one scrape."""
        text = "Connections to --http that were refused or cut off."
        family = CounterMetricFamily("abmesh_controller_http_refused", text, labels=("cause",))
        for cause, count in self._refused.items():
            family.add_metric((cause,), count)
        yield family


class RoutesMetrics(Collector):
    """The metrics of the routes file, read when they are scraped."""

    def __init__(self, status: RoutesStatus) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """The families, for one scrape."""
        status = self._status
        text = "Generation of the document whose routes the file holds; absent before the first write."
        generation = GaugeMetricFamily("abmesh_routes_generation", text)
        if status.generation is not None:
            generation.add_metric((), status.generation)
        yield generation
        text = "0 while an error keeps the routes file behind the newest valid document, else 1."
        yield GaugeMetricFamily("abmesh_routes_published", text, not status.error)
        yield CounterMetricFamily("abmesh_routes_writes", "Writes of the routes file.", status.writes)
        text = "Envoys that still do not serve the published routes after the settle time."
        yield GaugeMetricFamily("abmesh_routes_envoys_behind", text, len(status.behind))
        text = "Failures to write the routes file or to watch the document."
        yield CounterMetricFamily("abmesh_routes_failures", text, status.failures)


class FiltersMetrics(Collector):
    """The metrics of EnvoyFilters, read when they are scraped; a standby has none to tell of."""

    def __init__(self, status: FiltersStatus) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """The families, for one scrape."""
        status = self._status
        text = "EnvoyFilters by whether they are as they should be; those that are not are held back for a reason."
        filters = GaugeMetricFamily("abmesh_filters", text, labels=("state",))
        filters.add_metric(("kept",), status.kept)
        filters.add_metric(("held",), len(status.held))
        yield filters
        text = "Experiments whose routes are not split as they should be, by the reason of their condition Programmed."
        refused = GaugeMetricFamily("abmesh_filters_experiments_refused", text, labels=("reason",))
        for reason, count in sorted(Counter(status.refusals.values()).items()):
            refused.add_metric((reason,), count)
        yield refused
        text = "EnvoyFilters applied, pruned, and taken back because proxies refused something."
        writes = CounterMetricFamily("abmesh_filters_writes", text, labels=("action",))
        for action in ("apply", "prune", "take_back"):
            writes.add_metric((action,), status.writes[action])
        yield writes
        text = "How often proxies refused something right after an EnvoyFilter was written."
        yield CounterMetricFamily("abmesh_filters_rejects", text, status.rejects)
        text = "0 while something keeps EnvoyFilters from being brought up to date, else 1."
        yield GaugeMetricFamily("abmesh_filters_current", text, not status.trouble)


class RenderingsMetrics(Collector):
    """What Envoys were rendered from, compared with the document when the metrics are scraped."""

    def __init__(self, renderings: Renderings) -> None:
        self._renderings = renderings

    def collect(self) -> Iterator[Metric]:
        """The families, for one scrape."""
        found, stale = self._renderings, self._renderings.stale
        text = "Envoys by whether they were rendered from the document in force; unknown if they do not say."
        envoys = GaugeMetricFamily("abmesh_envoys_rendered", text, labels=("state",))
        unknown = len(found.unknown)
        envoys.add_metric(("current",), len(found.envoys) - len(stale) - unknown)
        envoys.add_metric(("stale",), len(stale))
        envoys.add_metric(("unknown",), unknown)
        yield envoys
        text = "1 for each part of the document that has changed since this Envoy was rendered."
        parts = GaugeMetricFamily("abmesh_envoy_stale", text, labels=("envoy", "part"))
        for envoy, names in stale.items():
            for name in names:
                parts.add_metric((envoy, name), 1)
        yield parts
