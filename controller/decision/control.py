"""Whether the control is fit to be compared with, and to get users back. Pure.

A rollback gives users to the control, and a comparison says what the candidate is worth beside it. Both are wrong while
the control fails: one that fails fast is quick, short and cheap, so a candidate that answers looks slow and dear. Two
questions are asked, of each *row* of the evidence: the whole rollout's, and the current stage's since each checkpoint.

**Does the control fail significantly more often than the candidate?** In such a row no guardrail that compares
latencies, tokens, speed or costs counts; where the control is beyond a limit on errors as well, neither does any other
comparison but that of errors. And where the control is beyond an absolute limit itself, that limit does not count
against a candidate that is not significantly worse. Leaving rows out of a mixture only makes an e-value smaller, so
what is left holds as it did. What begins after the control has recovered is found by the rows that begin after that.

**Is the control broken now?** It is if it is significantly beyond the limit of a guardrail with ``max`` or ``min``, or
of the emergency stop, judged as a candidate would be, and the newest row that says anything does not say that it keeps
the limit: a control that has recovered is not broken, however long it was. While it is broken, harm of the candidate
acts only where the candidate is significantly worse in everything that the control breaks, so that users lose nothing
by a rollback; for harm by errors it is enough to be worse in errors.

Called by :mod:`controller.decision.decide`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from abmesh.experiment.limits import Guardrail
from abmesh.experiment.metrics import ERROR_RATE, Metric
from abmesh.experiment.model import Experiment
from abmesh.experiment.rollout import Rollout
from abmesh.inference.numbers import Floats, Side
from controller.decision import guardrails
from controller.decision.comparison import Comparison, StratifiedSums
from controller.decision.comparisons import compare
from controller.decision.emergency_stop import judge_emergency_stop
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.verdicts import Judgement, SetAside, Verdict

Rows = frozenset[int]
"""Rows of the evidence: 0 for the whole rollout's, then one for each checkpoint, the oldest first."""

VISIBLE = 0.01
"""A share of failures that moves a quantile or a mean of all answers by some percent at most, if it is left in."""

