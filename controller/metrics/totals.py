"""What was counted of every experiment since this controller began to lead, for its metrics. Pure.

Evidence belongs to a stage of a rollout and ends with it; a counter of Prometheus' goes on. So every experiment of the
document, with a rollout or without, has a window of its own that is never closed. What it costs at a tick is one
difference of arrays for each Envoy; sums are made only when somebody asks for them.

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
from controller.evidence.window import Reading, Window, extend, open_window

REMEMBERED = timedelta(hours=24)
"""How long the last reading of an Envoy that stays away is kept; where Envoys come and go, they would be many."""

Place = tuple[str, str | None]
"""Variant, and segment; None for all its users."""


@dataclass(slots=True)
class Sums:
    """What a place counted.

    Attributes:
        codes: requests by response code.
        amounts: sums by name.
        buckets: requests by histogram, for each bound and above the last, shape (bounds + 1,); not cumulative.
        middles: sum of the middles of all bins by histogram, in milliseconds.
    """

    codes: dict[int, int] = field(default_factory=dict)
    amounts: dict[str, int] = field(default_factory=dict)
    buckets: dict[str, list[int]] = field(default_factory=dict)
    middles: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The account of one experiment.

    Attributes:
        window: everything that was counted.
        prices: in force, by variant.
        spent: dollars up to the last change of prices, by place.
        paid: input and output tokens that these paid for, by place.
    """

    window: Window
    prices: Mapping[str, Price] = field(default_factory=dict)
    spent: Mapping[Place, float] = field(default_factory=dict)
    paid: Mapping[Place, tuple[int, int]] = field(default_factory=dict)


def open_ledger(prices: Mapping[str, Price], at: datetime) -> Ledger:
    """An account that begins at a time: an Envoy that has counted for long before starts from its first reading."""
    return Ledger(open_window({}, at), prices)


def entered(ledger: Ledger, readings: Mapping[str, Reading], prices: Mapping[str, Price], at: datetime) -> Ledger:
    """The account with further readings. Tokens that were counted before a price changed cost what they cost then."""
    if prices != ledger.prices:
        places = sums(ledger.window)
        spent = {place: dollars for place in places if (dollars := cost(ledger, place, places[place])) is not None}
        paid = {place: _tokens(found) for place, found in places.items()}
        ledger = replace(ledger, prices=prices, spent=spent, paid=paid)
    return replace(ledger, window=_forgetting(extend(ledger.window, readings), at - REMEMBERED))


def sums(window: Window) -> dict[Place, Sums]:
    """Everything that was counted, by variant and by segment, over slices and groups."""
    found: dict[Place, Sums] = {}
    for (variant, where, what), count in window.totals.counters.items():
        here = found.setdefault((variant, where if isinstance(where, str) else None), Sums())
        if isinstance(what, str):
            here.amounts[what] = here.amounts.get(what, 0) + count
        else:
            here.codes[what] = here.codes.get(what, 0) + count
    for (variant, histogram, where, lower, width), count in window.totals.histograms.items():
        here = found.setdefault((variant, where if isinstance(where, str) else None), Sums())
        buckets = here.buckets.setdefault(histogram, [0] * (len(BOUNDS_MS) + 1))
        buckets[bisect_left(BOUNDS_MS, lower + width)] += count
        here.middles[histogram] = here.middles.get(histogram, 0.0) + count * (lower + width / 2)
    return found


def cost(ledger: Ledger, place: Place, found: Sums) -> float | None:
    """US dollars that a place's tokens cost; None if its variant has and had no price."""
    price, spent = ledger.prices.get(place[0]), ledger.spent.get(place)
    if price is None:
        return spent
    before, now = ledger.paid.get(place, (0, 0)), _tokens(found)
    new = (now[0] - before[0]) * price.input + (now[1] - before[1]) * price.output
    return (spent or 0.0) + new / 10**6


def _tokens(found: Sums) -> tuple[int, int]:
    return found.amounts.get(metrics.INPUT_TOKENS, 0), found.amounts.get(metrics.OUTPUT_TOKENS, 0)


def _forgetting(window: Window, before: datetime) -> Window:
    """The window without Envoys that were last heard of before a time.

    It then begins no earlier: one of them that comes back must not be taken for one that began to count within it.
    """
    kept = {envoy: reading for envoy, reading in window.seen.items() if reading.at >= before}
    if len(kept) == len(window.seen):
        return window
    return replace(window, since=max(window.since, before), seen=kept)
