"""Evidence per variant: what guardrails and goals are judged on. Pure.

:mod:`controller.evidence.summing` makes it of counts; :mod:`controller.decision` reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from abmesh.experiment import metrics, names
from abmesh.experiment.parts import Price
from abmesh.inference.histogram import Bins, merge, without

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
    """One segment of a variant's users, or one group of them.

    Attributes:
        codes: requests by response code.
        amounts: sums, by name.
        durations: histogram of request durations.
        ttft: histogram of times to the first token.
        failed: those of the durations that belong to failed answers.
        groups: the same by group of slices. Empty in a group, and where the Envoys were rendered before they counted
            segments by group.
    """

    codes: Mapping[int, int] = field(default_factory=dict)
    amounts: Mapping[str, int] = field(default_factory=dict)
    durations: Bins = field(default_factory=dict)
    ttft: Bins = field(default_factory=dict)
    failed: Bins = field(default_factory=dict)
    groups: Mapping[int, SegmentEvidence] = field(default_factory=dict)

    def amount(self, name: str) -> int:
        """An amount from :mod:`abmesh.experiment.metrics`; 0 if nothing was counted."""
        return amount_of(name, self.codes, self.amounts)


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
        return amount_of(name, self.codes, self.amounts)

    def histograms(self, histogram: str) -> Mapping[int, Bins]:
        """A histogram by group, as it is compared: durations are those of answers that did not fail."""
        if histogram == names.STAT_TTFT:
            return self.ttft
        if not self.failed:
            return self.groups
        return {group: without(bins, self.failed.get(group, {})) for group, bins in self.groups.items()}

    def in_segment(self, name: str) -> VariantEvidence:
        """The variant as if it had no users but those of one segment, with groups of slices as its slices.

        What was counted without groups is left out: nobody could tell how alike its requests are.
        """
        segment = self.segments.get(name, SegmentEvidence())
        whole = whole_segment(segment.groups)
        return VariantEvidence(
            codes=whole.codes,
            slices={
                group: SliceEvidence(
                    requests=part.amount(metrics.ANSWERED),
                    errors=part.amount(metrics.ERRORS),
                    aborted=part.codes.get(ABORTED, 0),
                    amounts=part.amounts,
                )
                for group, part in segment.groups.items()
            },
            groups={group: part.durations for group, part in segment.groups.items()},
            amounts=whole.amounts,
            ttft={group: part.ttft for group, part in segment.groups.items()},
            failed={group: part.failed for group, part in segment.groups.items() if part.failed},
        )

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


def whole_segment(groups: Mapping[int, SegmentEvidence], rest: SegmentEvidence | None = None) -> SegmentEvidence:
    """A segment's evidence from that of its groups, and what was counted without groups."""
    parts = [*groups.values(), *([] if rest is None else [rest])]
    codes: Counter[int] = Counter()
    amounts: Counter[str] = Counter()
    for part in parts:
        codes.update(part.codes)
        amounts.update(part.amounts)
    durations, ttft, failed = (merge(getattr(part, name) for part in parts) for name in ("durations", "ttft", "failed"))
    return SegmentEvidence(dict(codes), dict(amounts), durations, ttft, failed, groups)


def amount_of(name: str, codes: Mapping[int, int], amounts: Mapping[str, int]) -> int:
    """An amount of users whose requests by response code and whose further amounts these are."""
    if name == metrics.ANSWERED:
        return sum(count for code, count in codes.items() if code != ABORTED)
    if name == metrics.ERRORS:
        return sum(count for code, count in codes.items() if code >= FIRST_ERROR) + amounts.get(metrics.BROKEN, 0)
    if name == metrics.ENDED:
        return sum(codes.values())
    if name == metrics.TIMED:
        return max(0, sum(codes.values()) - amounts.get(metrics.CACHED, 0))
    if name == metrics.SERVED:
        return max(0, amount_of(metrics.TIMED, codes, amounts) - amounts.get(metrics.FAILED, 0))
    return amounts.get(name, 0)


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
        segments={name: _segment_priced(item, price) for name, item in evidence.segments.items()},
    )


def _segment_priced(item: SegmentEvidence, price: Price | None) -> SegmentEvidence:
    groups = {number: _segment_priced(group, price) for number, group in item.groups.items()}
    return replace(item, amounts=_with_cost(item.amounts, price), groups=groups)


def _with_cost(amounts: Mapping[str, int], price: Price | None) -> dict[str, int]:
    found = {name: count for name, count in amounts.items() if name != metrics.COST}
    if price is not None:
        tokens = ((metrics.INPUT_TOKENS, price.input), (metrics.OUTPUT_TOKENS, price.output))
        # Prices are dollars per million tokens; the amount is in billionths of a dollar.
        cost = sum(amounts.get(name, 0) * dollars for name, dollars in tokens)
        found[metrics.COST] = round(cost * metrics.NANODOLLARS / 10**6)
    return {name: count for name, count in found.items() if count}
