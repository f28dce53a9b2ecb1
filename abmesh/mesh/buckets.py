"""The buckets of Envoy's histograms in Prometheus's text format. Pure; called by :mod:`abmesh.mesh.bootstrap`.

Envoy's admin endpoint can show all of its own bins, about 90 per power of ten. Prometheus's format has only configured
buckets, by default three per power of ten, which cannot tell 300 from 500 ms.
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.metrics.v3 import HistogramBucketSettings, StatsConfig
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from abmesh.experiment import names
from abmesh.experiment.latencies import BOUNDS_MS, last_bin

BUCKETS_MS: Final = tuple(map(last_bin, BOUNDS_MS))
"""Bounds as Envoy reads them: a bound of 99 counts what is below 100; one of 100 would count 105 as well (tried)."""


def stats_config() -> StatsConfig:
    """Buckets for our own histograms only."""
    ours = StringMatcher(prefix=f"{names.STATS_SCOPE}.")
    return StatsConfig(histogram_bucket_settings=[HistogramBucketSettings(match=ours, buckets=list(BUCKETS_MS))])
