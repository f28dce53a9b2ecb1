"""The candidates that ``abmesh plan`` asks about: one without a difference, one for each way to be worse. Pure.

A candidate is worse by the effect that was given or, without one, by twice what each guardrail allows. Simulated by
:mod:`abmesh.analysis.simulation`, summed up by :mod:`abmesh.analysis.rollout_plan`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from abmesh.analysis.truth import Quantity, Truth, measurable, true_value
from abmesh.experiment import metrics
from abmesh.experiment.limits import Guardrail
from abmesh.experiment.metrics import Metric
from abmesh.experiment.model import Experiment
from abmesh.experiment.parts import Price
from controller.decision.guardrails import plain
from controller.wording.values import show_guardrail, show_value

_LEAST = 0.05
"""A value that should fall by more than all of it falls to this part of it."""

_EVENTS_VALUE: Final = "_value_per_request"


class Kind(StrEnum):
    """What a candidate is."""

    SAME = "same"
    WORSE = "worse"
    BETTER = "better"


@dataclass(frozen=True, slots=True)
class Effect:
    """A change of a metric: by an amount in its unit, or to so many times the control's value."""

    amount: float | None = None
    factor: float | None = None

    def of(self, control: float) -> float:
        """The candidate's value."""
        return control * self.factor if self.factor is not None else control + (self.amount or 0.0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One candidate.

    Attributes:
        name: what it is like, in words.
        kind: whether it is worse, better or neither.
        truth: what is simulated.
        metric: in which it differs; empty where in none.
        why: where the size of the difference comes from.
        factor: its value over the value that it would have without the difference.
    """

    name: str
    kind: Kind
    truth: Truth
    metric: str = ""
    why: str = ""
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """All candidates, and what could not be made one, with the reason."""

    scenarios: Sequence[Scenario]
    left_out: Sequence[str] = ()


def scenarios_of(experiment: Experiment, truth: Truth, effects: Mapping[str, Effect]) -> Asked:
    """The candidates that an experiment's rollout is planned for.

    Args:
        experiment: with a rollout that can be simulated.
        truth: without a difference.
        effects: by metric; without one for a guardrail's metric, each guardrail is broken twice over.
    """
    rollout = experiment.rollout
    assert rollout is not None
    goal, found, left_out = rollout.goal, [Scenario("no difference", Kind.SAME, truth)], []
    decides = goal is not None and rollout.mode == "experiment"
    limited = {rail.metric for rail in rollout.guardrails}
    given = [name for name in effects if goal is None or name != goal.metric or (name in limited and not decides)]
    asked = [(experiment.metrics[name], effects[name], "given") for name in given]
    if not given:
        for rail in rollout.guardrails:
            control = value_of(experiment, rail.measured, truth, candidate=False)
            if control is None:
                left_out.append(f"{show_guardrail(rail)}: the control's value is not known")
                continue
            watches = ", which only watches" if rail.dry_run else ""
            asked.append((rail.measured, _twice(rail, control), f"twice {show_guardrail(rail)}{watches}"))
    for metric, effect, why in asked:
        made = _scenario(experiment, truth, metric, effect, why)
        if made is None:
            left_out.append(f"{metric.name}: no candidate can be made worse by that")
        elif all(made.truth != other.truth for other in found):
            found.append(made)
    if decides:
        assert goal is not None
        improved = goal_effect(experiment, effects)
        if improved is None:
            left_out.append(f"goal {goal.metric}: it has no min_effect; pass --effect {goal.metric}=...")
        else:
            why = "given" if goal.metric in effects else "min_effect"
            both = [(improved, Kind.BETTER), (_opposite(improved), Kind.WORSE)]
            made_of = [_scenario(experiment, truth, goal.measured, each, why, kind) for each, kind in both]
            found += [made for made in made_of if made is not None]
    return Asked(found, left_out)


def goal_effect(experiment: Experiment, effects: Mapping[str, Effect]) -> Effect | None:
    """The improvement of the goal to plan for: as given, or the goal's ``min_effect``; None without either."""
    assert experiment.rollout is not None
    goal = experiment.rollout.goal
    if goal is None:
        return None
    if goal.metric in effects:
        return effects[goal.metric]
    if goal.min_effect is None:
        return None
    least = plain(goal.min_effect) * (1 if goal.more_is_better else -1)
    return Effect(factor=1 + least) if goal.relative else Effect(amount=least)


def value_of(experiment: Experiment, metric: Metric, truth: Truth, *, candidate: bool) -> float | None:
    """A variant's true value; None where the simulation has none."""
    if not measurable(metric, truth, priced=_prices(experiment) is not None):
        return None
    if metric.quantile is not None and metric.histogram != "duration":
        return None
    return true_value(metric, truth, candidate=candidate, prices=_prices(experiment))


def scaled(truth: Truth, metric: Metric, factor: float) -> Truth | None:
    """A truth in which the candidate's value of a metric is so many times as large; None if there is no such truth."""
    if metric == metrics.ERROR_RATE:
        return replace(truth, error_factor=truth.error_factor * factor)
    if metric.histogram == "duration" and (metric.quantile is not None or metric == metrics.LATENCY_MEAN):
        return replace(truth, latency_factor=truth.latency_factor * factor)
    names = {metric.name}
    if metric.histogram == "ttft":
        names = {"ttft_mean"}
    elif metric.name in metrics.COSTS:
        names = {"input_tokens_mean", "output_tokens_mean"}
    elif metric.name.endswith(_EVENTS_VALUE):
        names = {metric.name.removesuffix(_EVENTS_VALUE) + "_value_mean"}
    if not names & {item.metric for item in truth.quantities}:
        return None
    try:
        changed = tuple(_times(item, factor) if item.metric in names else item for item in truth.quantities)
    except ValueError:
        return None
    return replace(truth, quantities=changed)


def _times(item: Quantity, factor: float) -> Quantity:
    return replace(item, factor=item.factor * factor)


def _scenario(
    experiment: Experiment, truth: Truth, metric: Metric, effect: Effect, why: str, kind: Kind = Kind.WORSE
) -> Scenario | None:
    now = value_of(experiment, metric, truth, candidate=True)
    control = value_of(experiment, metric, truth, candidate=False)
    if now is None or control is None or now <= 0 or control <= 0:
        return None
    target = effect.of(control)
    if target <= 0 or (metric.unit == "share" and target >= 1):
        return None
    factor = float(f"{target / now:.9g}")  # So that two ways to compute a target make one candidate.
    made = scaled(truth, metric, factor)
    if made is None:
        return None
    name = f"{metric.name} {show_value(metric, control)} to {show_value(metric, target)}"
    return Scenario(name, kind, made, metric.name, why, factor)


def _twice(rail: Guardrail, control: float) -> Effect:
    """A change twice as large as a guardrail allows, as far as there is room for it."""
    limit = plain(rail.limit)
    if not rail.compares:
        target = 2 * limit if rail.upper else limit / 2
    else:
        change = 2 * limit * (control if rail.relative else 1.0)
        target = control + change if rail.upper else max(control - change, _LEAST * control)
    if rail.measured.unit == "share" and target >= 1:
        target = (1 + max(control, min(limit, 1.0))) / 2
    return Effect(amount=target - control)


def _opposite(effect: Effect) -> Effect:
    if effect.factor is not None:
        return Effect(factor=max(2 - effect.factor, _LEAST))
    return Effect(amount=-(effect.amount or 0.0))


def _prices(experiment: Experiment) -> dict[bool, Price | None] | None:
    """Prices of the candidate (True) and of the control (False); None where a variant has none."""
    rollout = experiment.rollout
    assert rollout is not None
    by_name = {variant.name: variant.price for variant in experiment.variants}
    if any(price is None for price in by_name.values()):
        return None
    return {True: by_name[rollout.candidate], False: by_name[experiment.control.name]}