_NONE: Rows = frozenset()
_OPPOSITE = {Side.GREATER: Side.LESS, Side.LESS: Side.GREATER}


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that the control is significantly beyond now.

    Attributes:
        judgement: the control's, as a candidate's would be.
        worse: whether the candidate is significantly worse than the control in that metric now.
    """

    judgement: Judgement
    worse: bool

    @property
    def metric(self) -> str:
        """The metric that is limited."""
        return self.judgement.metric


@dataclass(frozen=True, slots=True)
class ControlHealth:
    """What the evidence says about the control.

    Attributes:
        breaches: the limits that it is significantly beyond now.
        fails_more: rows in which it fails significantly more often than the candidate.
        beyond: rows in which it is significantly beyond each absolute limit and the candidate not significantly worse,
            by the limit's hypothesis.
        fails: rows in which it fails more often, and is beyond a limit on errors.
    """

    breaches: tuple[Breach, ...] = ()
    fails_more: Rows = _NONE
    beyond: Mapping[str, Rows] = field(default_factory=dict)
    fails: Rows = _NONE

    @property
    def broken(self) -> bool:
        """Whether it is beyond any limit now."""
        return bool(self.breaches)

    def left_out(self, guardrail: Guardrail) -> Rows:
        """The rows that do not count for a guardrail."""
        if not guardrail.compares:
            return self.beyond.get(guardrails.hypothesis(guardrail), _NONE)
        metric = guardrail.measured
        if metric == ERROR_RATE:
            return _NONE
        return self.fails_more if of_work(metric) else self.fails

    def goal_set_aside(self, metric: Metric) -> SetAside | None:
        """Why the goal is not decided on now; None if it is."""
        if self.broken:
            return SetAside.CONTROL_BROKEN
        return SetAside.CONTROL_FAILS if 0 in self.fails_more and of_work(metric) else None

    def forbids(self, judgement: Judgement) -> bool:
        """Whether harm must not give users to this control."""
        errors = judgement.metric == ERROR_RATE.name
        return any(not item.worse for item in self.breaches if item.metric == ERROR_RATE.name or not errors)


FIT = ControlHealth()
"""A control of which nothing bad is known."""


def of_work(metric: Metric) -> bool:
    """Whether a metric is of the work that an answer takes: an answer that fails takes less, or none."""
    return metric.unit in ("duration", "dollars") or metric.name in ("input_tokens_mean", "output_tokens_mean", SPEED)


SPEED = "tokens_per_second"


def judge_control(experiment: Experiment, evidence: RolloutEvidence) -> ControlHealth:
    """What the evidence says about the control; nothing where it has no users now.

    Args:
        experiment: with a rollout.
        evidence: what was counted.
    """
    rollout = experiment.rollout
    assert rollout is not None
    if experiment.control.weight == 0:
        return FIT
    own = evidence.control_alone()
    errors = _Rows(rollout, evidence, own, ERROR_RATE)
    fails_more = _fails_more(errors, evidence)
    breaches: list[Breach] = []
    beyond: dict[str, Rows] = {}
    beyond_errors: Rows = _NONE
    stop = rollout.analysis.emergency_stop
    if stop < 1 and (over := errors.significant(errors.level(Side.GREATER, stop))):
        beyond_errors |= over
        found = judge_emergency_stop(rollout, own)
        if found is not None and errors.is_beyond_now(stop, Side.GREATER):
            breaches.append(Breach(found, errors.is_worse_now(Side.GREATER)))
    for guardrail in rollout.guardrails:
        some = guardrail.per == "user" or guardrail.segment is not None  # which says nothing of the control as a whole
        if guardrail.compares or guardrail.dry_run or some:
            continue
        metric, limit = guardrail.measured, guardrails.plain(guardrail.limit)
        side = Side.GREATER if guardrail.upper else Side.LESS
        rows = errors if metric == ERROR_RATE else _Rows(rollout, evidence, own, metric)
        if not rows.counted:
            continue
        over = rows.significant(rows.level(side, limit))
        if not over:  # so that a control that keeps its limits costs little to judge
            continue
        beyond[guardrails.hypothesis(guardrail)] = over - rows.significant(rows.between(side))
        if metric == ERROR_RATE:
            beyond_errors |= over
        judged = guardrails.judge(guardrail, rollout, own)
        if judged.verdict is Verdict.HARMFUL and rows.is_beyond_now(limit, side):
            breaches.append(Breach(judged, rows.is_worse_now(side)))
    return ControlHealth(tuple(breaches), fails_more, beyond, fails_more & beyond_errors)


def weighed(judgement: Judgement, on_all: Judgement, health: ControlHealth, left_out: Rows) -> Judgement:
    """A guardrail's judgement, or the emergency stop's, in the light of the control.

    Args:
        judgement: on the rows that count.
        on_all: on all rows; the same where all count.
        health: of the control.
        left_out: the rows that do not count.
    """
    if judgement.verdict is Verdict.HARMFUL:
        return replace(judgement, set_aside=SetAside.CONTROL_BROKEN) if health.forbids(judgement) else judgement
    compares = judgement.guardrail is not None and judgement.guardrail.compares
    why = SetAside.CONTROL_FAILS if compares else SetAside.CONTROL_BROKEN
    if judgement.verdict is Verdict.HEALTHY:
        return judgement
    if on_all.verdict is Verdict.HARMFUL or (0 in left_out and compares and on_all.verdict is Verdict.INCONCLUSIVE):
        return replace(on_all, set_aside=why)
    return judgement


def _fails_more(errors: _Rows, evidence: RolloutEvidence) -> Rows:
    """The rows in which the control fails more often: significantly, or visibly while another row says so.

    A row of the last seconds proves little by itself.
    """
    significant = errors.significant(errors.between(Side.LESS))
    if not significant:
        return significant
    sums = StratifiedSums.of(evidence.kept(ERROR_RATE), ERROR_RATE)
    control, candidate = (
        y.sum(axis=-1) / np.maximum(n.sum(axis=-1), 1) for y, n in ((sums.y_a, sums.n_a), (sums.y_b, sums.n_b))
    )
    return significant | frozenset(np.flatnonzero(control - candidate > VISIBLE).tolist())


class _Rows:
    """E-values of one metric, row by row: of the control's own value, and between the two.

    As for health, they are taken without the slices that dominate: one user does not speak for the control.
    """

    def __init__(self, rollout: Rollout, evidence: RolloutEvidence, own: RolloutEvidence, metric: Metric) -> None:
        self._alpha, self._alarm = rollout.analysis.alpha, rollout.alpha_alarm
        self._metric, self._evidence, self._tuned_for = metric, evidence, rollout.tuned_for
        self._log_weights = evidence.look_back.log_weights
        self._own: Comparison = compare(metric, own.kept(metric), rollout.tuned_for, self._alpha)

    @cached_property
    def _both(self) -> Comparison:
        """Made when it is first asked for: a control that keeps its limits needs no comparison."""
        return compare(self._metric, self._evidence.kept(self._metric), self._tuned_for, self._alpha)

    @property
    def counted(self) -> bool:
        """Whether the control has a value."""
        return self._own.values.candidate is not None

    def level(self, side: Side, limit: float) -> Floats:
        """Against "the control's value is at most (GREATER), or at least (LESS), the limit"."""
        return self._own.level(side, limit)

    def between(self, side: Side) -> Floats:
        """Against "the candidate's value is at most (GREATER), or at least (LESS), the control's"."""
        values = self._both.values
        if values.candidate is None or values.control is None:
            return np.zeros(len(self._log_weights))
        return self._both.increase(side, 0.0, relative=self._metric.share)

    def significant(self, log_e: Floats) -> Rows:
        """The rows that say so by themselves, each at alpha: what is left out cannot find harm by mistake."""
        return frozenset(np.flatnonzero(log_e >= -math.log(self._alpha)).tolist())

    def is_beyond_now(self, limit: float, side: Side) -> bool:
        """Whether the newest row that says anything does not say that the control keeps the limit."""
        within = self._newest(self.level(_OPPOSITE[side], limit))
        return within is None or within <= (self._newest(self.level(side, limit)) or 0)

    def is_worse_now(self, side: Side) -> bool:
        """Whether the newest row that says anything says that the candidate is worse on this side."""
        worse = self._newest(self.between(side))
        better = self._newest(self.between(_OPPOSITE[side]))
        return worse is not None and (better is None or better < worse)

    def _newest(self, log_e: Floats) -> int | None:
        """The newest row that is significant as a part of the mixture of all; None if none is."""
        found: Sequence[int] = np.flatnonzero(log_e + self._log_weights >= -math.log(self._alarm)).tolist()
        return max(found, default=None)
