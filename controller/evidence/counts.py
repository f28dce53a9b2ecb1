"""What Envoys counted for one experiment, as integers that can be added. Pure; used throughout ``controller``.

Counts from different Envoys and from different spans of time add up, in any order.

A tick over hundreds of Envoys handles millions of counts, so they are kept as arrays: an :class:`Index` numbers the
keys, and a :class:`Series` holds numbers and their counts. Readers see mappings by key. Arithmetic is exact: values
near the limit of 64 bits become Python integers.
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
"""Variant, place (:func:`place_in`), and a response code or an amount."""

BinKey = tuple[str, str, int | str, float, float]
"""Variant, histogram, group of slices or place, the bin's lower bound and its width, both in milliseconds."""

CounterKey = tuple[str, int | str, int | str]
"""Any of the three above; the types of its parts tell which."""

Numbers = NDArray[np.int32]
Values = NDArray[Any]
"""32-bit integers; 64-bit integers if all are below ``SMALL``; otherwise Python integers in an object array."""

SMALL = 2**48
"""Counts below this are kept in at most 64 bits, so that the sum of up to ``MOST_PARTS`` of them fits, too."""

MOST_PARTS = 2**14

_DOT = "."
"""Between a segment and a group; no segment's name has one."""

_FLOATS = 2**53
"""Sums below this are exact in floating point, which numpy adds fastest."""

_Key = TypeVar("_Key")


def place_in(segment: str, group: int) -> str:
    """The place of a group of slices within a segment: ``power.3``.

    The segment's name alone is the place of what an Envoy that was rendered before counted without groups.
    """
    return f"{segment}{_DOT}{group}"


def segment_of(place: str) -> tuple[str, int | None]:
    """The segment of a place, and its group, if it has one."""
    segment, dot, group = place.partition(_DOT)
    return segment, int(group) if dot else None


class Keys(Generic[_Key]):
    """Numbers keys of one kind from 0, in the order in which they are first seen. It only grows."""

    __slots__ = ("__weakref__", "_numbers", "_translations", "known")

    def __init__(self) -> None:
        self.known: list[_Key] = []
        self._numbers: dict[_Key, int] = {}
        self._translations: WeakKeyDictionary[Keys[_Key], Numbers] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self.known)

    def number(self, key: _Key) -> int:
        """The key's number; a new one if it has none yet."""
        number = self._numbers.setdefault(key, len(self.known))
        if number == len(self.known):
            self.known.append(key)
        return number

    def translation(self, other: Keys[_Key]) -> Numbers:
        """The numbers that ``other``'s keys have here, in the order of ``other``; shape (len(other),)."""
        made = self._translations.get(other)
        if made is None or len(made) < len(other):
            made = np.fromiter(map(self.number, other.known), np.int32, len(other))
            self._translations[other] = made
        return made


class Index:
    """The keys of one experiment's counters and histogram bins."""

    __slots__ = ("bins", "counters")

    def __init__(self) -> None:
        self.counters: Keys[CounterKey] = Keys()
        self.bins: Keys[BinKey] = Keys()


class Series(Generic[_Key]):
    """Counts of one kind, as arrays.

    Args:
        keys: the keys that the numbers stand for.
        numbers: the numbers of the keys that have a count, each at most once, in any order; shape (seen,).
        values: their counts, none negative; shape (seen,).
    """

    __slots__ = ("keys", "numbers", "values")

    def __init__(self, keys: Keys[_Key], numbers: Numbers, values: Values) -> None:
        self.keys = keys
        self.numbers = numbers
        self.values = values

    @classmethod
    def of(cls, keys: Keys[_Key], counts: Mapping[_Key, int]) -> Series[_Key]:
        """Make a series from a mapping."""
        numbers = np.fromiter(map(keys.number, counts), np.int32, len(counts))
        return cls(keys, numbers, values_of(list(counts.values())))

    def __len__(self) -> int:
        return len(self.numbers)

    def items(self) -> Iterable[tuple[_Key, int]]:
        """Every key with its count."""
        return zip(map(self.keys.known.__getitem__, self.numbers.tolist()), self.values.tolist(), strict=True)

    def under(self, keys: Keys[_Key]) -> Series[_Key]:
        """The same counts, renumbered by other keys."""
        if keys is self.keys:
            return self
        return Series(keys, keys.translation(self.keys)[self.numbers], self.values)

    def same(self, other: Series[_Key]) -> bool:
        """Whether the same keys have the same counts."""
        if self.keys is other.keys and np.array_equal(self.numbers, other.numbers):
            return bool(np.array_equal(self.values, other.values))
        return len(self) == len(other) and dict(self.items()) == dict(other.items())

    def since(self, earlier: Series[_Key]) -> tuple[Series[_Key], bool]:
        """The increase since an earlier reading.

        Returns:
            The counts that grew, and by how much; and whether any count present in both went down, which makes the
            increase meaningless.
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
    """Put counts into an array that holds them exactly."""
    return narrowest(np.array(counts, dtype=_kind(max(counts, default=0))))


def narrowest(values: Values) -> Values:
    """The same values in the smallest type in which their differences and sums stay exact."""
    kind = _kind(int(values.max())) if len(values) else np.int32
    return values if values.dtype == kind else values.astype(kind)


def _kind(largest: int) -> type[Any]:
    return np.int32 if largest < 2**31 else np.int64 if largest < SMALL else object


def _sum(parts: Sequence[Series[_Key]]) -> Series[_Key]:
    """Add one or more series; the sum is numbered as the last one."""
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
    """What was counted for one experiment. Immutable.

    Args:
        requests: finished requests, including aborted ones (code 0).
        amounts: sums over these requests, such as their durations in milliseconds or their tokens.
        bins: how many of them fall into each bin of Envoy's histograms.
        segments: requests and amounts again, by segment and group.

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
        """Make counts from series."""
        counts = cls.__new__(cls)
        counts.counters, counts.histograms, counts._views = counters, histograms, None
        return counts

    @property
    def requests(self) -> Mapping[RequestKey, int]:
        """Finished requests by variant, slice and code."""
        return self._mappings().requests

    @property
    def amounts(self) -> Mapping[AmountKey, int]:
        """Sums by variant, slice and amount."""
        return self._mappings().amounts

    @property
    def segments(self) -> Mapping[SegmentKey, int]:
        """Finished requests by variant, place and code; sums by variant, place and amount."""
        return self._mappings().segments

    @property
    def bins(self) -> Mapping[BinKey, int]:
        """Finished requests by variant, histogram, group or place, and bin."""
        return self._mappings().bins

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

    def _mappings(self) -> _Views:
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
    """Add counts; ``NOTHING`` if there are none."""
    present = [part for part in parts if part]
    if not present:
        return NOTHING
    return Counts.of(_sum([part.counters for part in present]), _sum([part.histograms for part in present]))
