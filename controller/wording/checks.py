"""Checks as sentences without a full stop. Pure; used for reasons, the journal's entries and a rollout's status.

Every sentence says that a check is outside of ``alpha``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from controller.decision.checks import CheckJudgement, CheckVerdict
from controller.wording.values import show_age

OUTSIDE = "outside of alpha"
"""That nobody knows how often a check acts by chance."""


def check_text(found: CheckJudgement) -> str:
    """What came of a check: ``check p99 (outside of alpha): 7.2 is above its max of 5, 3 answers in a row``."""
    name = f"check {found.name} ({OUTSIDE})"
    if found.verdict is CheckVerdict.UNANSWERED:
        return f"{name} has no answer: {found.problem}"
    answer = _answer(found)
    if found.verdict is CheckVerdict.PASSED:
        return f"{name} passes: {answer}"
    assert found.check is not None
    rows = f"{found.failing} answer{'s' if found.failing > 1 else ''} in a row"
    if found.verdict is CheckVerdict.FAILING:
        return f"{name}: {answer}, {rows}; it acts at {found.check.failures}"
    return f"{name} fails: {answer}, {rows}"


def checks_text(found: Iterable[CheckJudgement], verdict: CheckVerdict) -> str:
    """Those with a verdict."""
    return "; ".join(check_text(item) for item in found if item.verdict is verdict)


def age_text(seconds: float) -> str:
    """How old an answer is."""
    return f"{show_age(timedelta(seconds=round(seconds)))} ago"


def _answer(found: CheckJudgement) -> str:
    check = found.check
    assert check is not None
    if check.webhook is not None:
        return f"its webhook answered with status {found.status}"
    assert found.value is not None
    value = f"{found.value:.6g}"
    if check.max is not None and found.value > check.max:
        return f"{value} is above its max of {check.max:g}"
    if check.min is not None and found.value < check.min:
        return f"{value} is below its min of {check.min:g}"
    limits = [f"{name} {limit:g}" for name, limit in (("min", check.min), ("max", check.max)) if limit is not None]
    return f"{value} is within {' and '.join(limits)}"
