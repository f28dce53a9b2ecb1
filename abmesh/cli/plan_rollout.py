"""``abmesh plan EXPERIMENT``: the document's rollout, by simulation. Called by :mod:`abmesh.cli.plan`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from abmesh.cli.options import duration, print_json
from abmesh.cli.plan_amounts import amount_of, number_of, traffic_of
from abmesh.experiment.errors import RefusedError, SettingsError
from abmesh.experiment.quantities import parse_share

if TYPE_CHECKING:
    from abmesh.analysis.goal_plan import GoalPlan
    from abmesh.analysis.scenarios import Effect
    from abmesh.analysis.truth import Quantity, Truth
    from abmesh.experiment.metrics import Metric
    from abmesh.experiment.model import Experiment

_FASTEST: Final = 2_000.0
"""Requests a second that can be simulated in good time."""

_OF_P95: Final = 1.6448536269514722
"""Standard normal quantile of 95%."""

_SPREAD: Final = 0.5

_ERRORS: Final = "error_rate"


@dataclass(frozen=True, slots=True)
class RolloutOptions:
    """What was given on the command line, as :func:`abmesh.cli.plan.plan` takes it."""

    experiment: str
    baseline: Sequence[str]
    effect: Sequence[str]
    relative: bool
    traffic: str | None
    power: str
    runs: int
    seed: int
    users: int
    activity: float
    error_rate: str
    latency: str
    latency_p95: str | None
    longest: str | None
    settle: str
    within: str
    processes: int
    plot: Path | None
    config: Path
    as_json: bool


def plan_rollout(given: RolloutOptions) -> None:
    """Simulate, and print what becomes of each candidate.

    Raises:
        RefusedError: the experiment has no rollout, or none that can be simulated.
        SettingsError: an option makes no sense.
        UnknownName: the document has no such experiment.
    """
    from abmesh.analysis.playable import playable
    from abmesh.analysis.scenarios import goal_effect, scenarios_of
    from abmesh.cli.plan_output import as_json, as_text
    from abmesh.cli.plays import Budget, Simulation, simulate
    from abmesh.experiment.store import FileStore
    from controller.wording.values import show_guardrail

    found = FileStore(given.config).read().document.experiment(given.experiment)
    if found.rollout is None:
        raise RefusedError(f"{given.experiment} has no rollout to plan; add one to {given.config}")
    truth = _truth(given, found)
    wanted = number_of(given.power, "--power", "50% to 99.99%", 0.5, 0.9999)
    plan = playable(found, truth)
    subject = plan.experiment
    effects = _effects(given, subject, truth)
    asked = scenarios_of(subject, truth, effects)
    of_segments = {show_guardrail(rail) for rail in found.rollout.guardrails if rail.segment is not None}
    left_out = [*(_why_left_out(name, of_segments) for name in plan.left_out), *asked.left_out]
    if given.plot is not None:
        from abmesh.cli.plots.canvas import check_target

        check_target(given.plot)
    rollout = found.rollout
    longest = max(timedelta(days=1), 4 * len(rollout.steps) * rollout.stage.min_duration)
    longest = longest if given.longest is None else duration(given.longest)
    settle, within = duration(given.settle), duration(given.within)
    if longest <= timedelta():
        raise SettingsError(f"--longest {given.longest!r} is too short; allowed: more than 0s")
    given_all = Simulation(subject, longest, settle, given.seed, Budget(given.runs, within, given.processes))
    effect = goal_effect(subject, effects)
    goal = None if effect is None else _goal(given, subject, truth, effect, wanted)
    outlooks = simulate(given_all, asked.scenarios)
    if given.as_json:
        print_json(as_json(given_all, truth, outlooks, goal, left_out))
    else:
        typer.echo(as_text(given_all, truth, outlooks, goal, left_out))
    if given.plot is not None:
        from abmesh.cli.plan_pictures import draw

        draw(given_all, truth, outlooks, given.plot)


def _why_left_out(name: str, of_segments: Collection[str]) -> str:
    """What a plan lacks, and what would add it, if anything does."""
    if name in of_segments:
        return f"{name}: segments are not simulated"
    return name if name.startswith("check ") else f"{name}: pass its --baseline"


def _goal(given: RolloutOptions, subject: Experiment, truth: Truth, effect: Effect, wanted: float) -> GoalPlan | None:
    from abmesh.analysis.goal_plan import plan_goal
    from abmesh.analysis.sizing import RUNS

    typer.echo("simulating the goal's test", err=True)
    runs = max(100, min(RUNS, 10 * given.runs))
    return plan_goal(subject, truth, effect, wanted, runs=runs, seed=given.seed)


def _truth(given: RolloutOptions, experiment: Experiment) -> Truth:
    """What is assumed of the control and its users."""
    from abmesh.analysis.truth import Truth

    if given.traffic is None:
        raise SettingsError("--traffic is missing: how many requests the experiment gets, such as --traffic 10/s")
    traffic = traffic_of(given.traffic)
    if traffic > _FASTEST:
        raise SettingsError(
            f"--traffic {given.traffic!r} takes too long to simulate; allowed: at most {_FASTEST:g}/s. With more, a "
            f"rollout ends no later, and no sooner than its stages' min_duration allows"
        )
    share = parse_share(given.error_rate)
    if share is None or share >= 1:
        raise SettingsError(f"--error-rate {given.error_rate!r} is not a rate; allowed: 0% to less than 100%")
    median = duration(given.latency) / timedelta(milliseconds=1)
    if not median > 0:
        raise SettingsError(f"--latency {given.latency!r} is too short; allowed: more than 0ms")
    spread = _SPREAD
    if given.latency_p95 is not None:
        high = duration(given.latency_p95) / timedelta(milliseconds=1)
        if not median < high <= 1000 * median:
            raise SettingsError(
                f"--latency-p95 {given.latency_p95!r} is out of range; allowed: above the median, {given.latency}, and "
                f"at most 1000 times as long"
            )
        spread = math.log(high / median) / _OF_P95
    return Truth(
        users=given.users,
        requests_per_second=traffic,
        activity=given.activity,
        error_rate=share,
        latency_ms=median,
        latency_spread=spread,
        quantities=tuple(_quantities(given.baseline, experiment)),
    )


def _quantities(texts: Sequence[str], experiment: Experiment) -> Sequence[Quantity]:
    """The control's values of metrics other than errors and durations."""
    from abmesh.analysis.truth import Quantity

    found = []
    for text in texts:
        name, _, value = text.partition("=")
        if name in (_ERRORS, "latency_mean") or name.startswith("latency_p"):
            option = "--error-rate" if name == _ERRORS else "--latency and --latency-p95"
            raise SettingsError(f"--baseline {text!r}: pass {option} instead")
        metric = _metric(name, experiment, "--baseline", text)
        share = metric.unit == "share"
        amount = amount_of(value, "--baseline", plain=not share)
        unit = {"share": "share", "duration": "ms"}.get(metric.unit, "")
        if amount.unit != unit or amount.value <= 0 or (share and amount.value >= 1):
            allowed = {"share": "a share between 0% and 100%", "ms": "a duration, such as 300ms"}.get(
                unit, "a number above 0"
            )
            raise SettingsError(f"--baseline {text!r} is not a value of {name}; allowed: {allowed}")
        # Users' own rates differ by half, or by as much as rates so near to 100% can.
        between = min(_SPREAD, 0.5 * math.sqrt((1 - amount.value) / amount.value)) if share else _SPREAD
        try:
            found.append(Quantity(name, amount.value, between=between))
        except ValueError as error:
            allowed = "rates, value means, token means, ttft_mean, tokens_per_second"
            raise SettingsError(f"--baseline {text!r}: {error}; allowed: {allowed}") from error
    return found


