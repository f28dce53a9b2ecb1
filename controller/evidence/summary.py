"""Evidence per variant, summed from counts: what guardrails and goals are judged on. Pure.

:mod:`controller.rollout.collect` calls :func:`summarize`; :mod:`controller.decision` reads the records.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from abmesh.experiment import metrics, names
from abmesh.experiment.parts import Price
from abmesh.inference.histogram import Bins, merge, without
from controller.evidence.counts import Counts

ABORTED = 0
"""The response code of a request whose client went away before there was a response."""

FIRST_ERROR = 500


@dataclass(frozen=True, slots=True)
class SliceEvidence:
    """One slice of a variant's users, for variances between slices.

    Attributes:
        requests: answered requests.
        errors: answered requests with status 500 or above, or whose answer the upstream broke off.
        aborted: requests whose client went away before there was a response.
        duration_ms: total duration of all these requests, except those answered from a cache, in milliseconds.
        amounts: further sums, by name.
    """

    requests: int = 0
    errors: int = 0
    aborted: int = 0
    duration_ms: int = 0
    amounts: Mapping[str, int] = field(default_factory=dict)

    def amount(self, name: str) -> int:
        """An amount from :mod:`abmesh.experiment.metrics`; 0 if nothing was counted."""
        if name == metrics.ANSWERED:
            return self.requests
        if name == metrics.ERRORS:
            return self.errors
        if name == metrics.ENDED:
            return self.requests + self.aborted
        if name == metrics.TIMED:
            return max(0, self.requests + self.aborted - self.amounts.get(metrics.CACHED, 0))
        if name == metrics.SERVED:
            return max(0, self.amount(metrics.TIMED) - self.amounts.get(metrics.FAILED, 0))
        if name == metrics.SERVED_MS:
            return max(0, self.duration_ms - self.amounts.get(metrics.FAILED_MS, 0))
        if name == metrics.DURATION_MS:
            return self.duration_ms
        return self.amounts.get(name, 0)


@dataclass(frozen=True, slots=True)
class SegmentEvidence:
    """One segment of a variant's users.

    Attributes:
        codes: requests by response code.
        amounts: sums, by name.
        durations: histogram of request durations.
        ttft: histogram of times to the first token.
        failed: those of the durations that belong to failed answers.
    """

    codes: Mapping[int, int] = field(default_factory=dict)
    amounts: Mapping[str, int] = field(default_factory=dict)
    durations: Bins = field(default_factory=dict)
    ttft: Bins = field(default_factory=dict)
    failed: Bins = field(default_factory=dict)

    def amount(self, name: str) -> int:
        """An amount from :mod:`abmesh.experiment.metrics`; 0 if nothing was counted."""
        return _amount(name, self.codes, self.amounts)


@dataclass(frozen=True, slots=True)
class VariantEvidence:
    """One variant's evidence since the stage's evidence began, over all Envoys.

    Attributes:
        codes: requests by response code; code 0 stands for aborted ones.
        duration_ms: total duration in milliseconds of all requests, aborted ones included, except those answered from a
            cache.
        slices: the same by slice.
        groups: histogram of these durations by group.
        amounts: further sums, by name.
        ttft: histogram of times to the first token, by group.
        segments: the same by segment, if segments are declared.
        failed: those of the durations in ``groups`` that belong to failed answers, by group. Empty if the Envoys were
            rendered before they counted them.
    """

    codes: Mapping[int, int] = field(default_factory=dict)
    duration_ms: int = 0
    slices: Mapping[int, SliceEvidence] = field(default_factory=dict)
    groups: Mapping[int, Bins] = field(default_factory=dict)
    amounts: Mapping[str, int] = field(default_factory=dict)
    ttft: Mapping[int, Bins] = field(default_factory=dict)
    segments: Mapping[str, SegmentEvidence] = field(default_factory=dict)
    failed: Mapping[int, Bins] = field(default_factory=dict)

    def amount(self, name: str) -> int:
        """An amount from :mod:`abmesh.experiment.metrics`; 0 if nothing was counted."""
        if name == metrics.DURATION_MS:
            return self.duration_ms
        if name == metrics.SERVED_MS:
            return max(0, self.duration_ms - self.amounts.get(metrics.FAILED_MS, 0))
        return _amount(name, self.codes, self.amounts)

    def histograms(self, histogram: str) -> Mapping[int, Bins]:
        """A histogram by group, as it is compared: durations are those of answers that did not fail."""
        if histogram == names.STAT_TTFT:
            return self.ttft
        if not self.failed:
            return self.groups
        return {group: without(bins, self.failed.get(group, {})) for group, bins in self.groups.items()}

    @property
    def requests(self) -> int:
        """Answered requests; aborted ones are neither successes nor errors."""
        return self.amount(metrics.ANSWERED)

    @property
    def errors(self) -> int:
        """Answered requests with status 500 or above, or whose answer the upstream broke off."""
        return self.amount(metrics.ERRORS)

    @property
    def aborted(self) -> int:
        """Requests whose client went away before there was a response."""
        return self.codes.get(ABORTED, 0)

    @property
    def error_rate(self) -> float | None:
        """Share of the answered requests that are errors, 0..1; None without answered requests."""
        return self.errors / self.requests if self.requests else None

    @property
    def mean_ms(self) -> float | None:
        """Mean duration in milliseconds over the requests in ``duration_ms``, failed ones as well; None without any."""
        timed = self.amount(metrics.TIMED)
        return self.duration_ms / timed if timed else None

    @property
    def bins(self) -> Bins:
        """The histogram of durations over all groups, of failed answers as well."""
        return merge(self.groups.values())


def _amount(name: str, codes: Mapping[int, int], amounts: Mapping[str, int]) -> int:
    if name == metrics.ANSWERED:
        return sum(count for code, count in codes.items() if code != ABORTED)
    if name == metrics.ERRORS:
        return sum(count for code, count in codes.items() if code >= FIRST_ERROR) + amounts.get(metrics.BROKEN, 0)
    if name == metrics.ENDED:
        return sum(codes.values())
    if name == metrics.TIMED:
        return max(0, sum(codes.values()) - amounts.get(metrics.CACHED, 0))
    if name == metrics.SERVED:
        return max(0, _amount(metrics.TIMED, codes, amounts) - amounts.get(metrics.FAILED, 0))
    return amounts.get(name, 0)


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
    for (variant, segment, what), count in counts.segments.items():
        if variant in building:
            building[variant].segments[segment].add(what, count)
    for (variant, histogram, place, lower, width), count in counts.bins.items():
        if variant in building:
            building[variant].bins[histogram, place][lower, width] = count
    return priced({name: item.evidence() for name, item in building.items()}, prices or {})


def priced(evidence: Mapping[str, VariantEvidence], prices: Mapping[str, Price]) -> dict[str, VariantEvidence]:
    """The same evidence, with its tokens costed at these prices.

    Everything that is compared must use the same prices. If the beginning of a stage kept an older price, the
    difference to it would look like money spent since then.
    """
    return {name: _priced(item, prices.get(name)) for name, item in evidence.items()}


def _priced(evidence: VariantEvidence, price: Price | None) -> VariantEvidence:
    if price is None and metrics.COST not in evidence.amounts:
        return evidence
    return replace(
        evidence,
        amounts=_with_cost(evidence.amounts, price),
        slices={
            number: replace(item, amounts=_with_cost(item.amounts, price)) for number, item in evidence.slices.items()
        },
        segments={
            name: replace(item, amounts=_with_cost(item.amounts, price)) for name, item in evidence.segments.items()
        },
    )


def _with_cost(amounts: Mapping[str, int], price: Price | None) -> dict[str, int]:
    found = {name: count for name, count in amounts.items() if name != metrics.COST}
    if price is not None:
        tokens = ((metrics.INPUT_TOKENS, price.input), (metrics.OUTPUT_TOKENS, price.output))
        # Prices are dollars per million tokens; the amount is in billionths of a dollar.
        cost = sum(amounts.get(name, 0) * dollars for name, dollars in tokens)
        found[metrics.COST] = round(cost * metrics.NANODOLLARS / 10**6)
    return {name: count for name, count in found.items() if count}


@dataclass(slots=True)
class _Part:
    """A slice or segment of a variant, while its codes and amounts are added up."""

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
    """A variant's evidence, while it is put together; bins by histogram, and group or segment."""

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
                requests=_amount(metrics.ANSWERED, part.codes, amounts),
                errors=_amount(metrics.ERRORS, part.codes, amounts),
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
            segments={
                name: SegmentEvidence(
                    dict(part.codes),
                    part.finished(),
                    self.bins.get((names.STAT_DURATION, name), {}),
                    self.bins.get((names.STAT_TTFT, name), {}),
                    self.bins.get((names.STAT_FAILED, name), {}),
                )
                for name, part in self.segments.items()
            },
            failed=self._groups(names.STAT_FAILED),
        )

    def _groups(self, histogram: str) -> dict[int, Bins]:
        return {
            place: bins for (name, place), bins in self.bins.items() if name == histogram and isinstance(place, int)
        }
