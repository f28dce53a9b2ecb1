"""Counts of one experiment: what Envoy measures, as integers that can be added. Pure.

Counts from different Envoys, or from different spans of time, add up; the order does not matter.

A tick over hundreds of Envoys deals with millions of counts, so they are kept as arrays: an :class:`Index` gives every
key a small number, and a :class:`Series` is the numbers that were seen beside their counts. Whoever reads counts sees
mappings from keys. Arithmetic is exact: whatever comes near the limits of 64 bits is kept as Python's own integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

RequestKey = tuple[str, int, int]
"""Variant, slice, response code. Code 0: the client went away before there was a response."""

AmountKey = tuple[str, int, str]
"""Variant, slice, amount (see :mod:`abmesh.experiment.metrics`)."""

SegmentKey = tuple[str, str, int | str]
"""Variant, segment, and a response code or an amount."""

BinKey = tuple[str, str, int | str, float, float]
"""Variant, histogram, group of slices or segment, the bin's lower bound and its width, both in milliseconds."""

CounterKey = tuple[str, int | str, int | str]
"""Any of these three; their types tell which."""

Numbers = NDArray[np.int32]
Values = NDArray[Any]
"""Integers of 32 bits; of 64 bits below ``SMALL``; or, if any is not, Python's integers in an array of objects."""

SMALL = 2**48
"""Counts below it are kept in 64 bits at most, so that sums of up to ``MOST_PARTS`` of them fit as well."""

MOST_PARTS = 2**14

_FLOATS = 2**53
"""Sums below it are exact in floating point as well, in which numpy adds fastest."""

_Key = TypeVar("_Key")


class Keys(Generic[_Key]):
    """Keys of one kind, numbered from 0 in the order in which they were met. It only grows."""

    __slots__ = ("__weakref__", "_numbers", "_translations", "known")

    def __init__(self) -> None:
        self.known: list[_Key] = []
        self._numbers: dict[_Key, int] = {}
        self._translations: WeakKeyDictionary[Keys[_Key], Numbers] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self.known)

    def number(self, key: _Key) -> int:
        """The key's number, a new one if it has none."""
        number = self._numbers.setdefault(key, len(self.known))
        if number == len(self.known):
            self.known.append(key)
        return number

    def translation(self, other: Keys[_Key]) -> Numbers:
        """This one's number of each of the other's keys, shape (len(other),)."""
        made = self._translations.get(other)
        if made is None or len(made) < len(other):
            made = np.fromiter(map(self.number, other.known), np.int32, len(other))
            self._translations[other] = made
        return made


class Index:
    """What the numbers of one experiment's counts mean."""

    __slots__ = ("bins", "counters")

    def __init__(self) -> None:
        self.counters: Keys[CounterKey] = Keys()
        self.bins: Keys[BinKey] = Keys()


class Series(Generic[_Key]):
    """Counts of one kind.

    Args:
        keys: what the numbers mean.
        numbers: of the keys that were seen, each at most once, in any order; shape (seen,).
        values: their counts, none negative; shape (seen,).
    """

    __slots__ = ("keys", "numbers", "values")

    def __init__(self, keys: Keys[_Key], numbers: Numbers, values: Values) -> None:
        self.keys = keys
        self.numbers = numbers
        self.values = values

    @classmethod
    def of(cls, keys: Keys[_Key], counts: Mapping[_Key, int]) -> Series[_Key]:
        """The series of a mapping."""
        numbers = np.fromiter(map(keys.number, counts), np.int32, len(counts))
        return cls(keys, numbers, values_of(list(counts.values())))

    def __len__(self) -> int:
        return len(self.numbers)

    def items(self) -> Iterable[tuple[_Key, int]]:
        """Every key with its count."""
        return zip(map(self.keys.known.__getitem__, self.numbers.tolist()), self.values.tolist(), strict=True)

    def under(self, keys: Keys[_Key]) -> Series[_Key]:
        """The same counts, numbered by other keys."""
        if keys is self.keys:
            return self
        return Series(keys, keys.translation(self.keys)[self.numbers], self.values)

    def same(self, other: Series[_Key]) -> bool:
        """Whether the same keys have the same counts."""
        if self.keys is other.keys and np.array_equal(self.numbers, other.numbers):
            return bool(np.array_equal(self.values, other.values))
        return len(self) == len(other) and dict(self.items()) == dict(other.items())

    def since(self, earlier: Series[_Key]) -> tuple[Series[_Key], bool]:
        """What was counted since an earlier reading.

        Returns:
            What grew, by how much; and whether any count that is in both went back, in which case the former means
            nothing.
        """
        earlier = earlier.under(self.keys)
        if self.numbers is earlier.numbers or np.array_equal(self.numbers, earlier.numbers):
            before = earlier.values
        else:
            spread = np.zeros(len(self.keys), earlier.values.dtype)
            spread[earlier.numbers] = earlier.values
            before = spread[self.numbers]
        grown = self.values - before
        least = grown.min() if len(grown) else 0
        if least > 0:
            return Series(self.keys, self.numbers, narrowest(grown)), False
        more = grown > 0
        return Series(self.keys, self.numbers[more], narrowest(grown[more])), bool(least < 0)


