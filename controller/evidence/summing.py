"""Sums an experiment's counts into evidence per variant. Pure; called by :mod:`controller.rollout.collect`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from abmesh.experiment import metrics, names
from abmesh.experiment.parts import Price
from abmesh.inference.histogram import Bins
from controller.evidence.counts import Counts, segment_of
from controller.evidence.summary import (
    ABORTED,
    SegmentEvidence,
    SliceEvidence,
    VariantEvidence,
    amount_of,
    priced,
    whole_segment,
)


def summarize(
    counts: Counts, variants: Iterable[str], prices: Mapping[str, Price] | None = None
) -> dict[str, VariantEvidence]:
    """Sum an experiment's counts into evidence for each variant; empty evidence for one without counts.

    Args:
        counts: the experiment's.
        variants: their names.
        prices: by variant, to turn tokens into costs; variants without a price have no cost.
    """
    building = {name: _Building() for name in variants}
    for (variant, slice_, code), count in counts.requests.items():
        if variant in building:
            building[variant].slices[slice_].add(code, count)
    for (variant, slice_, amount), count in counts.amounts.items():
        if variant in building:
            building[variant].slices[slice_].add(amount, count)
    for (variant, place, what), count in counts.segments.items():
        if variant in building:
            building[variant].segments[place].add(what, count)
    for (variant, histogram, where, lower, width), count in counts.bins.items():
        if variant in building:
            building[variant].bins[histogram, where][lower, width] = count
    return priced({name: item.evidence() for name, item in building.items()}, prices or {})


@dataclass(slots=True)
class _Part:
    """A slice of a variant, or a place in a segment, while its codes and amounts are added up."""

    codes: Counter[int] = field(default_factory=Counter)
    amounts: Counter[str] = field(default_factory=Counter)

    def add(self, what: int | str, count: int) -> None:
        if isinstance(what, int):
            self.codes[what] += count
        else:
            self.amounts[what] += count

    def finished(self) -> dict[str, int]:
        """The amounts and those derived from them, without those that are 0."""
        whole = sum(count for code, count in self.codes.items() if 200 <= code < 400)
        cut_short = self.amounts.get(metrics.BROKEN, 0) + self.amounts.get(metrics.LEFT, 0)
        amounts = {**self.amounts, metrics.SUCCEEDED: max(0, whole - cut_short)}
        return {name: count for name, count in amounts.items() if count}


@dataclass(slots=True)
class _Building:
    """A variant's evidence, while it is put together; segments by place, bins by histogram, and group or place."""

    slices: dict[int, _Part] = field(default_factory=lambda: defaultdict(_Part))
    segments: dict[str, _Part] = field(default_factory=lambda: defaultdict(_Part))
    bins: dict[tuple[str, int | str], dict[tuple[float, float], int]] = field(default_factory=lambda: defaultdict(dict))

    def evidence(self) -> VariantEvidence:
        codes: Counter[int] = Counter()
        totals: Counter[str] = Counter()
        slices = {}
        for number, part in self.slices.items():
            codes.update(part.codes)
            amounts = part.finished()
            totals.update(amounts)
            slices[number] = SliceEvidence(
                requests=amount_of(metrics.ANSWERED, part.codes, amounts),
                errors=amount_of(metrics.ERRORS, part.codes, amounts),
                aborted=part.codes[ABORTED],
                duration_ms=amounts.pop(metrics.DURATION_MS, 0),
                amounts=amounts,
            )
        return VariantEvidence(
            codes=dict(codes),
            duration_ms=totals.pop(metrics.DURATION_MS, 0),
            slices=slices,
            groups=self._groups(names.STAT_DURATION),
            amounts=dict(totals),
            ttft=self._groups(names.STAT_TTFT),
            segments=self._segments(),
            failed=self._groups(names.STAT_FAILED),
        )

    def _segments(self) -> dict[str, SegmentEvidence]:
        """The segments' evidence: that of their groups, and what was counted without groups."""
        groups: dict[str, dict[int, SegmentEvidence]] = {}
        rest: dict[str, SegmentEvidence] = {}
        for place in self.segments:
            segment, group = segment_of(place)
            here = groups.setdefault(segment, {})
            if group is None:
                rest[segment] = self._at(place)
            else:
                here[group] = self._at(place)
        return {name: whole_segment(found, rest.get(name)) for name, found in groups.items()}

    def _at(self, place: str) -> SegmentEvidence:
        part = self.segments[place]
        durations, ttft, failed = (
            self.bins.get((name, place), {}) for name in (names.STAT_DURATION, names.STAT_TTFT, names.STAT_FAILED)
        )
        return SegmentEvidence(dict(part.codes), part.finished(), durations, ttft, failed)

    def _groups(self, histogram: str) -> dict[int, Bins]:
        return {
            place: bins for (name, place), bins in self.bins.items() if name == histogram and isinstance(place, int)
        }
