"""``abmesh plan`` without a rollout: sizes for one question. Called by :mod:`abmesh.cli.plan`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from abmesh.cli.options import print_json
from abmesh.cli.plan_amounts import Amount, amount_of, number_of, traffic_of
from abmesh.experiment.errors import SettingsError
from abmesh.experiment.names import BUCKETS
from abmesh.experiment.quantities import WEIGHT_FORM, format_weight, parse_weight

if TYPE_CHECKING:
    from abmesh.experiment.limits import Goal
    from abmesh.experiment.model import Experiment


@dataclass(frozen=True, slots=True)
class FormulaOptions:
    """What was given on the command line, as :func:`abmesh.cli.plan.plan` takes it."""

    baseline: str
    effect: str | None
    relative: bool
    sd: str | None
    power: str
    alpha: str | None
    one_sided: bool
    traffic: str | None
    weights: str | None
    design_effect: float
    looks: int | None
    experiment: str | None
    runs: int | None
    seed: int
    config: Path
    as_json: bool


def plan_formula(given: FormulaOptions) -> None:
    """Print the designs.

    Raises:
        SettingsError: an option makes no sense.
    """
    from abmesh.analysis.planning import GoalDesign, PlanQuestion, as_text, plan_for
    from abmesh.analysis.planning import as_json as plan_json
    from abmesh.analysis.sizing import RUNS

    found = _experiment(given.experiment, given.config) if given.experiment is not None else None
    goal = found.rollout.goal if found is not None and found.rollout is not None else None
    base = amount_of(given.baseline, "--baseline", plain=given.sd is not None)
    control, candidate = _weights(given.weights, found)
    error, sides = _alpha(given.alpha, found), 1 if given.one_sided else 2
    question = PlanQuestion(
        baseline=base.value,
        unit=base.unit,
        sd=_spread(given.sd, base),
        effect=_effect(given.effect, base, goal, relative=given.relative),
        power=_power(given.power, error / sides),
        alpha=error,
        sides=sides,
        control=control,
        candidate=candidate,
        design_effect=number_of(str(given.design_effect), "--design-effect", "1 to 10000", 1, 10_000),
        looks=_looks(given.looks, goal),
        per_second=None if given.traffic is None else traffic_of(given.traffic),
        goal=None if found is None or goal is None else GoalDesign(found.slices, goal.design == "group_sequential"),
    )
    made = plan_for(question, given.runs or RUNS, given.seed)
    if given.as_json:
        print_json(plan_json(made))
    else:
        typer.echo(as_text(made))


def _experiment(name: str, config: Path) -> Experiment:
    from abmesh.experiment.store import FileStore

    found = FileStore(config).read().document.experiment(name)
    if found.rollout is None:
        raise SettingsError(f"{name} has no rollout in {config}, so it has no goal and no weights to take")
    return found


def _spread(text: str | None, base: Amount) -> float | None:
    """The standard deviation, which a mean needs and a rate has from its value."""
    if base.unit == "share":
        if text is not None:
            raise SettingsError("--sd: a rate does not need one; it follows from the baseline")
        if not 0 < base.value < 1:
            raise SettingsError(f"--baseline: a rate is between 0% and 100%; found {base.value:.4%}")
        return None
    if text is None:
        raise SettingsError("--sd is missing: a mean needs the standard deviation of its values, such as --sd 90ms")
    found = amount_of(text, "--sd", plain=True)
    if found.unit != base.unit or not found.value > 0:
        wanted = "a duration above 0, such as 90ms" if base.unit else "a plain number above 0, as --baseline is"
        raise SettingsError(f"--sd {text!r} does not match the baseline; allowed: {wanted}")
    if not base.value > 0:
        raise SettingsError("--baseline: a mean must be above 0")
    return found.value


def _effect(text: str | None, base: Amount, goal: Goal | None, *, relative: bool) -> float:
    """The difference to find, on the baseline's scale, with its sign."""
    if text is None:
        if goal is None or goal.min_effect is None:
            raise SettingsError("--effect is missing: give the difference to find, such as 0.4%, or 20% --relative")
        least, relative = goal.min_effect, goal.relative
        share = relative or goal.measured.unit == "share"
        if isinstance(least, timedelta):
            amount = Amount(least / timedelta(milliseconds=1), "ms")
        else:
            amount = Amount(least, "share" if share else "")
        amount = amount if goal.more_is_better else Amount(-amount.value, amount.unit)
    else:
        amount = amount_of(text, "--effect", plain=bool(base.unit != "share" and not relative))
    wanted = "share" if relative else base.unit
    if amount.unit != wanted:
        allowed = {"share": "a share, such as 20%", "ms": "a duration, such as 20ms", "": "a plain number"}[wanted]
        hint = "" if relative else "; for a share of the baseline add --relative"
        raise SettingsError(f"--effect {text or 'of the goal'} does not match the baseline; allowed: {allowed}{hint}")
    effect = amount.value * base.value if relative else amount.value
    if effect == 0:
        raise SettingsError("--effect is 0; no number of requests can show that nothing differs")
    changed = base.value + effect
    if base.unit == "share" and not 0 < changed < 1:
        raise SettingsError(f"--effect: the candidate's rate must be between 0% and 100%; found {changed:.4%}")
    if changed <= 0:
        raise SettingsError(f"--effect: the candidate's mean must be above 0; found {changed:.6g}")
    return effect


def _power(text: str, side: float) -> float:
    """The probability of finding the effect; ``side`` is that of finding one where there is none."""
    power = number_of(text, "--power", "50% to 99.99%", 0.5, 0.9999)
    if power < side + 1e-4:
        raise SettingsError(
            f"--power {text!r} is no more than chance finds at this --alpha; allowed: more than {side:.4%}"
        )
    return power


def _alpha(text: str | None, found: Experiment | None) -> float:
    if text is not None:
        return number_of(text, "--alpha", "0.0001% to 50%", 1e-6, 0.5)
    return found.rollout.analysis.alpha if found is not None and found.rollout is not None else 0.05


def _looks(number: int | None, goal: Goal | None) -> int:
    looks = number if number is not None else goal.looks if goal is not None else 5
    if not 1 <= looks <= 50:
        raise SettingsError(f"--looks {looks} is out of range; allowed: 1 to 50")
    return looks


def _weights(text: str | None, found: Experiment | None) -> tuple[float, float]:
    """Control's and candidate's share of the traffic."""
    if text is not None:
        points = [parse_weight(part.strip().removesuffix("%")) for part in text.split(",")]
        known = [point for point in points if point]
        if len(points) != 2 or len(known) != 2 or sum(known) > BUCKETS:
            allowed = f"control's and candidate's, above 0 and at most 100 together, such as 95,5; each {WEIGHT_FORM}"
            raise SettingsError(f"--weights {text!r} is not two weights; allowed: {allowed}")
        return known[0] / BUCKETS, known[1] / BUCKETS
    if found is None or found.rollout is None:
        return 0.5, 0.5
    from abmesh.experiment.weights import move_candidate

    rollout = found.rollout
    weights = dict(found.weights)
    if rollout.mode == "experiment" or not weights[rollout.candidate]:
        weights = move_candidate(weights, found.control.name, rollout.candidate, rollout.steps[0])
    control, candidate = weights[found.control.name], weights[rollout.candidate]
    if not control or not candidate:
        shown = f"{format_weight(control)} and {format_weight(candidate)}"
        raise SettingsError(f"{found.name} splits {shown}, which compares nothing; pass --weights")
    return control / BUCKETS, candidate / BUCKETS
