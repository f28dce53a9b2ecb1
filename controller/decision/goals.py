"""A verdict on the goal: better, worse, no difference worth having, or not known. Pure.

``anytime`` decides at any look: the candidate is better where the e-value against "it is not better" is at least
``1 / alpha_better``, and worse where that against "it is not worse" is at least ``1 / alpha_worse``. Each side has half
of alpha; but an experiment's loser is rolled back, so its side is one of the alarms that share alpha, and gets no more
than one alarm's part. ``group_sequential`` decides at planned looks only, where the standardised difference crosses the
Lan-DeMets O'Brien-Fleming boundary of its side; see :mod:`abmesh.inference.sequential`.

A difference worth having is ruled out where the upper limit of the benefit is below ``min_effect``: by its own
e-value, or by the repeated confidence interval ``d + boundary * se`` at a planned look (Jennison and Turnbull, *Group
Sequential Methods*, 1999, chapter 9). That ends an experiment early and can only make a false win rarer, so it takes
none of alpha.

What has been decided stays decided even if it could not be carried out at once: every e-value counts at the largest
that it has been, and the first planned look that decides is the last one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

from abmesh.experiment.limits import Goal
from abmesh.experiment.metrics import Metric
from abmesh.experiment.rollout import Rollout
from abmesh.inference.multiple import holm
from abmesh.inference.numbers import Floats, Side
from abmesh.inference.sequential import boundaries
from controller.decision.comparison import Comparison
from controller.decision.comparisons import compare
from controller.decision.guardrails import plain
from controller.decision.history import Look
from controller.decision.means import MeanComparison
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.shares import ShareComparison
from controller.decision.verdicts import GoalJudgement, GoalVerdict

_NO_PEAKS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _EValues:
    """Natural logarithms of the e-values that decide at any look, as in :class:`GoalJudgement`."""

    better: float
    worse: float
    small: float

    def verdict(self, rollout: Rollout) -> GoalVerdict:
        """What they decide."""
        if self.better >= -math.log(rollout.alpha_better):
            return GoalVerdict.WINNER
        if self.worse >= -math.log(rollout.alpha_worse):
            return GoalVerdict.LOSER
        return GoalVerdict.NO_DIFFERENCE if self.small >= -math.log(rollout.analysis.alpha) else GoalVerdict.OPEN

    def after(self, earlier: _EValues, rollout: Rollout) -> _EValues:
        """The larger ones, except evidence against a decision that was made before."""
        decided = earlier.verdict(rollout)
        return _EValues(
            earlier.better if decided is GoalVerdict.LOSER else max(self.better, earlier.better),
            earlier.worse if decided is GoalVerdict.WINNER else max(self.worse, earlier.worse),
            max(self.small, earlier.small),
        )


def hypotheses(goal: Goal) -> tuple[str, str, str]:
    """Names of the hypotheses that the e-values for better, worse and too small a difference speak against.

    For :class:`~controller.decision.history.History`: another goal in the document is another hypothesis.
    """
    least = "" if goal.min_effect is None else f"{plain(goal.min_effect):g}{' of the control' if goal.relative else ''}"
    higher, lower = f"{goal.metric} not higher", f"{goal.metric} not lower"
    better, worse = (higher, lower) if goal.more_is_better else (lower, higher)
    return better, worse, f"{goal.metric} {'higher' if goal.more_is_better else 'lower'} by {least}"


def judge_goal(
    rollout: Rollout, evidence: RolloutEvidence, looks: tuple[Look, ...], peaks: Mapping[str, float] = _NO_PEAKS
) -> tuple[GoalJudgement, tuple[Look, ...]]:
    """The verdict on the rollout's primary goal.

    Args:
        rollout: the plan, with a goal.
        evidence: what was counted.
        looks: the planned looks that were taken before.
        peaks: the largest logarithms that the e-values have had at earlier looks, by :func:`hypotheses`.

    Returns:
        The verdict, and the looks including this one if it was due.
    """
    goal = rollout.goal
    assert goal is not None
    metric, found = goal.measured, _compared(rollout, goal, evidence)
    values = found.values
    fraction = None if goal.planned_requests is None else values.n / goal.planned_requests
    if values.candidate is None or values.control is None:
        return GoalJudgement(metric.name, GoalVerdict.OPEN), looks
    e_values = _e_values(rollout, goal, found, peaks)
    z, error = _standardised(found, goal)
    boundary = None
    if goal.design == "anytime":
        verdict = e_values.verdict(rollout)
    else:
        verdict, boundary, looks = _planned(rollout, goal, found, z, error, looks)
    if verdict is GoalVerdict.OPEN and fraction is not None and fraction >= 1:
        verdict = GoalVerdict.INCONCLUSIVE
    judged = GoalJudgement(
        metric=metric.name,
        verdict=verdict,
        value=values.candidate,
        control=values.control,
        n=round(values.n),
        log_e_better=e_values.better,
        log_e_worse=e_values.worse,
        log_e_small=e_values.small,
        z=z,
        boundary=boundary,
        fraction=fraction,
        looks=len(looks),
        look_z=looks[-1].z if looks else None,
    )
    return judged, looks


def judge_secondary(
    rollout: Rollout, evidence: RolloutEvidence, primary: GoalJudgement, peaks: Mapping[str, float] = _NO_PEAKS
) -> tuple[GoalJudgement, ...]:
    """What is found about every goal, the primary one first, corrected for their number by Holm's method.

    Always-valid p-values are valid p-values at whatever moment somebody looks, and Holm's method needs no more. The
    primary goal keeps its verdict, which it reached at its own error probability: it alone decides, whatever the
    others say. A secondary goal is won or lost where its corrected p-value is at most alpha.

    Args:
        rollout: the plan, with secondary goals.
        evidence: what was counted.
        primary: the verdict on the primary goal.
        peaks: as for :func:`judge_goal`.
    """
    found = [primary]
    for goal in rollout.secondary_goals:
        compared = _compared(rollout, goal, evidence)
        values = compared.values
        if values.candidate is None or values.control is None:
            found.append(GoalJudgement(goal.metric, GoalVerdict.OPEN))
            continue
        e_values = _e_values(rollout, goal, compared, peaks)
        fraction = None if goal.planned_requests is None else values.n / goal.planned_requests
        z, _ = _standardised(compared, goal)
        found.append(
            GoalJudgement(
                metric=goal.metric,
                verdict=GoalVerdict.OPEN,
                value=values.candidate,
                control=values.control,
                n=round(values.n),
                log_e_better=e_values.better,
                log_e_worse=e_values.worse,
                log_e_small=e_values.small,
                z=z,
                fraction=fraction,
            )
        )
    adjusted = holm([item.p for item in found])
    corrected = [replace(item, adjusted=float(p)) for item, p in zip(found, adjusted, strict=True)]
    alpha = rollout.analysis.alpha
    return (
        corrected[0],
        *(replace(item, verdict=_secondary_verdict(item, alpha, alpha / len(found))) for item in corrected[1:]),
    )


def _secondary_verdict(found: GoalJudgement, alpha: float, alpha_small: float) -> GoalVerdict:
    assert found.adjusted is not None
    if found.adjusted <= alpha:
        return GoalVerdict.WINNER if found.log_e_better > found.log_e_worse else GoalVerdict.LOSER
    if found.log_e_small >= -math.log(alpha_small):
        return GoalVerdict.NO_DIFFERENCE
    return GoalVerdict.INCONCLUSIVE if found.fraction is not None and found.fraction >= 1 else GoalVerdict.OPEN


def _compared(rollout: Rollout, goal: Goal, evidence: RolloutEvidence) -> Comparison:
    metric = goal.measured
    if goal.planned_requests is None:
        return compare(metric, evidence.kept(metric), rollout.tuned_for, rollout.analysis.alpha)
    return compare(metric, evidence.kept(metric), goal.planned_requests, rollout.alpha_better, planned=True)


def _e_values(rollout: Rollout, goal: Goal, found: Comparison, peaks: Mapping[str, float]) -> _EValues:
    """The goal's e-values, the largest that they have been."""
    better, worse = (Side.GREATER, Side.LESS) if goal.more_is_better else (Side.LESS, Side.GREATER)
    now = _EValues(
        float(found.increase(better, 0.0, relative=_scale_free(goal.measured))[0]),
        float(found.increase(worse, 0.0, relative=_scale_free(goal.measured))[0]),
        _log_e_small(goal, found),
    )
    return now.after(_EValues(*(peaks.get(name, -math.inf) for name in hypotheses(goal))), rollout)


