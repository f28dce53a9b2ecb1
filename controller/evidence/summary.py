"""Evidence per variant: what a guardrail is judged on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from abmesh.experiment import metrics, names
from abmesh.experiment.parts import Price
from abmesh.inference.histogram import Bins, merge, quantile, size
from controller.evidence.counts import Counts

ABORTED = 0
"""The response code of a request whose client went away before there was a response."""

FIRST_ERROR = 500


@dataclass(frozen=True, slots=True)
class SliceEvidence:
    """One slice of a variant's users, for variances between groups of users.

    Attributes:
        requests: requests that were answered.
        errors: those of them answered with 500 or above, or broken off by the upstream.
        aborted: requests whose client went away before there was a response.
        duration_ms: sum of the durations of all of these that no cache answered, in milliseconds.
        amounts: further sums, by name.
    """

    requests: int = 0
    errors: int = 0
    aborted: int = 0
    duration_ms: int = 0
    amounts: Mapping[str, int] = field(default_factory=dict)

    def amount(self, name: str) -> int:
        """An amount of :mod:`abmesh.experiment.metrics`; 0 if nothing was counted under its name."""
        if name == metrics.ANSWERED:
            return self.requests
        if name == metrics.ERRORS:
            return self.errors
        if name == metrics.ENDED:
            return self.requests + self.aborted
        if name == metrics.TIMED:
            return max(0, self.requests + self.aborted - self.amounts.get(metrics.CACHED, 0))
        if name == metrics.DURATION_MS:
            return self.duration_ms
        return self.amounts.get(name, 0)


@dataclass(frozen=True, slots=True)
class SegmentEvidence:
    """One segment of a variant's users.

    Attributes:
        codes: requests by response code.
        amounts: sums, by name.
        durations: histogram of durations.
        ttft: histogram of times to the first token.
    """

    codes: Mapping[int, int] = field(default_factory=dict)
    amounts: Mapping[str, int] = field(default_factory=dict)
    durations: Bins = field(default_factory=dict)
    ttft: Bins = field(default_factory=dict)

    def amount(self, name: str) -> int:
        """An amount of :mod:`abmesh.experiment.metrics`; 0 if nothing was counted under its name."""
        return _of_codes(name, self.codes, self.amounts)


@dataclass(frozen=True, slots=True)
class VariantEvidence:
    """One variant since a stage's evidence began, over all Envoys.

    Attributes:
        codes: requests by response code, code 0 (aborted) included.
        duration_ms: sum of durations in milliseconds, those of aborted requests included, those from a cache not.
        slices: the same by slice.
        groups: histogram of durations by group of slices, of the same requests.
        amounts: further sums, by name.
        ttft: histogram of times to the first token, by group.
        segments: the same by segment, where segments are declared.
    """

    codes: Mapping[int, int] = field(default_factory=dict)
    duration_ms: int = 0
    slices: Mapping[int, SliceEvidence] = field(default_factory=dict)
    groups: Mapping[int, Bins] = field(default_factory=dict)
    amounts: Mapping[str, int] = field(default_factory=dict)
    ttft: Mapping[int, Bins] = field(default_factory=dict)
    segments: Mapping[str, SegmentEvidence] = field(default_factory=dict)

    def amount(self, name: str) -> int:
        """An amount of :mod:`abmesh.experiment.metrics`; 0 if nothing was counted under its name."""
        if name == metrics.DURATION_MS:
            return self.duration_ms
        return _of_codes(name, self.codes, self.amounts)

    def histograms(self, histogram: str) -> Mapping[int, Bins]:
        """A histogram by group."""
        return self.ttft if histogram == names.STAT_TTFT else self.groups

    @property
    def requests(self) -> int:
        """Requests that were answered: neither a success nor an error is an aborted one."""
        return sum(count for code, count in self.codes.items() if code != ABORTED)

    @property
    def errors(self) -> int:
        """Requests that were answered with 500 or above, or whose answer the upstream broke off."""
        return self.amount(metrics.ERRORS)

    @property
    def aborted(self) -> int:
        """Requests whose client went away before there was a response."""
        return self.codes.get(ABORTED, 0)

    @property
    def error_rate(self) -> float | None:
        """Share of the answered requests that are errors, 0..1; None if there were none."""
        return self.errors / self.requests if self.requests else None

    @property
    def mean_ms(self) -> float | None:
        """Mean duration in milliseconds, aborted requests included, as their durations are; None if none ended."""
        timed = self.amount(metrics.TIMED)
        return self.duration_ms / timed if timed else None

    @property
    def bins(self) -> Bins:
        """The histogram of durations over all groups."""
        return merge(self.groups.values())

    def outline(self) -> dict[str, int | float | None]:
        """The numbers that a person wants to see beside a decision; times in milliseconds."""
        bins = self.bins
        return {
            "requests": self.requests,
            "errors": self.errors,
            "aborted": self.aborted,
            "error_rate": rounded(self.error_rate),
            "mean_ms": rounded(self.mean_ms),
            "p50_ms": rounded(quantile(bins, 0.50)),
            "p95_ms": rounded(quantile(bins, 0.95)),
            "p99_ms": rounded(quantile(bins, 0.99)),
            "durations": size(bins),
        }


def rounded(value: float | None) -> float | None:
    """A measured value to six significant digits, which is more than it is worth."""
    return None if value is None else float(f"{value:.6g}")


def _of_codes(name: str, codes: Mapping[int, int], amounts: Mapping[str, int]) -> int:
    if name == metrics.ANSWERED:
        return sum(count for code, count in codes.items() if code != ABORTED)
    if name == metrics.ERRORS:
        return sum(count for code, count in codes.items() if code >= FIRST_ERROR) + amounts.get(metrics.BROKEN, 0)
    if name == metrics.ENDED:
        return sum(codes.values())
    if name == metrics.TIMED:
        return max(0, sum(codes.values()) - amounts.get(metrics.CACHED, 0))
    return amounts.get(name, 0)


def summarize(
    counts: Counts, variants: Iterable[str], prices: Mapping[str, Price] | None = None
) -> dict[str, VariantEvidence]:
    """Evidence of each of the variants; one that was not seen has none.

    Args:
        counts: of the experiment.
        variants: their names.
        prices: of the variants that have one, by which their tokens become costs.
    """
    building = {name: _Building() for name in variants}
    for (variant, slice_, code), count in counts.requests.items():
        if variant in building:
            building[variant].slice(slice_).add_code(code, count)
    for (variant, slice_, amount), count in counts.amounts.items():
        if variant in building:
            building[variant].slice(slice_).add(amount, count)
    for (variant, segment, what), count in counts.segments.items():
        if variant in building:
            building[variant].segment(segment).put(what, count)
    for (variant, histogram, place, lower, width), count in counts.bins.items():
        if variant in building:
            building[variant].histogram(histogram, place)[lower, width] = count
    return priced({name: item.evidence() for name, item in building.items()}, prices or {})


def priced(evidence: Mapping[str, VariantEvidence], prices: Mapping[str, Price]) -> dict[str, VariantEvidence]:
    """The same evidence, whose tokens cost what these prices say.

    Everything that is compared must be priced alike: were a stage's beginning left at an older price, the whole
    difference would seem to have been spent since then.
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
        # Dollars for a million tokens are thousands of billionths of a dollar for one.
        cost = sum(amounts.get(name, 0) * dollars for name, dollars in tokens)
        found[metrics.COST] = round(cost * metrics.NANODOLLARS / 10**6)
    return {name: count for name, count in found.items() if count}


