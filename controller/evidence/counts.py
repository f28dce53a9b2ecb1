"""Counts of one experiment: what Envoy measures, as integers that can be added. Pure.

Counts from different Envoys, or from different spans of time, add up; the order does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

RequestKey = tuple[str, int, int]
"""Variant, slice, response code. Code 0: the client went away before there was a response."""

DurationKey = tuple[str, int]
"""Variant, slice."""

BinKey = tuple[str, int, float, float]
"""Variant, group of slices, the bin's lower bound and its width, both in milliseconds."""

_Key = TypeVar("_Key", RequestKey, DurationKey, BinKey)


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted for one experiment.

    Attributes:
        requests: finished requests, aborted ones (code 0) included.
        duration_ms: sum of the durations of all of them, in milliseconds.
        bins: how many of them lasted as long as a bin of Envoy's histogram says.
    """

    requests: Mapping[RequestKey, int] = field(default_factory=dict)
    duration_ms: Mapping[DurationKey, int] = field(default_factory=dict)
    bins: Mapping[BinKey, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.requests or self.duration_ms or self.bins)


NOTHING = Counts()


def add(parts: Iterable[Counts]) -> Counts:
    """The sum of counts; of none, nothing."""
    requests: dict[RequestKey, int] = {}
    duration_ms: dict[DurationKey, int] = {}
    bins: dict[BinKey, int] = {}
    for part in parts:
        _add_into(requests, part.requests)
        _add_into(duration_ms, part.duration_ms)
        _add_into(bins, part.bins)
    return Counts(requests, duration_ms, bins)


def _add_into(total: dict[_Key, int], part: Mapping[_Key, int]) -> None:
    for key, count in part.items():
        total[key] = total.get(key, 0) + count