def _effects(given: RolloutOptions, experiment: Experiment, truth: Truth) -> Mapping[str, Effect]:
    """The changes to plan for, by metric."""
    from abmesh.analysis.scenarios import Effect, scaled, value_of

    found = {}
    for text in given.effect:
        name, _, change = text.partition("=")
        metric = _metric(name, experiment, "--effect", text)
        share = metric.unit == "share"
        if change.startswith("x"):
            effect = Effect(factor=number_of(change[1:], "--effect", "x and a factor, such as x1.5", 0.001, 1000))
        else:
            amount = amount_of(change, "--effect", plain=not share)
            if given.relative or (amount.unit == "share" and not share):
                effect = Effect(factor=1 + amount.value)
            else:
                effect = Effect(amount=amount.value)
        control = value_of(experiment, metric, truth, candidate=False)
        if control is None:
            raise SettingsError(f"--effect {text!r}: the control's {name} is not known; pass --baseline {name}=...")
        target = effect.of(control)
        if (
            target == control
            or target <= 0
            or (share and target >= 1)
            or scaled(truth, metric, target / control) is None
        ):
            difference = "+0.5%" if share else "+20ms" if metric.unit == "duration" else "+10"
            raise SettingsError(
                f"--effect {text!r} is not a possible change of {name}; allowed: x and a factor, such as x2, or a "
                f"difference in its unit, such as {difference}"
            )
        found[name] = effect
    return found


def _metric(name: str, experiment: Experiment, option: str, text: str) -> Metric:
    found = experiment.metrics.get(name)
    if found is None:
        raise SettingsError(
            f"{option} {text!r} names no metric of {experiment.name}; allowed: METRIC=VALUE with one of "
            f"{', '.join(sorted(experiment.metrics))}"
        )
    return found