def peaks_of(goal: Goal, found: GoalJudgement) -> dict[str, float]:
    """What is remembered of a goal: its e-values by the hypotheses that they speak against."""
    e_values = found.log_e_better, found.log_e_worse, found.log_e_small
    return dict(zip(hypotheses(goal), e_values, strict=True))


def _planned(
    rollout: Rollout, goal: Goal, found: Comparison, z: float | None, error: float, looks: tuple[Look, ...]
) -> tuple[GoalVerdict, float | None, tuple[Look, ...]]:
    """The verdict of a group-sequential design: open between looks, then that of the first look that decided."""
    assert goal.planned_requests is not None
    decided = _decided(looks, rollout)
    if decided is not None:
        return *decided, looks
    fraction = min(1.0, found.values.n / goal.planned_requests)
    taken = looks[-1].fraction if looks else 0.0
    due = math.floor(taken * goal.looks + 1e-9) + 1  # the first planned look after the last one that was taken
    if z is None or fraction < due / goal.looks or taken >= 1:
        return GoalVerdict.OPEN, None, looks
    fractions = (*(look.fraction for look in looks), fraction)
    better, worse = (_boundaries(fractions, alpha)[-1] for alpha in (rollout.alpha_better, rollout.alpha_worse))
    least = _least(goal, found)
    ruled_out = least is not None and (z + better) * error < least
    looks = (*looks, Look(fraction=fraction, z=z, ruled_out=ruled_out))
    return *(_decided(looks, rollout) or (GoalVerdict.OPEN, worse if z < 0 else better)), looks