def values_of(counts: Sequence[int]) -> Values:
    """Counts as an array that holds them exactly."""
    return narrowest(np.array(counts, dtype=_kind(max(counts, default=0))))


def narrowest(values: Values) -> Values:
    """The same values in the fewest bytes that differences and sums of them allow."""
    kind = _kind(int(values.max())) if len(values) else np.int32
    return values if values.dtype == kind else values.astype(kind)


def _kind(largest: int) -> type[Any]:
    return np.int32 if largest < 2**31 else np.int64 if largest < SMALL else object


def _sum(parts: Sequence[Series[_Key]]) -> Series[_Key]:
    """The sum of one or more series, in the numbers of the last."""
    keys = parts[-1].keys
    aligned = [part.under(keys) for part in parts if len(part)]
    if not aligned:
        return Series(keys, np.zeros(0, np.int32), np.zeros(0, np.int32))
    joined = np.concatenate([part.numbers for part in aligned])
    values = np.concatenate([part.values for part in aligned])
    seen = np.bincount(joined, minlength=len(keys)) > 0
    total: Values
    if values.dtype != object and int(values.max()) * len(aligned) < _FLOATS:
        total = np.bincount(joined, values, len(keys)).astype(np.int64)
    else:
        exact = len(aligned) >= MOST_PARTS or values.dtype == object
        total = np.zeros(len(keys), object if exact else np.int64)
        np.add.at(total, joined, values)
    numbers = np.flatnonzero(seen).astype(np.int32)
    return Series(keys, numbers, narrowest(total[numbers]))


@dataclass(frozen=True, slots=True)
class _Views:
    requests: dict[RequestKey, int]
    amounts: dict[AmountKey, int]
    segments: dict[SegmentKey, int]
    bins: dict[BinKey, int]


class Counts:
    """What was counted for one experiment. It never changes.

    Args:
        requests: finished requests, aborted ones (code 0) included.
        amounts: sums over them, such as their durations in milliseconds, or the tokens that they took.
        bins: how many of them lasted as long as a bin of one of Envoy's histograms says.
        segments: requests and amounts again, by segment.

    Attributes:
        counters: requests, amounts and segments as one series.
        histograms: bins as a series.
    """

    __slots__ = ("_views", "counters", "histograms")

    def __init__(
        self,
        requests: Mapping[RequestKey, int] | None = None,
        amounts: Mapping[AmountKey, int] | None = None,
        bins: Mapping[BinKey, int] | None = None,
        segments: Mapping[SegmentKey, int] | None = None,
    ) -> None:
        index = Index()
        counters: dict[CounterKey, int] = {}
        for part in (requests or {}, amounts or {}, segments or {}):
            counters.update({key: count for key, count in part.items()})  # noqa: C416  a copy under the wider type
        self.counters: Series[CounterKey] = Series.of(index.counters, counters)
        self.histograms: Series[BinKey] = Series.of(index.bins, bins or {})
        self._views: _Views | None = None

    @classmethod
    def of(cls, counters: Series[CounterKey], histograms: Series[BinKey]) -> Counts:
        """Counts of series."""
        counts = cls.__new__(cls)
        counts.counters, counts.histograms, counts._views = counters, histograms, None
        return counts

    @property
    def requests(self) -> Mapping[RequestKey, int]:
        """Finished requests by variant, slice and code."""
        return self._seen().requests

    @property
    def amounts(self) -> Mapping[AmountKey, int]:
        """Sums by variant, slice and amount."""
        return self._seen().amounts

    @property
    def segments(self) -> Mapping[SegmentKey, int]:
        """Finished requests by variant, segment and code; sums by variant, segment and amount."""
        return self._seen().segments

    @property
    def bins(self) -> Mapping[BinKey, int]:
        """Finished requests by variant, histogram, group or segment, and how long they took."""
        return self._seen().bins

    def __bool__(self) -> bool:
        return bool(len(self.counters) or len(self.histograms))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Counts):
            return NotImplemented
        return self.counters.same(other.counters) and self.histograms.same(other.histograms)

    def __hash__(self) -> int:
        return hash((len(self.counters), len(self.histograms)))

    def __repr__(self) -> str:
        return f"Counts({self.requests!r}, {self.amounts!r}, {self.bins!r}, {self.segments!r})"

    def _seen(self) -> _Views:
        if self._views is None:
            views = _Views({}, {}, {}, dict(self.histograms.items()))
            for (variant, place, what), count in self.counters.items():
                if isinstance(place, str):
                    views.segments[variant, place, what] = count
                elif isinstance(what, str):
                    views.amounts[variant, place, what] = count
                else:
                    views.requests[variant, place, what] = count
            self._views = views
        return self._views


NOTHING = Counts()


def add(parts: Iterable[Counts]) -> Counts:
    """The sum of counts; of none, nothing."""
    present = [part for part in parts if part]
    if not present:
        return NOTHING
    return Counts.of(_sum([part.counters for part in present]), _sum([part.histograms for part in present]))
