"""What a report holds, as frozen records, whichever source it is from. Pure.

Made by :mod:`abmesh.analysis.table_report` and :mod:`abmesh.analysis.rollout_report`, shown by
:mod:`abmesh.analysis.render`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from abmesh.inference.numbers import Interval, Side

Kind = Literal["rate", "mean", "ratio", "quantile"]
"""What a metric is.

rate   events among requests that are independent of each other: exact, from counts alone
mean   values of requests that are independent of each other: from sums and sums of squares
ratio  a sum over requests of users who send several: from sums over groups of users
quantile  of durations, from histograms by group of users; only a rollout has these
"""


@dataclass(frozen=True, slots=True)
class ReportedMetric:
    """A metric as a report shows it.

    Attributes:
        name: of the metric.
        kind: how it is analysed.
        unit: ``share`` is shown in percent; anything else, such as ``ms``, stands behind the number; may be empty.
        per: what the values are of, as a heading.
        units: what sends them, as a heading.
    """

    name: str
    kind: Kind
    unit: str = ""
    per: str = "requests"
    units: str = "users"

    @property
    def difference_unit(self) -> str:
        """The unit of a difference of two values: percentage points for a share."""
        return "points" if self.unit == "share" else self.unit


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its confidence interval; None where the data do not tell."""

    value: float | None
    interval: Interval


@dataclass(frozen=True, slots=True)
class Finding:
    """One analysis of a difference.

    Attributes:
        valid: which looks it is valid for, in words: ``at any look``.
        difference: candidate minus control.
        lift: the same as a share of the control's value; None where the method gives none.
        p: of "no difference", two-sided; not a number where the analysis has none.
        adjusted: p, corrected for all comparisons that it was made beside; the same where it is alone.
        significant: whether ``adjusted`` is at most alpha (for planned looks, whether the boundary is crossed).
        method: how it was made.
        note: a remark, such as the design effect; may be empty.
        side: on which side the evidence lies, where the method tells; otherwise that of the difference.
    """

    valid: str
    difference: Estimate
    lift: Estimate | None
    p: float
    adjusted: float
    significant: bool
    method: str
    note: str = ""
    side: Side | None = None

    @property
    def result(self) -> str:
        """``higher``, ``lower`` or ``undecided``."""
        if not self.significant or not self.difference.value:
            return "undecided"
        higher = self.difference.value > 0 if self.side is None else self.side is Side.GREATER
        return "higher" if higher else "lower"


@dataclass(frozen=True, slots=True)
class TypicalValue:
    """What a typical user of a variant meets: slices of users weighed alike, without those of very busy ones.

    Attributes:
        value: with the interval that is valid at any look.
        slices: that count, in the stage with most.
        left_out: those that do not, because they have far more requests than is usual, where they have the most.
        left_share: share of the variant's requests that they have there, 0..1.
        requests: the value over all requests, those of slices that dominate included.
        apart: whether that is outside of the interval.
    """

    value: Estimate
    slices: int
    left_out: int
    left_share: float
    requests: float
    apart: bool


@dataclass(frozen=True, slots=True)
class VariantRow:
    """One variant: what was counted, and its value with the interval that is valid at any look.

    Over several stages the value is that of all its requests together. Two such values must not be compared: only the
    analysis by stage does that.
    """

    variant: str
    n: float
    total: float
    users: int | None
    value: Estimate
    typical: TypicalValue | None = None


@dataclass(frozen=True, slots=True)
class SegmentValues:
    """Both variants' own values in a segment, each as it would be with the same mix of stages.

    Attributes:
        control_n: the control's requests, or whatever else the metric counts per.
        control: its value.
        variant_n: the same of the variant.
        variant: its value.
    """

    control_n: float
    control: float
    variant_n: float
    variant: float


@dataclass(frozen=True, slots=True)
class ComparedVariant:
    """A variant against the control, by every analysis that the data allow; the first one decides.

    Attributes:
        variant: its name.
        segment: of the users that are compared; empty for all of them.
        findings: one for each analysis.
        within: the values that are compared, where a report shows them beside the difference.
    """

    variant: str
    segment: str
    findings: tuple[Finding, ...]
    within: SegmentValues | None = None

    @property
    def verdict(self) -> str:
        """``higher``, ``lower`` or ``undecided``."""
        return self.findings[0].result


@dataclass(frozen=True, slots=True)
class SplitCheck:
    """Whether units were split as the weights promise, in one stage.

    Attributes:
        stage: its name; empty where there is only one.
        counts: units, or requests, by variant.
        expected: the counts that the weights promise.
        p: always valid, of "split as the weights promise".
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
        metric: which one.
        variants: a row for each, the control first.
        comparisons: of each variant with the control.
        segments: the same within each segment, corrected together by Benjamini and Hochberg.
        remarks: sentences on the segments.
    """

    metric: ReportedMetric
    variants: Sequence[VariantRow]
    comparisons: Sequence[ComparedVariant]
    segments: Sequence[ComparedVariant] = ()
    remarks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class AnalysisReport:
    """A whole analysis.

    Attributes:
        source: the file or the experiment.
        control: the variant that the others are compared with.
        alpha: of each metric's comparisons, together.
        stages: how many stages were compared one by one and then combined.
        metrics: one report for each.
        splits: sample-ratio checks; empty where the weights are not known.
        warnings: what a reader must know before believing anything.
        notes: what was done with the values before they were compared.
        adjust: how the p-values of all metrics and variants together are corrected; None where Holm's method corrects
            each metric's on their own.
    """

    source: str
    control: str
    alpha: float
    stages: int
    metrics: Sequence[MetricReport]
    splits: Sequence[SplitCheck] = field(default_factory=tuple)
    warnings: Sequence[str] = field(default_factory=tuple)
    notes: Sequence[str] = field(default_factory=tuple)
    adjust: Literal["holm", "bh", "none"] | None = None
