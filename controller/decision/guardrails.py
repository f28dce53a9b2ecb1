"""A verdict on each guardrail: healthy (non-inferior), harmful, or not known yet. Pure.

Harm is a one-sided question about the candidate's value ``b``, its limit and, with ``max_increase``, the control's
value ``a``. Two e-values are kept, each valid at any time:

    harm      against "b is at most its limit"; with ``harm: any``, also against "b is at most a"
    health    against "b is at least its limit"

    HARMFUL       the first is at least 1/alpha_harm
    HEALTHY       the second is at least 1/alpha, and the current stage's own value is within the limit
    INCONCLUSIVE  neither

Where more is better, the limit is ``min`` or ``max_decrease``, and the sides are swapped. Harm stays proven whatever
comes after it, in case the rollback could not be carried out at once. Health is judged now: a step is only taken while
the candidate is healthy.

Equivalently, harm is proven where the lower confidence limit of ``b`` (or of ``b - a``, or ``b / a``) is above what is
allowed, and health where the upper one is below. After Schultzberg et al., *Risk-aware product decisions in A/B tests
with multiple metrics* (2024, arXiv 2402.11609): alpha is split over the alarms that can roll back, because any one of
them does; it is not split over the guardrails' health, because all of them must be healthy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import numpy as np

from abmesh.experiment.limits import Guardrail
from abmesh.experiment.rollout import Rollout
from abmesh.inference.numbers import Floats, Side
from controller.decision.comparison import Comparison, Values
from controller.decision.comparisons import compare
from controller.decision.forecast import NOTHING_AHEAD, forecast, growing, returning_users, trend_of
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.segments import too_thin
from controller.decision.verdicts import Judgement, Verdict
from controller.decision.views import Shown, Views


def hypothesis(guardrail: Guardrail) -> str:
    """Name of what its e-value for harm speaks against, for :class:`~controller.decision.history.History`."""
    per = " per user" if guardrail.per == "user" else ""
    limit = f"{guardrail.subject}{per} {guardrail.kind} {plain(guardrail.limit):g}"
    if not guardrail.compares:
        return limit
    floor = "" if guardrail.negligible is None else f" or {guardrail.negligible:g}"
    return f"{limit}{' of the control' if guardrail.relative else ''}{floor}, harm {guardrail.harm}"


def judge(guardrail: Guardrail, rollout: Rollout, evidence: RolloutEvidence, peak: float = -math.inf) -> Judgement:
    """The verdict on one guardrail.

    Args:
        guardrail: of the rollout.
        rollout: the plan, whose analysis sets the error probabilities.
        evidence: what was counted.
        peak: the largest logarithm that the e-value for harm has had at earlier looks.
    """
    metric, heaviest = guardrail.measured, evidence.heaviest
    if guardrail.segment is not None:
        evidence = evidence.in_segment(guardrail.segment)
    alpha, alpha_harm = rollout.analysis.alpha, rollout.alpha_alarm
    if guardrail.per == "user":
        views = Views.alike(compare(metric, evidence, rollout.tuned_for, alpha, by_user=True))
    else:
        views = Views.of(lambda view: compare(metric, view, rollout.tuned_for, alpha), evidence, metric)
    found, harm = views.kept, _harm(guardrail)
    values = found.values if guardrail.compares else found.values.alone
    reference = values.control if guardrail.compares else None
    if values.candidate is None or (guardrail.compares and reference is None):
        n = 0 if values.candidate is None else round(values.n)
        return Judgement(metric.name, guardrail.kind, Verdict.ERROR, value=values.candidate, n=n, guardrail=guardrail)
    proven = -math.log(alpha_harm)
    thin = guardrail.segment is not None and too_thin(evidence.kept(metric), metric, alone=not guardrail.compares)
    if thin and peak < proven:
        return Judgement(
            metric.name,
            guardrail.kind,
            Verdict.INCONCLUSIVE,
            value=values.candidate,
            limit=limit_of(guardrail, reference),
            control=reference,
            n=round(values.n),
            alpha_harm=alpha_harm,
            alpha_healthy=alpha,
            heaviest=heaviest,
            thin=True,
            guardrail=guardrail,
        )
    log_e_harm, shown = views.mixed(lambda view: evidence.look_back.mixed(_log_e(guardrail, view, harm)), proven)
    log_e_healthy = float(_log_e_healthy(guardrail, found.grown(1.0))[0])
    healthy = log_e_healthy >= -math.log(alpha)
    within = _latest_within(guardrail, values)
    if max(log_e_harm, peak) >= proven:
        verdict = Verdict.HARMFUL
    elif healthy and within:
        verdict = Verdict.HEALTHY
    else:
        verdict = Verdict.INCONCLUSIVE
    if guardrail.harm == "any" and verdict is Verdict.INCONCLUSIVE and not healthy:
        log_e_any, shown_any = views.mixed(lambda view: evidence.look_back.mixed(_log_e_worse(guardrail, view)), proven)
        if log_e_any > log_e_harm:
            log_e_harm, shown = log_e_any, shown_any
        if log_e_harm >= proven:
            verdict = Verdict.HARMFUL
    still = log_e_harm >= proven
    returning = returning_users(found, metric, values, evidence.look_back.effects(hypothesis(guardrail)))
    ahead = NOTHING_AHEAD
    if verdict is Verdict.INCONCLUSIVE and not healthy:
        ahead = forecast(
            found,
            returning,
            healthy=lambda grown: bool(_log_e_healthy(guardrail, grown)[0] >= -math.log(alpha)),
            harmful=lambda grown: bool(_log_e_harmful(guardrail, grown)[0] >= -math.log(alpha_harm / 2)),
        )
    limit = limit_of(guardrail, reference)
    judgement = Judgement(
        metric=metric.name,
        kind=guardrail.kind,
        verdict=verdict,
        value=values.candidate,
        limit=limit,
        control=reference,
        n=round(values.n),
        log_e_harm=max(log_e_harm, peak),
        log_e_healthy=log_e_healthy,
        alpha_harm=alpha_harm,
        alpha_healthy=alpha,
        design_effect=values.design_effect,
        needed=ahead.needed,
        still=still,
        within=within,
        others=views.uneven,
        heaviest=heaviest,
        latest_n=values.latest_n,
        elapsed=evidence.elapsed.total_seconds(),
        leads=ahead.leads,
        returning=returning,
        trend=trend_of(found, evidence.look_back, limit, returning),
        latest=values.latest,
        variance=values.variance,
        guardrail=guardrail,
    )
    if verdict is Verdict.HARMFUL and still:
        judgement = _as_proven(judgement, guardrail, evidence, shown)
    return judgement


def _as_proven(
    judgement: Judgement, guardrail: Guardrail, evidence: RolloutEvidence, shown: Shown[Comparison]
) -> Judgement:
    """The judgement with the numbers of the evidence that says most for harm."""
    values = shown.view.values
    if shown.row:
        value, n = shown.view.moment(shown.row)
        since = evidence.look_back.seconds_since(shown.row)
        return replace(judgement, value=value, n=n, since=since, others=shown.others)
    control = values.control if guardrail.compares else None
    if values.candidate is None or (guardrail.compares and control is None):
        return judgement
    return replace(
        judgement,
        value=values.candidate,
        limit=limit_of(guardrail, control),
        control=control,
        n=round(values.n),
        design_effect=values.design_effect,
        others=shown.others,
    )


def effects(judgements: Iterable[Judgement]) -> dict[str, float]:
    """What forecasts need to know later of guardrails as they are judged now, by hypothesis, to four digits."""
    return {
        hypothesis(item.guardrail): float(f"{growing(item.guardrail.measured, item):.4g}")
        for item in judgements
        if item.guardrail is not None and item.value is not None
    }


_OPPOSITE = {Side.GREATER: Side.LESS, Side.LESS: Side.GREATER}


def _harm(guardrail: Guardrail) -> Side:
    """The side of the limit where harm lies."""
    return Side.GREATER if guardrail.upper else Side.LESS


def _log_e(guardrail: Guardrail, found: Comparison, side: Side) -> Floats:
    """Against "the candidate keeps its limit" on the side of harm, and "it does not" on the other."""
    limit = plain(guardrail.limit)
    if not guardrail.compares:
        return found.level(side, limit)
    log_e = found.increase(side, limit if guardrail.upper else -limit, relative=guardrail.relative)
    return log_e if side is not _harm(guardrail) else _not_negligible(guardrail, found, log_e)


def _log_e_healthy(guardrail: Guardrail, found: Comparison) -> Floats:
    """Against "it does not keep its limit"; half of it on a value that is negligible, whatever the control's is."""
    log_e = _log_e(guardrail, found, _OPPOSITE[_harm(guardrail)])
    if guardrail.negligible is None:
        return log_e
    return np.asarray(np.logaddexp(log_e, found.level(Side.LESS, guardrail.negligible)) - math.log(2))


