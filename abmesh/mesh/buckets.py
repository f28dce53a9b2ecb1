"""The buckets that Envoy's histograms have where they are read in Prometheus's form. Pure; called by mesh.bootstrap.

Envoy's admin endpoint gives every bin of its own, of which there are about 90 to a power of ten. Prometheus's form has
only configured buckets, and by default three to a power of ten, in which nobody can tell 300 from 500 ms.
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.metrics.v3 import HistogramBucketSettings, StatsConfig
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from abmesh.experiment import names
from abmesh.experiment.latencies import BOUNDS_MS, last_bin

BUCKETS_MS: Final = tuple(map(last_bin, BOUNDS_MS))
"""Bounds as Envoy takes them: one of 99 counts what is below 100; one of 100 would count 105 as well (tried)."""


def stats_config() -> StatsConfig:
    """For our histograms alone."""
    ours = StringMatcher(prefix=f"{names.STATS_SCOPE}.")
    return StatsConfig(histogram_bucket_settings=[HistogramBucketSettings(match=ours, buckets=list(BUCKETS_MS))])
