"""Bounds of latencies that Prometheus sees: in Envoy's histograms and in the controller's. Pure.

Envoy's own histograms are finer, but only its admin endpoint shows them. A Prometheus histogram has the buckets that it
was set up with, and two of them can be compared or added only where their bounds are the same. So there is one list.
"""

from __future__ import annotations

import math
from typing import Final

BOUNDS_MS: Final[tuple[int, ...]] = (
    *(1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80),
    *(100, 120, 150, 200, 250, 300, 400, 500, 600, 800),
    *(1_000, 1_200, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 6_000, 8_000),
    *(10_000, 12_000, 15_000, 20_000, 25_000, 30_000, 40_000, 60_000),
    *(120_000, 300_000, 600_000),
)
"""Upper bounds in milliseconds, a quarter or so apart where models answer. Each is a bound of one of Envoy's own bins,
so that a bin lies in one bucket as a whole."""


def bin_width(value: float) -> float:
    """The width of Envoy's bin that begins at a value: bins have two significant digits, ``10, 11, .. 100, 110``."""
    return float(10 ** (math.floor(math.log10(value)) - 1)) if value > 0 else 0.0


def last_bin(bound: float) -> float:
    """Where the last of Envoy's bins below a bound begins: 990 for 1000, 110 for 120."""
    width = bin_width(bound)
    narrower = width / 10
    # Below a power of ten, bins are a tenth as wide as above it.
    return bound - (narrower if bound == width * 10 else width)
