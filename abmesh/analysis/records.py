"""What is analysed and what comes of it, as frozen records, whichever source it is from. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from abmesh.inference.numbers import Interval, Slices

Kind = Literal["rate", "mean", "ratio", "quantile"]
"""What a metric is.

rate   events among requests that are independent of each other: exact, from counts alone
mean   values of requests that are independent of each other: from sums and sums of squares
ratio  a sum over requests of users who repeat: from sums over groups of users
quantile  of durations, from histograms by group of users; only a rollout has these
"""


@dataclass(frozen=True, slots=True)
class Borrowed:
    """How uncertain a part is whose users are not told apart, from the whole that it is a part of.

    Attributes:
        variance: of one request, in the metric's unit squared.
        design_effect: of counts, at least 1.
        freedom: degrees of freedom of both.
    """

    variance: float
    design_effect: float
    freedom: float


@dataclass(frozen=True, slots=True)
class Sums:
    """What was added up of one variant, in one stage and one segment.

    Attributes:
        n: requests, or whatever else the metric is of.
        y: sum of the metric: events, or the sum of all values.
        yy: sum of squares, where the metric is a mean.
        slices: the same sums by group of users, where users repeat.
        users: how many different users there are, where that is known.
        borrowed: what the whole says about users who repeat, where the part itself has no groups of users.
        answers: how many were measured, where ``n`` is no number of them, such as milliseconds.
    """

    n: float
    y: float
    yy: float | None = None
    slices: Slices | None = None
    users: int | None = None
    borrowed: Borrowed | None = None
    answers: float | None = None

    @property
    def measured(self) -> float:
        """How many were measured."""
        return self.n if self.answers is None else self.answers

    @property
    def value(self) -> float | None:
        """The metric per request; None where there is none."""
        return self.y / self.n if self.n else None

    def __add__(self, other: Sums) -> Sums:
        """Both together. Users are not added: somebody may be in both."""
        slices = None
        if self.slices is not None and other.slices is not None:
            slices = Slices(self.slices.n + other.slices.n, self.slices.y + other.slices.y)
        yy = None if self.yy is None or other.yy is None else self.yy + other.yy
        answers = None if self.answers is None or other.answers is None else self.answers + other.answers
        return Sums(self.n + other.n, self.y + other.y, yy, slices, answers=answers)


Part = Mapping[str, Sums]
"""The variants of one stage: sums by name."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What was measured.

    Attributes:
        name: as it is shown.
        kind: how it is to be analysed.
        unit: ``share`` is shown in percent; anything else, such as ``ms``, stands behind the number; may be empty.
        once: whether a share counts each request at most once, so that it can be analysed as counts. One that does not,
            such as clicks per request, is a mean that is shown in percent.
    """

    name: str
    kind: Kind
    unit: str = ""
    once: bool = True

    @property
    def counted(self) -> bool:
        """Whether the analysis is that of counts."""
        return self.unit == "share" and self.once


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the interval that goes with it; None where the data do not say."""

    value: float | None
    interval: Interval


@dataclass(frozen=True, slots=True)
class Finding:
    """One analysis of a difference.

    Attributes:
        valid: when it may be believed, in words: ``at any look``.
        difference: candidate minus control.
        lift: the same as a share of the control's value; None where the method gives none.
        p: of "no difference", two-sided; not a number where the analysis has none.
        adjusted: p, corrected for all comparisons that it was made beside; the same where it is alone.
        significant: whether ``adjusted`` is at most alpha (for planned looks, whether the boundary is crossed).
        method: how it was reached.
        note: what is particular about this one; empty if nothing is.
    """

    valid: str
    difference: Estimate
    lift: Estimate | None
    p: float
    adjusted: float
    significant: bool
    method: str
    note: str = ""

    @property
    def result(self) -> str:
        """``higher``, ``lower`` or ``undecided``."""
        if not self.significant or not self.difference.value:
            return "undecided"
        return "higher" if self.difference.value > 0 else "lower"


@dataclass(frozen=True, slots=True)
class VariantRow:
    """One variant: what was counted, and its value with the interval that holds at any look.

    For several stages the value is that of all its requests together, and a comparison of two such values is what the
    analysis by stage is there to avoid.
    """

    variant: str
    n: float
    total: float
    users: int | None
    value: Estimate


@dataclass(frozen=True, slots=True)
class Within:
    """Both variants' own values in a segment, each as it would be with the same mix of stages.

    Attributes:
        control_n: what the control's value is of: requests, or whatever the metric is per.
        control: its value.
        variant_n: the same of the variant.
        variant: its value.
    """

    control_n: float
    control: float
    variant_n: float
    variant: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant against the control, by every analysis that the data allow; the first is the verdict's.

    Attributes:
        variant: its name.
        segment: of the users that are compared; empty for all of them.
        findings: one an analysis.
        within: the values that are compared, where a report shows them beside the difference.
    """

    variant: str
    segment: str
    findings: tuple[Finding, ...]
    within: Within | None = None

    @property
    def verdict(self) -> str:
        """``higher``, ``lower`` or ``undecided``."""
        return self.findings[0].result


@dataclass(frozen=True, slots=True)
class SplitCheck:
    """Whether units were split as the weights say, in one stage.

    Attributes:
        stage: its name; empty where there is one.
        counts: units, or requests, by variant.
        expected: the counts that the weights promise.
        p: always valid, of "split as the weights say".
        plain_p: the same, valid for one look only; None where counts are not of independent units.
        alarm: whether p is at most the alarm's alpha.
        unit: what was counted.
    """

    stage: str
    counts: Mapping[str, float]
    expected: Mapping[str, float]
    p: float
    alarm: bool
    unit: str
    plain_p: float | None = None


@dataclass(frozen=True, slots=True)
class MetricReport:
    """Everything about one metric.

    Attributes:
        metric: what.
        variants: a row for each, the control first.
        comparisons: of each variant with the control.
        segments: the same within each segment, corrected together by Benjamini and Hochberg.
        remarks: sentences on the segments.
    """

    metric: Metric
    variants: Sequence[VariantRow]
    comparisons: Sequence[Comparison]
    segments: Sequence[Comparison] = ()
    remarks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A whole analysis.

    Attributes:
        source: the file or the experiment.
        control: what the others are compared with.
        alpha: of each metric's comparisons, together.
        stages: how many stages were compared apart and then combined.
        metrics: one report for each.
        splits: sample-ratio checks; empty where the weights are not known.
        warnings: what a reader must know before believing anything.
    """

    source: str
    control: str
    alpha: float
    stages: int
    metrics: Sequence[MetricReport]
    splits: Sequence[SplitCheck] = field(default_factory=tuple)
    warnings: Sequence[str] = field(default_factory=tuple)
