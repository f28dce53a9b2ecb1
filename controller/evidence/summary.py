"""Evidence per variant: what a guardrail is judged on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from controller.evidence.counts import Counts
from controller.evidence.histogram import Bins, merge, quantile, size

ABORTED = 0
"""The response code of a request whose client went away before there was a response."""

FIRST_ERROR = 500


@dataclass(frozen=True, slots=True)
class SliceEvidence:
    """One slice of a variant's users, for variances between groups of users.

    Attributes:
        requests: requests that were answered.
        errors: those of them answered with 500 or above.
        aborted: requests whose client went away before there was a response.
        duration_ms: sum of the durations of all of these, in milliseconds.
    """

    requests: int = 0
    errors: int = 0
    aborted: int = 0
    duration_ms: int = 0


@dataclass(frozen=True, slots=True)
class VariantEvidence:
    """One variant since a stage's evidence began, over all Envoys.

    Attributes:
        codes: requests by response code, code 0 (aborted) included.
        duration_ms: sum of durations in milliseconds, those of aborted requests included.
        slices: the same by slice.
        groups: histogram of durations by group of slices, aborted requests included.
    """

    codes: Mapping[int, int] = field(default_factory=dict)
    duration_ms: int = 0
    slices: Mapping[int, SliceEvidence] = field(default_factory=dict)
    groups: Mapping[int, Bins] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """Requests that were answered: neither a success nor an error is an aborted one."""
        return sum(count for code, count in self.codes.items() if code != ABORTED)

    @property
    def errors(self) -> int:
        """Requests that were answered with 500 or above."""
        return sum(count for code, count in self.codes.items() if code >= FIRST_ERROR)

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
        ended = self.requests + self.aborted
        return self.duration_ms / ended if ended else None

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


def summarize(counts: Counts, variants: Iterable[str]) -> dict[str, VariantEvidence]:
    """Evidence of each of the variants; one that was not seen has none."""
    codes: dict[str, dict[int, int]] = {name: {} for name in variants}
    slices: dict[str, dict[int, SliceEvidence]] = {name: {} for name in codes}
    durations = dict.fromkeys(codes, 0)
    groups: dict[str, dict[int, dict[tuple[float, float], int]]] = {name: {} for name in codes}
    for (variant, slice_, code), count in counts.requests.items():
        if variant not in codes:
            continue
        codes[variant][code] = codes[variant].get(code, 0) + count
        known = slices[variant].get(slice_, SliceEvidence())
        slices[variant][slice_] = SliceEvidence(
            known.requests + (count if code != ABORTED else 0),
            known.errors + (count if code >= FIRST_ERROR else 0),
            known.aborted + (count if code == ABORTED else 0),
        )
    for (variant, slice_), milliseconds in counts.duration_ms.items():
        if variant in codes:
            durations[variant] += milliseconds
            known = slices[variant].get(slice_, SliceEvidence())
            slices[variant][slice_] = SliceEvidence(known.requests, known.errors, known.aborted, milliseconds)
    for (variant, group, lower, width), count in counts.bins.items():
        if variant in codes:
            groups[variant].setdefault(group, {})[lower, width] = count
    return {name: VariantEvidence(codes[name], durations[name], slices[name], groups[name]) for name in codes}