def _decided(looks: tuple[Look, ...], rollout: Rollout) -> tuple[GoalVerdict, float] | None:
    """The verdict of the first look that decided, and the boundary on its side."""
    if not looks:
        return None
    fractions = tuple(look.fraction for look in looks)
    both = (_boundaries(fractions, alpha) for alpha in (rollout.alpha_better, rollout.alpha_worse))
    for look, better, worse in zip(looks, *both, strict=True):
        if look.z >= better:
            return GoalVerdict.WINNER, better
        if -look.z >= worse:
            return GoalVerdict.LOSER, worse
        if look.ruled_out:
            return GoalVerdict.NO_DIFFERENCE, worse if look.z < 0 else better
    return None


@lru_cache(maxsize=256)
def _boundaries(fractions: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    # One side's alone: what stops on the other side can only make it rarer that this one is reached.
    return boundaries(fractions, alpha, sides=1)


def _standardised(found: Comparison, goal: Goal) -> tuple[float | None, float]:
    """The benefit divided by its standard error, and that error."""
    if not isinstance(found, ShareComparison | MeanComparison):
        return None, 0.0
    differences, variances = found.contrast()
    d, v = float(differences[0]), float(variances[0])
    if not v > 0 or not math.isfinite(v):
        return None, 0.0
    error = math.sqrt(v)
    return (d if goal.more_is_better else -d) / error, error


def _log_e_small(goal: Goal, found: Comparison) -> float:
    """Evidence against a benefit of at least ``min_effect``; 0 without one."""
    if goal.min_effect is None or goal.design != "anytime":
        return 0.0
    effect = plain(goal.min_effect)
    # Benefit below the effect: where more is better, an increase below +effect; where less is, one above -effect.
    log_e: Floats
    if goal.more_is_better:
        log_e = found.increase(Side.LESS, effect, relative=goal.relative)
    else:
        log_e = found.increase(Side.GREATER, -effect, relative=goal.relative)
    return float(log_e[0])


def _least(goal: Goal, found: Comparison) -> float | None:
    """The smallest benefit worth having, in the metric's unit."""
    if goal.min_effect is None:
        return None
    effect = plain(goal.min_effect)
    return effect * (found.values.control or 0.0) if goal.relative else effect


def _scale_free(metric: Metric) -> bool:
    """Whether "no difference" is tested as a ratio of one: for rates, whose method is exact for rare events."""
    return metric.share
