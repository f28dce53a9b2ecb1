"""A report of many experiments as text, Markdown or JSON. Pure; called by :mod:`abmesh.cli.analyze`."""

from __future__ import annotations

from typing import Any

from abmesh.analysis.layout import Format, count, heading, listed, number, percent, probability, span, table
from abmesh.analysis.many import SPLIT_ALPHA, Compared, ManyReport
from abmesh.text import shorten

_NAME = 44
"""Most characters of a variant's name in a table."""

_METHODS = {
    "bh": "Benjamini and Hochberg's method, so of those that are significant at most {alpha} are expected to be false",
    "holm": "Holm's method, so with a probability of at least {sure} not one of those that are significant is false",
    "none": "nothing, so {alpha} of the experiments without any difference are significant by chance",
}


def as_text(report: ManyReport, style: Format) -> str:
    """The report for people."""
    many, tests, alpha = report.many, len(report.tests), percent(report.alpha)
    title = (
        f"{many.source}: {count(tests)} experiments by {many.by}, {many.metric} of {many.per}, "
        f"each variant compared with {report.against}, alpha {alpha}"
    )
    lines = [f"# {title}" if style == "markdown" else title]
    warnings = _warnings(report)
    if warnings:
        lines += heading("Warnings", style) + listed(warnings, style)
    header = ["valid", "experiments", "significant", "share", "without any correction"]
    counts = ((report.significant, report.unadjusted[0]), (report.plain_significant, report.unadjusted[1]))
    rows = [
        [valid, count(tests), count(found), number(found / max(tests, 1), "share"), count(unadjusted)]
        for valid, (found, unadjusted) in zip(("at any look", "for one look only"), counts, strict=True)
    ]
    lines += heading("Experiments with a difference", style) + table(header, rows, style)
    lines += heading(f"The {len(report.strongest)} with the strongest evidence", style) + _strongest(report, style)
    lines += heading("How to read this", style) + listed(_legend(report), style)
    return "\n".join(lines)


def _strongest(report: ManyReport, style: Format) -> list[str]:
    header = [report.many.by, "variants", "variant", report.many.per, report.many.metric, "value", "others"]
    header += ["difference", f"{percent(1 - report.alpha)} interval", "p", "result"]
    rows = []
    for test, (first, finding) in zip(report.tests, report.strongest, strict=False):
        decided = test.p <= report.alpha
        rows.append(
            [
                shorten(test.name, _NAME),
                count(len(report.many.tests[test.name])),
                shorten(first.variant, _NAME),
                count(first.arm.n),
                count(first.arm.y),
                number(first.arm.y / first.arm.n, "share"),
                number(first.other.y / first.other.n, "share"),
                number(finding.difference.value, "points", sign=True),
                span(finding.difference.interval, "points", sign=True),
                probability(test.p),
                ("higher" if first.difference > 0 else "lower") if decided else "undecided",
            ]
        )
    return table(header, rows, style)


def _warnings(report: ManyReport) -> list[str]:
    found = []
    if report.even and report.uneven:
        found.append(
            f"{count(report.uneven)} of {count(len(report.tests))} experiments are not split evenly between their "
            f"variants (chi-square test for one look, Holm's method, alpha {percent(SPLIT_ALPHA)}): trust none of "
            f"them until you have found the cause; --json says which"
        )
    if report.skipped:
        found.append(f"{_number_of(report.skipped, 'experiment')} left out for want of anything to compare")
    if report.many.left_out:
        found.append(
            f"{_number_of(report.many.left_out, 'row')} left out for want of an experiment, a variant or a value"
        )
    return found


def _number_of(number: int, what: str) -> str:
    return f"1 {what} is" if number == 1 else f"{count(number)} {what}s are"


def _legend(report: ManyReport) -> list[str]:
    alpha, sure = percent(report.alpha), percent(1 - report.alpha)
    found = [
        *[f"at any look: {method}" for method in dict.fromkeys(finding.method for _, finding in report.strongest)],
        "for one look only: z-test of two shares",
        "p of an experiment: that of its strongest comparison, corrected for its variants by Holm's method, and then "
        "for the number of experiments by " + _METHODS[report.adjust].format(alpha=alpha, sure=sure),
        "intervals hold for one comparison at any look and are not corrected; the strongest differences of many are "
        "also the most exaggerated",
    ]
    if report.against.startswith("the rest"):
        found.insert(0, "no variant is the control, so others are all other variants of the experiment together")
    if report.many.numbered:
        found.insert(0, "variants are called after the place of their row in the experiment; --variant names them")
    if report.even and not report.uneven:
        found.append(f"split: no experiment is less even than chance explains, at alpha {percent(SPLIT_ALPHA)}")
    if not report.even:
        found.append("split: not checked; pass --weights even to check it")
    return found


def as_json(report: ManyReport) -> dict[str, Any]:
    """The report for programs, with all experiments: shares in 0..1."""
    many = report.many
    return {
        "source": many.source,
        "by": many.by,
        "metric": many.metric,
        "per": many.per,
        "against": report.against,
        "alpha": report.alpha,
        "adjust": report.adjust,
        "experiments": len(report.tests),
        "significant": report.significant,
        "significant_one_look": report.plain_significant,
        "unadjusted": report.unadjusted[0],
        "unadjusted_one_look": report.unadjusted[1],
        "uneven": report.uneven if report.even else None,
        "tests": [
            {
                "test": test.name,
                "p": test.p,
                "p_one_look": test.plain_p,
                "split_p_one_look": test.split_p if report.even else None,
                "variants": [_compared(item) for item in test.compared],
            }
            for test in report.tests
        ],
        "warnings": _warnings(report),
    }


def _compared(item: Compared) -> dict[str, Any]:
    return {
        "variant": item.variant,
        "n": item.arm.n,
        "sum": item.arm.y,
        "other_n": item.other.n,
        "other_sum": item.other.y,
        "difference": item.difference,
        "p": item.p,
        "p_one_look": item.plain_p,
    }
