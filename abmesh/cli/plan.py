"""``plan``: how many requests, and how much time, an experiment or a rollout needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from abmesh.cli.options import CONFIG, ConfigOption, JsonOption
from abmesh.experiment.errors import SettingsError

_OF_ROLLOUTS: Final = (
    "users",
    "activity",
    "error_rate",
    "latency",
    "latency_p95",
    "longest",
    "settle",
    "within",
    "processes",
    "plot",
)
"""Options that only a plan of the document's rollout takes."""

_OF_QUESTIONS: Final = ("sd", "alpha", "one_sided", "weights", "design_effect", "looks", "experiment")
"""Options that only a plan of one question takes."""


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(plan)


def plan(
    rollout: Annotated[
        str | None,
        typer.Argument(metavar="[EXPERIMENT]", help="Plan the rollout of this experiment.", show_default=False),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            help="The control's value: 2% (a rate) or 220ms (a mean). With EXPERIMENT: METRIC=VALUE, such as "
            "click_rate=2%; may be repeated.",
        ),
    ] = None,
    effect: Annotated[
        list[str] | None,
        typer.Option(
            "--effect",
            help="Difference to find: 0.4%, 20ms, or with --relative 20%. [the goal's min_effect] With EXPERIMENT: "
            "METRIC=CHANGE, such as error_rate=x2; may be repeated. [twice each guardrail's limit]",
        ),
    ] = None,
    relative: Annotated[bool, typer.Option("--relative", help="The effect is a share of the baseline.")] = False,
    traffic: Annotated[
        str | None, typer.Option("--traffic", help="The experiment's requests, such as 10/s; also /m, /h, /d.")
    ] = None,
    power: Annotated[str, typer.Option("--power", help="Probability of finding the effect if it is real.")] = "80%",
    runs: Annotated[
        int | None,
        typer.Option(
            "--runs",
            min=1,
            max=100_000,
            help="Simulations of a size [2000]; with EXPERIMENT, most rollouts of each candidate [200].",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed; the same seed gives the same plan.")] = 1,
    sd: Annotated[str | None, typer.Option("--sd", help="Standard deviation of a mean's values, such as 90ms.")] = None,
    alpha: Annotated[str | None, typer.Option("--alpha", help="Error probability. [5%, or the document's]")] = None,
    one_sided: Annotated[bool, typer.Option("--one-sided", help="Test in the effect's direction only.")] = False,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Control's and candidate's weight. [50,50, or the document's]")
    ] = None,
    design_effect: Annotated[
        float | None,
        typer.Option(
            "--design-effect", help="How many requests of repeat users are worth one independent request. [1]"
        ),
    ] = None,
    looks: Annotated[
        int | None, typer.Option("--looks", help="Planned looks of the group-sequential design. [5, or the goal's]")
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option("--experiment", help="Take weights, effect, looks, alpha and the goal's test from it."),
    ] = None,
    users: Annotated[
        int | None, typer.Option("--users", min=1, max=1_000_000, help="With EXPERIMENT: how many users. [5000]")
    ] = None,
    activity: Annotated[
        float | None,
        typer.Option(
            "--activity", min=1.01, max=100, help="Pareto shape of the users' activity; 1.2 is very uneven. [2]"
        ),
    ] = None,
    error_rate: Annotated[str | None, typer.Option("--error-rate", help="The control's error rate. [1%]")] = None,
    latency: Annotated[str | None, typer.Option("--latency", help="The control's median latency. [200ms]")] = None,
    latency_p95: Annotated[
        str | None, typer.Option("--latency-p95", help="The control's 95th percentile. [2.28 times the median]")
    ] = None,
    longest: Annotated[
        str | None,
        typer.Option(
            "--longest", help="A rollout that takes longer is stuck. [four times the shortest rollout, at least 1d]"
        ),
    ] = None,
    settle: Annotated[str | None, typer.Option("--settle", help="The controller's settle time. [5s]")] = None,
    within: Annotated[
        str | None, typer.Option("--within", help="Begin no simulation later than this after the start. [3m]")
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, max=256, help="Processes to simulate in. [2]")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw power against effect and time to a .png, .svg or .pdf file."),
    ] = None,
    config: ConfigOption = CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say how many requests and how much time it takes: of an experiment's rollout, or of one question.

    With EXPERIMENT, the rollout in the document is simulated many times with the controller's own decisions: how often
    and when a candidate without a difference is promoted, and one that is worse rolled back.
    Without, sample sizes are computed for one look, for planned looks, and for looks at any time.
    """
    given = dict(locals())
    foreign = _OF_QUESTIONS if rollout is not None else _OF_ROLLOUTS
    for name in foreign:
        if given[name] is not None and given[name] is not False:
            where = "without EXPERIMENT" if rollout is not None else "with EXPERIMENT, such as abmesh plan chat-model"
            raise SettingsError(f"--{name.replace('_', '-')} is allowed only {where}")
    if rollout is not None:
        from abmesh.cli.plan_rollout import RolloutOptions, plan_rollout

        plan_rollout(
            RolloutOptions(
                experiment=rollout,
                baseline=baseline or [],
                effect=effect or [],
                relative=relative,
                traffic=traffic,
                power=power,
                runs=runs or 200,
                seed=seed,
                users=users or 5000,
                activity=activity or 2.0,
                error_rate=error_rate or "1%",
                latency=latency or "200ms",
                latency_p95=latency_p95,
                longest=longest,
                settle=settle or "5s",
                within=within or "3m",
                processes=processes or 2,
                plot=plot,
                config=config,
                as_json=as_json,
            )
        )
        return
    from abmesh.cli.plan_formula import FormulaOptions, plan_formula

    plan_formula(
        FormulaOptions(
            baseline=_one(baseline, "--baseline", "the control's value, such as 2% or 220ms"),
            effect=_one(effect, "--effect", "one difference") if effect else None,
            relative=relative,
            sd=sd,
            power=power,
            alpha=alpha,
            one_sided=one_sided,
            traffic=traffic,
            weights=weights,
            design_effect=1.0 if design_effect is None else design_effect,
            looks=looks,
            experiment=experiment,
            runs=runs,
            seed=seed,
            config=config,
            as_json=as_json,
        )
    )


def _one(values: list[str] | None, option: str, what: str) -> str:
    """The only value of an option that may be repeated in the other form.

    Raises:
        SettingsError: there is none, or more than one.
    """
    if not values:
        raise SettingsError(f"{option} is missing; allowed: {what}, or abmesh plan EXPERIMENT to plan a rollout")
    if len(values) > 1:
        raise SettingsError(f"{option} is given {len(values)} times; allowed: once, unless an EXPERIMENT is planned")
    return values[0]
