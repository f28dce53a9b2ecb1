"""What simulated requests add up to, counted as Envoy counts, and the evidence that the controller makes of it. Pure.

Filled by :mod:`abmesh.analysis.crowd`; read by :mod:`abmesh.analysis.simulation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from abmesh.experiment import metrics
from abmesh.experiment.names import GROUPS, OTHER_SEGMENT
from abmesh.experiment.parts import Price
from abmesh.inference.histogram import Bins
from abmesh.inference.numbers import Floats
from controller.decision.history import Evidence
from controller.evidence.summary import (
    FIRST_ERROR,
    SegmentEvidence,
    SliceEvidence,
    VariantEvidence,
    priced,
    whole_segment,
)

_DECADES: Final = 7
_BINS: Final = 90 * _DECADES

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Requests:
    """Some requests and what became of them, one element each.

    Attributes:
        variant: number of the variant.
        slice: of the variant's users.
        segment: number of the segment.
        failed: whether the answer is an error.
        duration_ms: whole milliseconds, at least 1.
        timed: whether the duration counts; None: all do.
        amounts: what each request adds to further amounts; None for one each.
        ttft_ms: time to the first token; None: nothing streams.
    """

    def __init__(self, variant: Ints, slice_: Ints, segment: Ints, failed: Flags, duration_ms: Floats) -> None:
        self.variant = variant
        self.slice = slice_
        self.segment = segment
        self.failed = failed
        self.duration_ms = duration_ms
        self.timed: Flags | None = None
        self.amounts: dict[str, Floats | None] = {}
        self.ttft_ms: Floats | None = None

    @property
    def failed_in_time(self) -> Flags:
        """Which failed and have a duration that counts."""
        return self.failed if self.timed is None else self.failed & self.timed


class Counted:
    """The counts of one stage: by variant and slice, and durations by variant, group and bin."""

    def __init__(self, variants: Sequence[str], slices: int, segments: Sequence[str] = ()) -> None:
        self._variants = list(variants)
        self._slices = slices
        self._segments = [*segments, OTHER_SEGMENT] if segments else []
        self._cells = _Sums(len(variants), slices)
        self._parts = _Sums(len(variants), len(self._segments) * GROUPS)
        groups = (len(variants), GROUPS, _BINS)
        self._bins, self._failed_bins, self._ttft = (np.zeros(groups, np.int64) for _ in range(3))
        parts = (len(variants), len(self._segments) * GROUPS, _BINS)
        self._part_bins, self._part_failed, self._part_ttft = (np.zeros(parts, np.int64) for _ in range(3))

    def add(self, sent: Requests) -> None:
        """Count some requests."""
        timed = slice(None) if sent.timed is None else sent.timed
        group = sent.slice * GROUPS // self._slices
        bins = bin_of(sent.duration_ms)
        self._cells.add(sent, sent.slice)
        _count(self._bins, sent.variant[timed], group[timed], bins[timed])
        failed, began = sent.failed_in_time, ~sent.failed
        _count(self._failed_bins, sent.variant[failed], group[failed], bins[failed])
        first = None if sent.ttft_ms is None else bin_of(sent.ttft_ms)
        if first is not None:
            _count(self._ttft, sent.variant[began], group[began], first[began])
        if self._segments:
            place = sent.segment * GROUPS + group
            self._parts.add(sent, place)
            _count(self._part_bins, sent.variant[timed], place[timed], bins[timed])
            _count(self._part_failed, sent.variant[failed], place[failed], bins[failed])
            if first is not None:
                _count(self._part_ttft, sent.variant[began], place[began], first[began])

    def evidence(self, prices: Mapping[str, Price]) -> Evidence:
        """What the controller makes of these counts, at these prices."""
        found = {name: self._of(number) for number, name in enumerate(self._variants)}
        return priced(found, prices) if self._cells.amounts else found

    def _of(self, variant: int) -> VariantEvidence:
        requests, errors, milliseconds, amounts = self._cells.of(variant)
        totals = {name: sum(values) for name, values in amounts.items()}
        return VariantEvidence(
            codes={200: sum(requests) - sum(errors), FIRST_ERROR: sum(errors)},
            duration_ms=sum(milliseconds),
            slices={
                place: SliceEvidence(
                    requests[place],
                    errors[place],
                    0,
                    milliseconds[place],
                    {name: values[place] for name, values in amounts.items() if values[place]},
                )
                for place in range(self._slices)
            },
            groups=_by_group(self._bins[variant]),
            amounts={name: total for name, total in totals.items() if total},
            ttft=_by_group(self._ttft[variant]) if self._ttft.any() else {},
            segments=self._segments_of(variant),
            failed=_by_group(self._failed_bins[variant]) if self._failed_bins[variant].any() else {},
        )

    def _segments_of(self, variant: int) -> dict[str, SegmentEvidence]:
        if not self._segments:
            return {}
        requests, errors, _, amounts = self._parts.of(variant)

        def at(place: int) -> SegmentEvidence:
            return SegmentEvidence(
                codes={200: requests[place] - errors[place], FIRST_ERROR: errors[place]},
                amounts={amount: values[place] for amount, values in amounts.items() if values[place]},
                durations=_bins(self._part_bins[variant, place]),
                ttft=_bins(self._part_ttft[variant, place]),
                failed=_bins(self._part_failed[variant, place]),
            )

        return {
            name: whole_segment({group: at(number * GROUPS + group) for group in range(GROUPS)})
            for number, name in enumerate(self._segments)
        }


class _Sums:
    """Requests, errors, durations and amounts by variant and place: a slice or a segment."""

    def __init__(self, variants: int, places: int) -> None:
        self._shape = (variants, places)
        self._requests, self._errors = (np.zeros(self._shape, np.int64) for _ in range(2))
        self._failures = np.zeros(self._shape, np.int64)
        self._duration_ms, self._failed_ms = np.zeros(self._shape), np.zeros(self._shape)
        self.amounts: dict[str, Floats] = {}

    def add(self, sent: Requests, place: Ints) -> None:
        cell = sent.variant * self._shape[1] + place
        self._requests += self._number(cell)
        self._errors += self._number(cell[sent.failed])
        timed = slice(None) if sent.timed is None else sent.timed
        self._duration_ms += self._sum(cell[timed], sent.duration_ms[timed])
        failed = sent.failed_in_time
        self._failures += self._number(cell[failed])
        self._failed_ms += self._sum(cell[failed], sent.duration_ms[failed])
        for name, values in sent.amounts.items():
            before = self.amounts.get(name, np.zeros(self._shape))
            self.amounts[name] = before + (self._number(cell) if values is None else self._sum(cell, values))

    def of(self, variant: int) -> tuple[list[int], list[int], list[int], dict[str, list[int]]]:
        """Requests, errors, milliseconds and further amounts of each place."""
        requests, errors = self._requests[variant].tolist(), self._errors[variant].tolist()
        amounts = {name: np.round(values[variant]).astype(np.int64).tolist() for name, values in self.amounts.items()}
        if amounts:
            amounts[metrics.SUCCEEDED] = (self._requests - self._errors)[variant].tolist()
        amounts[metrics.FAILED] = self._failures[variant].tolist()
        amounts[metrics.FAILED_MS] = self._failed_ms[variant].astype(np.int64).tolist()
        return requests, errors, self._duration_ms[variant].astype(np.int64).tolist(), amounts

    def _number(self, cell: Ints) -> Ints:
        return np.bincount(cell, minlength=math.prod(self._shape)).reshape(self._shape)

    def _sum(self, cell: Ints, values: Floats) -> Floats:
        return np.asarray(np.bincount(cell, values, math.prod(self._shape)).reshape(self._shape), np.float64)


def bin_of(durations: Floats) -> Ints:
    """The log-linear bin with two significant digits that holds a duration of at least 1 ms."""
    decade = np.clip(np.floor(np.log10(durations) + 1e-12), 0, _DECADES - 1)
    digits = np.clip(np.floor(durations / 10.0 ** (decade - 1) + 1e-9), 10, 99)
    return np.asarray(decade * 90 + digits - 10, dtype=np.int64)


def _count(into: Ints, variant: Ints, place: Ints, bins: Ints) -> None:
    variants, places, size = into.shape
    cell = (variant * places + place) * size + bins
    into += np.bincount(cell, minlength=variants * places * size).reshape(into.shape)


def _by_group(bins: Ints) -> dict[int, Bins]:
    return {group: _bins(row) for group, row in enumerate(bins)}


def _bins(row: Ints) -> Bins:
    return {_BOUNDS[index]: int(row[index]) for index in np.flatnonzero(row)}


def _bounds() -> list[tuple[float, float]]:
    """Lower bound and width of every bin, in milliseconds."""
    found = []
    for decade in range(_DECADES):
        width = 10.0 ** (decade - 1)
        found += [(round(digits * width, 1), width) for digits in range(10, 100)]
    return found


_BOUNDS: Final = _bounds()