def _log_e_worse(guardrail: Guardrail, found: Comparison) -> Floats:
    """Against "it is no worse than the control"."""
    return _not_negligible(guardrail, found, found.increase(_harm(guardrail), 0.0, relative=guardrail.relative))


def _not_negligible(guardrail: Guardrail, found: Comparison, log_e: Floats) -> Floats:
    """Harm that is also significantly more than what is negligible: whichever of the two does not hold, its own e-value
    is at least as large.
    """
    if guardrail.negligible is None:
        return log_e
    return np.minimum(log_e, found.level(Side.GREATER, guardrail.negligible))


def _log_e_harmful(guardrail: Guardrail, found: Comparison) -> Floats:
    """What rolls back while health is not proven: harm, or with ``harm: any`` a value that is only worse."""
    harm = _harm(guardrail)
    log_e = _log_e(guardrail, found, harm)
    if guardrail.harm != "any":
        return log_e
    return np.maximum(log_e, _log_e_worse(guardrail, found))


def _latest_within(guardrail: Guardrail, values: Values) -> bool:
    """Whether the current stage's own values keep the limit; a stage without values does."""
    if values.latest is None:
        return True
    if not guardrail.compares:
        return keeps(guardrail, values.latest, plain(guardrail.limit))
    return values.latest_control is None or keeps(guardrail, values.latest, limit_of(guardrail, values.latest_control))


def keeps(guardrail: Guardrail, value: float, limit: float) -> bool:
    """Whether a value is on the limit's good side."""
    return value <= limit if guardrail.upper else value >= limit


def limit_of(guardrail: Guardrail, reference: float | None) -> float:
    """The last value allowed: a share in 0..1, milliseconds, or whatever the metric is measured in.

    Args:
        guardrail: the limit.
        reference: the control's value, where the limit is a distance from it.
    """
    limit = plain(guardrail.limit)
    if not guardrail.compares:
        return limit
    assert reference is not None
    change = limit if guardrail.upper else -limit
    limit = reference * (1 + change) if guardrail.relative else reference + change
    return limit if guardrail.negligible is None else max(limit, guardrail.negligible)


def plain(limit: float | timedelta) -> float:
    """A limit as a number: a share, or milliseconds."""
    return limit / timedelta(milliseconds=1) if isinstance(limit, timedelta) else limit
