"""The buckets that Envoy's histograms have where they are read in Prometheus's form. Pure; called by mesh.bootstrap.

Envoy's admin endpoint gives every bin of its own, of which there are about 90 to a power of ten. Prometheus's form has
only configured buckets, and by default three to a power of ten, in which nobody can tell 300 from 500 ms.
"""

from __future__ import annotations

from typing import Final

from envoy_data_plane.envoy.config.metrics.v3 import HistogramBucketSettings, StatsConfig
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from experiment import names

_SERIES: Final = (10, 12, 15, 18, 22, 27, 33, 39, 47, 56, 68, 82)
"""E12, the preferred numbers of IEC 60063: a bucket's middle is within 10% of all that it holds."""

_LONGEST_MS: Final = 600_000

BUCKETS_MS: Final = (
    *range(1, 10),  # Envoy's durations are whole milliseconds
    *(bound for power in range(5) for number in _SERIES if (bound := number * 10**power) < _LONGEST_MS),
    _LONGEST_MS,
)
"""Upper bounds in milliseconds, from 1 ms to 10 minutes."""


def stats_config() -> StatsConfig:
    """For our histograms alone."""
    ours = StringMatcher(prefix=f"{names.STATS_SCOPE}.")
    buckets = [float(bound) for bound in BUCKETS_MS]
    return StatsConfig(histogram_bucket_settings=[HistogramBucketSettings(match=ours, buckets=buckets)])
