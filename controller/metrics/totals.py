"""What each experiment's variants did since this controller began to lead, for its metrics. Pure.

Evidence ends with a rollout's stage; a Prometheus counter goes on. So every experiment in the document, with or without
a rollout, has a window that never closes. A tick costs one difference of arrays for each Envoy; sums are computed only
when somebody scrapes the metrics.

Called by :mod:`controller.metrics.variants`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from abmesh.experiment import metrics
from abmesh.experiment.latencies import BOUNDS_MS
from abmesh.experiment.parts import Price
from controller.evidence.counts import segment_of
from controller.evidence.window import Reading, Window, extend, open_window

FORGET_AFTER = timedelta(hours=24)
"""How long an absent Envoy's last reading is kept. In a fleet where Envoys come and go, they would pile up."""

VariantSegment = tuple[str, str | None]
"""Variant, and segment; None for all users of the variant."""


@dataclass(slots=True)
class SegmentTotals:
    """What was counted for one variant, or for one segment of its users.

    Attributes:
        codes: requests by response code.
        amounts: sums by name.
        buckets: by histogram, the requests in each bucket and beyond the last, shape (bounds + 1,); not cumulative.
        middles: by histogram, the sum of each request's bin middle, in milliseconds.
    """

    codes: dict[int, int] = field(default_factory=dict)
    amounts: dict[str, int] = field(default_factory=dict)
    buckets: dict[str, list[int]] = field(default_factory=dict)
    middles: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunningTotals:
    """Everything counted for one experiment, and what it cost.

    Attributes:
        window: what was counted.
        prices: the prices in force, by variant.
        spent: dollars spent before the prices last changed, by variant and segment.
        paid: the input and output tokens that this paid for, by variant and segment.
    """

    window: Window
    prices: Mapping[str, Price] = field(default_factory=dict)
    spent: Mapping[VariantSegment, float] = field(default_factory=dict)
    paid: Mapping[VariantSegment, tuple[int, int]] = field(default_factory=dict)


def start_totals(prices: Mapping[str, Price], at: datetime) -> RunningTotals:
    """Totals that start from each Envoy's first reading, whatever it counted before."""
    return RunningTotals(open_window({}, at), prices)


def add_readings(
    totals: RunningTotals, readings: Mapping[str, Reading], prices: Mapping[str, Price], at: datetime
) -> RunningTotals:
    """Add readings to the totals. Tokens counted before a price change keep the cost that they had."""
    if prices != totals.prices:
        parts = by_segment(totals.window)
        spent = {key: dollars for key, part in parts.items() if (dollars := cost(totals, key, part)) is not None}
        paid = {key: _tokens(part) for key, part in parts.items()}
        totals = replace(totals, prices=prices, spent=spent, paid=paid)
    return replace(totals, window=_forget_absent(extend(totals.window, readings), at - FORGET_AFTER))


def by_segment(window: Window) -> dict[VariantSegment, SegmentTotals]:
    """Everything that was counted, by variant and by segment, over all slices and groups."""
    found: dict[VariantSegment, SegmentTotals] = {}
    for (variant, where, what), count in window.totals.counters.items():
        here = found.setdefault((variant, _segment(where)), SegmentTotals())
        if isinstance(what, str):
            here.amounts[what] = here.amounts.get(what, 0) + count
        else:
            here.codes[what] = here.codes.get(what, 0) + count
    for (variant, histogram, where, lower, width), count in window.totals.histograms.items():
        here = found.setdefault((variant, _segment(where)), SegmentTotals())
        buckets = here.buckets.setdefault(histogram, [0] * (len(BOUNDS_MS) + 1))
        buckets[bisect_left(BOUNDS_MS, lower + width)] += count
        here.middles[histogram] = here.middles.get(histogram, 0.0) + count * (lower + width / 2)
    return found


def _segment(where: int | str) -> str | None:
    return segment_of(where)[0] if isinstance(where, str) else None


def cost(totals: RunningTotals, key: VariantSegment, part: SegmentTotals) -> float | None:
    """US dollars that the tokens of a variant or segment cost; None if the variant never had a price."""
    price, spent = totals.prices.get(key[0]), totals.spent.get(key)
    if price is None:
        return spent
    before, now = totals.paid.get(key, (0, 0)), _tokens(part)
    new = (now[0] - before[0]) * price.input + (now[1] - before[1]) * price.output
    return (spent or 0.0) + new / 10**6


def _tokens(part: SegmentTotals) -> tuple[int, int]:
    return part.amounts.get(metrics.INPUT_TOKENS, 0), part.amounts.get(metrics.OUTPUT_TOKENS, 0)


def _forget_absent(window: Window, before: datetime) -> Window:
    """The window without Envoys whose last reading is older than a time.

    It then begins no earlier than that time, so that an Envoy that comes back is not taken for one that started inside
    the window, which would count its requests twice.
    """
    kept = {envoy: reading for envoy, reading in window.seen.items() if reading.at >= before}
    if len(kept) == len(window.seen):
        return window
    return replace(window, since=max(window.since, before), seen=kept)
