"""A report as text, Markdown or JSON. Pure; called by :mod:`abmesh.cli.analyze`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from abmesh.analysis.layout import (
    Format,
    count,
    heading,
    listed,
    number,
    percent,
    probability,
    span,
    table,
)
from abmesh.analysis.records import (
    AnalysisReport,
    ComparedVariant,
    Estimate,
    Finding,
    MetricReport,
    ReportedMetric,
    SplitCheck,
    TypicalValue,
)
from abmesh.inference.numbers import Interval

_UNKNOWN_USER = Estimate(None, Interval(-math.inf, math.inf))

_INTERVALS_ARE_NOT = "intervals are not, so one that excludes 0 beside 'undecided' is not a finding"


def as_text(report: AnalysisReport, style: Format) -> str:
    """The report for people."""
    sure = percent(1 - report.alpha)
    title = f"{report.source}: compared with {report.control}, alpha {percent(report.alpha)}"
    if report.stages > 1:
        title += f", {report.stages} stages compared one by one and combined"
    lines = [f"# {title}" if style == "markdown" else title]
    if report.warnings:
        lines += heading("Warnings", style) + listed(report.warnings, style)
    for part in report.metrics:
        lines += heading(part.metric.name, style) + _variants(part, sure, style)
        lines += ["", *_comparisons(part.metric, part.comparisons, sure, style)]
        if part.segments:
            title = (
                f"{part.metric.name} by segment: for exploring, not for deciding; p corrected by Benjamini and Hochberg"
            )
            lines += heading(title, style) + _segments(part, report.control, sure, style)
            if part.remarks:
                lines += ["", *listed(part.remarks, style)]
    if report.splits:
        lines += heading("Split", style) + _splits(report.splits, style)
    lines += heading("How to read this", style) + listed(_legend(report), style)
    return "\n".join(lines)


def _variants(part: MetricReport, sure: str, style: Format) -> list[str]:
    users = any(row.users is not None for row in part.variants)
    unit = part.metric.unit
    header = ["variant", *([part.metric.units] if users else []), part.metric.per, "sum", "value"]
    header.append(f"{sure} interval at any look")
    if part.metric.kind == "quantile":
        header.remove("sum")
    typical = any(row.typical is not None for row in part.variants)
    if typical:
        header += ["a typical user", f"{sure} interval at any look"]
    rows = []
    for row in part.variants:
        cells = [row.variant]
        if users:
            cells.append("-" if row.users is None else count(row.users))
        cells.append(count(row.n))
        if part.metric.kind != "quantile":
            cells.append(count(row.total))
        cells += [number(row.value.value, unit), span(row.value.interval, unit)]
        if typical:
            found = _UNKNOWN_USER if row.typical is None else row.typical.value
            cells += [number(found.value, unit), span(found.interval, unit)]
        rows.append(cells)
    return table(header, rows, style)


def _comparisons(metric: ReportedMetric, comparisons: Sequence[ComparedVariant], sure: str, style: Format) -> list[str]:
    segmented = any(item.segment for item in comparisons)
    header = [
        *(["segment"] if segmented else []),
        *("variant", "valid", "difference", f"{sure} interval", "lift", f"{sure} interval", "p", "result"),
    ]
    rows = []
    for item in comparisons:
        for index, finding in enumerate(item.findings):
            first = [*([item.segment] if segmented else []), item.variant]
            rows.append([*(first if index == 0 else [""] * len(first)), *_cells(metric, finding)])
    return table(header, rows, style)


def _segments(part: MetricReport, control: str, sure: str, style: Format) -> list[str]:
    """Segments, with their own values where they are known, instead of relative differences."""
    if not any(item.within for item in part.segments):
        return _comparisons(part.metric, part.segments, sure, style)
    several = len({item.variant for item in part.segments}) > 1
    name = "variant" if several else part.segments[0].variant
    # Several variants have a row each, which names the variant.
    own = ["variant", "requests", control, "requests", "value"] if several else ["requests", control, "requests", name]
    header = ["segment", *own, "difference", f"{sure} interval", "p", "result"]
    unit = part.metric.unit
    rows = []
    for item in part.segments:
        within, cells = item.within, _cells(part.metric, item.findings[0])
        assert within is not None
        values = [count(within.control_n), number(within.control, unit), count(within.variant_n)]
        values.append(number(within.variant, unit))
        rows.append([item.segment, *([item.variant] if several else []), *values, *cells[1:3], *cells[5:]])
    return table(header, rows, style)


def _cells(metric: ReportedMetric, finding: Finding) -> list[str]:
    lift, unit = finding.lift, metric.difference_unit
    return [
        finding.valid,
        number(finding.difference.value, unit, sign=True),
        span(finding.difference.interval, unit, sign=True),
        "-" if lift is None else number(lift.value, "share", sign=True),
        "-" if lift is None else span(lift.interval, "share", sign=True),
        finding.note if math.isnan(finding.p) else probability(finding.adjusted),
        finding.result,
    ]


def _splits(splits: Sequence[SplitCheck], style: Format) -> list[str]:
    rows = []
    for split in splits:
        counts = ", ".join(f"{name} {count(each)}" for name, each in split.counts.items())
        expected = ", ".join(f"{name} {count(round(each))}" for name, each in split.expected.items())
        stage = [split.stage] if len(splits) > 1 else []
        once = [] if split.plain_p is None else [probability(split.plain_p)]
        result = "ALARM" if split.alarm else "as expected"
        rows.append([*stage, split.unit, counts, expected, probability(split.p), *once, result])
    plain = ["p for one look"] if splits[0].plain_p is not None else []
    header = [*(["stage"] if len(splits) > 1 else []), "counted", "found", "expected", "p", *plain, "result"]
    return table(header, rows, style)


def _legend(report: AnalysisReport) -> list[str]:
    """What each analysis in the report is, and when it is valid."""
    used: dict[str, dict[str, dict[str, None]]] = {}
    for part in report.metrics:
        for item in (*part.comparisons, *part.segments):
            for finding in item.findings:
                used.setdefault(finding.valid, {}).setdefault(finding.method, {})[part.metric.name] = None
    lines = list(report.notes)
    for valid, methods in used.items():
        for method, names in methods.items():
            of = f" ({', '.join(names)})" if len(methods) > 1 else ""
            lines.append(f"{valid}{of}: {method}")
    for part in report.metrics:
        lines += [
            f"{part.metric.name}, {item.variant}: {finding.note}"
            for item in part.comparisons
            for finding in item.findings
            if finding.note and not math.isnan(finding.p)
        ]
    lines += _correction(report)
    if any(part.segments for part in report.metrics):
        lines.append(f"p of segments: corrected by Benjamini and Hochberg's method; {_INTERVALS_ARE_NOT}")
    if not report.splits:
        lines.append("split: not checked; pass --weights to check it")
    return lines


def _correction(report: AnalysisReport) -> list[str]:
    """How p-values are corrected for the number of comparisons, where there are several."""
    variants = max((len(part.comparisons) for part in report.metrics), default=0)
    if report.adjust is None or len(report.metrics) == 1:
        of, number_of = "p of several variants", variants
    else:
        of, number_of = f"p of {len(report.metrics)} metrics", len(report.metrics) * variants
        if variants > 1:
            of += f" and {variants} variants"
    if number_of < 2:
        return []
    if report.adjust == "none":
        return [f"{of}: not corrected, so one of {number_of} may be significant by chance: read it alone"]
    method = "Benjamini and Hochberg's" if report.adjust == "bh" else "Holm's"
    return [f"{of}: corrected by {method} method, separately for each analysis; {_INTERVALS_ARE_NOT}"]


def as_json(report: AnalysisReport) -> dict[str, Any]:
    """The report for programs: shares in 0..1, other values in the metric's unit, null for no limit."""
    return {
        "source": report.source,
        "control": report.control,
        "alpha": report.alpha,
        "stages": report.stages,
        "adjust": report.adjust or "holm",
        "metrics": [
            {
                "metric": part.metric.name,
                "kind": part.metric.kind,
                "unit": part.metric.unit,
                "variants": [
                    {
                        "variant": row.variant,
                        "requests": row.n,
                        "users": row.users,
                        "sum": row.total,
                        **_estimate(row.value),
                        "typical_user": _typical(row.typical),
                    }
                    for row in part.variants
                ],
                "comparisons": [_comparison(item) for item in part.comparisons],
                "segments": [{"segment": item.segment, **_within(item), **_comparison(item)} for item in part.segments],
                "remarks": list(part.remarks),
            }
            for part in report.metrics
        ],
        "split": [
            {
                "stage": split.stage,
                "counted": split.unit,
                "found": dict(split.counts),
                "expected": dict(split.expected),
                "p": split.p,
                "p_one_look": split.plain_p,
                "alarm": split.alarm,
            }
            for split in report.splits
        ],
        "warnings": list(report.warnings),
        "notes": list(report.notes),
    }