@dataclass(slots=True)
class _Sums:
    """Codes and amounts of a slice or segment, while they are added up."""

    codes: dict[int, int] = field(default_factory=dict)
    amounts: dict[str, int] = field(default_factory=dict)

    def put(self, what: int | str, count: int) -> None:
        if isinstance(what, int):
            self.add_code(what, count)
        else:
            self.add(what, count)

    def add_code(self, code: int, count: int) -> None:
        self.codes[code] = self.codes.get(code, 0) + count

    def add(self, amount: str, count: int) -> None:
        self.amounts[amount] = self.amounts.get(amount, 0) + count

    def finished(self) -> dict[str, int]:
        """The amounts, with those that follow from others; those that are 0 are left out."""
        whole = sum(count for code, count in self.codes.items() if 200 <= code < 400)
        cut_short = self.amounts.get(metrics.BROKEN, 0) + self.amounts.get(metrics.LEFT, 0)
        amounts = {**self.amounts, metrics.SUCCEEDED: max(0, whole - cut_short)}
        return {name: count for name, count in amounts.items() if count}


@dataclass(slots=True)
class _Building:
    """A variant's evidence, while it is put together."""

    slices: dict[int, _Sums] = field(default_factory=dict)
    segments: dict[str, _Sums] = field(default_factory=dict)
    bins: dict[tuple[str, int | str], dict[tuple[float, float], int]] = field(default_factory=dict)

    def slice(self, number: int) -> _Sums:
        return self.slices.setdefault(number, _Sums())

    def segment(self, name: str) -> _Sums:
        return self.segments.setdefault(name, _Sums())

    def histogram(self, name: str, place: int | str) -> dict[tuple[float, float], int]:
        return self.bins.setdefault((name, place), {})

    def evidence(self) -> VariantEvidence:
        codes: dict[int, int] = {}
        totals: dict[str, int] = {}
        slices = {}
        for number, sums in self.slices.items():
            for code, count in sums.codes.items():
                codes[code] = codes.get(code, 0) + count
            amounts = sums.finished()
            for name, count in amounts.items():
                totals[name] = totals.get(name, 0) + count
            slices[number] = SliceEvidence(
                requests=_of_codes(metrics.ANSWERED, sums.codes, amounts),
                errors=_of_codes(metrics.ERRORS, sums.codes, amounts),
                aborted=sums.codes.get(ABORTED, 0),
                duration_ms=amounts.pop(metrics.DURATION_MS, 0),
                amounts=amounts,
            )
        return VariantEvidence(
            codes=codes,
            duration_ms=totals.pop(metrics.DURATION_MS, 0),
            slices=slices,
            groups=self._groups(names.STAT_DURATION),
            amounts=totals,
            ttft=self._groups(names.STAT_TTFT),
            segments={
                name: SegmentEvidence(
                    sums.codes,
                    sums.finished(),
                    self.bins.get((names.STAT_DURATION, name), {}),
                    self.bins.get((names.STAT_TTFT, name), {}),
                )
                for name, sums in self.segments.items()
            },
        )

    def _groups(self, histogram: str) -> dict[int, Bins]:
        return {
            place: bins for (name, place), bins in self.bins.items() if name == histogram and isinstance(place, int)
        }
