"""The part of an experiment's rollout that can be simulated. Pure; called by ``abmesh simulate``."""

from __future__ import annotations

from dataclasses import dataclass

from abmesh.analysis.changed import changed
from abmesh.analysis.truth import Truth, measurable
from abmesh.experiment.errors import RefusedError
from abmesh.experiment.model import Experiment
from abmesh.experiment.names import OTHER_SEGMENT
from controller.wording.values import show_guardrail


@dataclass(frozen=True, slots=True)
class Playable:
    """An experiment as far as it can be simulated.

    Attributes:
        experiment: without the guardrails and the goal on metrics that a simulation has no data for.
        left_out: the names of those.
    """

    experiment: Experiment
    left_out: tuple[str, ...] = ()


def playable(experiment: Experiment, truth: Truth) -> Playable:
    """An experiment with a rollout, without what a simulation of this truth makes no data for.

    A metric without data is never healthy, so a rollout that waits for it would hold forever; one that is never
    counted, such as refusals, would be healthy whatever its limit.

    Raises:
        RefusedError: nothing that decides can be simulated.
    """
    rollout = experiment.rollout
    assert rollout is not None
    priced = all(variant.price is not None for variant in experiment.variants)
    segments = {segment.name for segment in truth.segments} | ({OTHER_SEGMENT} if truth.segments else set())
    kept = tuple(
        rail
        for rail in rollout.guardrails
        if measurable(rail.measured, truth, priced=priced) and (rail.segment is None or rail.segment in segments)
    )
    left_out = [show_guardrail(rail) for rail in rollout.guardrails if rail not in kept]
    goal = rollout.goal
    if goal is not None and not measurable(goal.measured, truth, priced=priced):
        left_out.append(f"goal {goal.metric}")
        goal = None
    secondary = tuple(item for item in rollout.secondary_goals if measurable(item.measured, truth, priced=priced))
    left_out += [f"secondary goal {item.metric}" for item in rollout.secondary_goals if item not in secondary]
    left_out += [f"check {check.name}" for check in rollout.checks]
    if not left_out:
        return Playable(experiment)
    undecided = rollout.mode == "experiment" and goal is None
    if undecided or (rollout.guardrails and not kept and goal is None):
        raise RefusedError(
            f"{experiment.name} cannot be simulated: a simulation makes only {_made(truth)}, and "
            f"{'what decides the experiment' if undecided else 'all that decides'} is on other metrics: "
            f"{', '.join(left_out)}"
        )
    plan = rollout.model_copy(
        update={"guardrails": kept, "goal": goal, "secondary_goals": secondary if goal else (), "checks": ()}
    )
    return Playable(changed(experiment, rollout=plan), tuple(left_out))


def _made(truth: Truth) -> str:
    """What a simulation of this truth makes data for."""
    *others, last = ["errors", "durations", *(item.metric for item in truth.quantities)]
    return f"{', '.join(others)} and {last}"