def _typical(found: TypicalValue | None) -> dict[str, Any] | None:
    """What a typical user meets, where that is known."""
    if found is None:
        return None
    return {
        **_estimate(found.value),
        "slices": found.slices,
        "slices_left_out": found.left_out,
        "share_left_out": found.left_share,
        "all_requests": found.requests,
        "apart": found.apart,
    }


def _within(item: ComparedVariant) -> dict[str, Any]:
    """A segment's own values, where they are known."""
    found = item.within
    if found is None:
        return {}
    return {
        "in_control": {"requests": found.control_n, "value": found.control},
        "in_variant": {"requests": found.variant_n, "value": found.variant},
    }


def _comparison(item: ComparedVariant) -> dict[str, Any]:
    return {
        "variant": item.variant,
        "result": item.verdict,
        "analyses": [
            {
                "valid": finding.valid,
                "difference": _estimate(finding.difference),
                "lift": None if finding.lift is None else _estimate(finding.lift),
                "p": _finite(finding.p),
                "p_adjusted": _finite(finding.adjusted),
                "result": finding.result,
                "method": finding.method,
                "note": finding.note,
            }
            for finding in item.findings
        ],
    }


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    return {
        "value": estimate.value,
        "lower": _finite(estimate.interval.lower),
        "upper": _finite(estimate.interval.upper),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
