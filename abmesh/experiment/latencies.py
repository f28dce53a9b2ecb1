"""Bounds of latencies where Prometheus reads them: of Envoy's histograms and of the controller's. Pure.

Envoy's own bins are finer, about 90 to a power of ten, but only its admin endpoint shows them. A Prometheus histogram
has the buckets that it was set up with, and two of them can be compared or added only where their bounds are the same.
So there is one list.
"""

from __future__ import annotations

import math
from typing import Final

_SERIES: Final = (10, 12, 15, 18, 22, 27, 33, 39, 47, 56, 68, 82)
"""E12, the preferred numbers of IEC 60063: a bucket's middle is within 10% of all that it holds."""

_LONGEST_MS: Final = 600_000

BOUNDS_MS: Final = (
    *range(1, 10),  # Envoy's durations are whole milliseconds
    *(bound for power in range(5) for number in _SERIES if (bound := number * 10**power) < _LONGEST_MS),
    _LONGEST_MS,
)
"""Upper bounds in milliseconds, from 1 ms to 10 minutes. Each ends one of Envoy's own bins, so that a bin lies in one
bucket as a whole."""


def bin_width(value: float) -> float:
    """The width of Envoy's bin that begins at a value: bins have two significant digits, ``10, 11, .. 100, 110``."""
    return float(10 ** (math.floor(math.log10(value)) - 1)) if value > 0 else 0.0


def last_bin(bound: int) -> float:
    """Where the last of Envoy's bins below a bound begins: 110 for 120, and 99 for 100.

    A bucket of Envoy's holds every bin that begins at or below its bound, so this is the bound that makes it end there.
    """
    width = bin_width(bound)
    # Below a power of ten, bins are a tenth as wide as above it.
    return round(bound - (width / 10 if bound == width * 10 else width), 6)
