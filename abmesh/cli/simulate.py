"""``abmesh simulate``: simulate the document's rollout many times under assumed effects."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abmesh.cli.options import CONFIG, ConfigOption, ExperimentArgument, JsonOption, duration, print_json
from abmesh.experiment.errors import RefusedError, SettingsError
from abmesh.experiment.quantities import format_duration, format_percent, format_share, format_weight, parse_share

if TYPE_CHECKING:
    from abmesh.analysis.forecast import Forecast
    from abmesh.analysis.pictures import PowerPicture
    from abmesh.analysis.simulation import Played
    from abmesh.analysis.truth import Truth
    from abmesh.experiment.model import Experiment

_SHORTEST_TICK = timedelta(milliseconds=100)
"""The controller's own limit."""

_MOST_TICKS = 1_000_000
"""Most ticks in one simulated rollout; more would take days."""

_SWEPT = ("error-factor", "latency-factor")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(simulate)


def simulate(
    experiment: ExperimentArgument,
    runs: Annotated[int, typer.Option("--runs", "-n", min=1, max=100_000, help="Number of simulated rollouts.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives the same results.")] = 1,
    users: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of users.")] = 5000,
    traffic: Annotated[float, typer.Option(min=0.001, max=100_000, help="Requests per second, all users.")] = 20.0,
    activity: Annotated[
        float, typer.Option(min=1.01, max=100, help="Pareto shape of the users' activity; 1.2 is very uneven.")
    ] = 2.0,
    error_rate: Annotated[str, typer.Option(help="The control's error rate.")] = "1%",
    error_factor: Annotated[
        float, typer.Option(min=0, max=1000, help="The candidate's error rate relative to the control's.")
    ] = 1.0,
    latency: Annotated[str, typer.Option(help="The control's median latency.")] = "200ms",
    latency_factor: Annotated[
        float, typer.Option(min=0.01, max=1000, help="The candidate's latency relative to the control's.")
    ] = 1.0,
    drift: Annotated[
        float, typer.Option(min=0, max=0.9, help="Amplitude of a daily wave in load and error rate.")
    ] = 0.0,
    tick: Annotated[str, typer.Option(help="Time between two ticks of the controller.")] = "30s",
    longest: Annotated[str, typer.Option(help="Count a rollout that runs longer as undecided.")] = "2d",
    sweep: Annotated[
        str | None, typer.Option(help="Try several effects: error-factor=1,1.5,2 or latency-factor=1,1.1,1.2.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw power curves to a .png, .svg or .pdf file; needs --sweep.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes to run in parallel.")] = 2,
    config: ConfigOption = CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Simulate a rollout many times: how often it errs, and how long it takes.

    The controller's own code decides, starting from the document's weights.
    Guardrails and goals on anything but errors and durations are left out.
    """
    from abmesh.analysis.forecast import forecast
    from abmesh.analysis.playable import playable
    from abmesh.analysis.truth import Truth
    from abmesh.experiment.store import FileStore

    found = FileStore(config).read().document.experiment(experiment)
    if found.rollout is None:
        raise RefusedError(f"{experiment} has no rollout to simulate; add one to {config}")
    share = parse_share(error_rate)
    if share is None:
        raise SettingsError(f"--error-rate: {error_rate!r} is not a share; allowed: a percentage, such as 1%, or 0%")
    median = duration(latency)
    if not median:
        raise SettingsError(f"--latency {latency!r} is too short; allowed: more than 0ms")
    between, end = duration(tick), duration(longest)
    if between < _SHORTEST_TICK or end > _MOST_TICKS * between:
        raise SettingsError(
            f"--tick {tick!r} is out of range; allowed: {format_duration(_SHORTEST_TICK)} or more, and at most "
            f"{_MOST_TICKS} ticks until --longest {longest!r}"
        )
    truth = Truth(
        users=users,
        requests_per_second=traffic,
        activity=activity,
        error_rate=share,
        error_factor=error_factor,
        latency_ms=median / timedelta(milliseconds=1),
        latency_factor=latency_factor,
        drift=drift,
    )
    truths = _swept(truth, sweep)
    if plot is not None and len(truths) < 2:
        raise SettingsError("--plot draws curves over several effects; add, for example, --sweep error-factor=1,1.5,2")
    plan = playable(found, truth)
    rollout = plan.experiment.rollout
    assert rollout is not None
    if plot is not None:
        from abmesh.cli.plots.canvas import check_target

        check_target(plot)
    if plan.left_out and not as_json:
        _print_left_out(plan.left_out)
    played = _play_all(plan.experiment, [item for _, item in truths], runs, seed, between, end, processes)
    forecasts = []
    for (factor, item), plays in zip(truths, played, strict=True):
        result = forecast(plays, rollout, item)
        forecasts.append((factor, result))
        if as_json:
            print_json({**_as_json(item, result), "left_out": list(plan.left_out)})
        else:
            _print_result(item, result)
    if plot is not None:
        from abmesh.cli.plots.power import power_curves

        picture = _picture(experiment, str(sweep).partition("=")[0], forecasts, rollout.analysis.alpha)
        power_curves([picture], plot)


def _swept(truth: Truth, sweep: str | None) -> list[tuple[float, Truth]]:
    from dataclasses import replace

    if sweep is None:
        return [(truth.error_factor, truth)]
    name, _, values = sweep.partition("=")
    allowed = f"{' or '.join(_SWEPT)}, = and factors above 0 separated by commas, such as error-factor=1,1.5,2"
    try:
        factors = [float(value) for value in values.split(",")]
    except ValueError:
        factors = []
    if name not in _SWEPT or not factors or not all(0 < factor < 1000 for factor in factors):
        raise SettingsError(f"--sweep: {sweep!r} is not valid; allowed: {allowed}")
    if name == _SWEPT[0]:
        return [(factor, replace(truth, error_factor=factor)) for factor in factors]
    return [(factor, replace(truth, latency_factor=factor)) for factor in factors]


def _picture(name: str, swept: str, forecasts: Sequence[tuple[float, Forecast]], alpha: float) -> PowerPicture:
    from abmesh.analysis.pictures import PowerCurve, PowerPicture, ReferenceLine
    from abmesh.analysis.simulation import Ending

    ordered = sorted(forecasts, key=lambda item: item[0])
    curves = [
        PowerCurve(
            label=ending.replace("_", " "),
            effects=[factor for factor, _ in ordered],
            happened=[result.endings.get(ending, 0) for _, result in ordered],
            runs=[result.runs for _, result in ordered],
        )
        for ending in (Ending.ROLLED_BACK, Ending.PAUSED, Ending.PROMOTED, Ending.UNDECIDED)
        if ending is not Ending.PAUSED or any(ending in result.endings for _, result in ordered)
    ]
    return PowerPicture(
        title=f"{name}: how simulated rollouts end",
        effect=f"the candidate's {swept.partition('-')[0]}s relative to the control's".replace("latencys", "latency"),
        curves=curves,
        effects=[ReferenceLine(1.0, "no difference")],
        rates=[ReferenceLine(alpha, f"alpha {alpha:g}")],
    )


def _play_all(
    experiment: Experiment,
    truths: Sequence[Truth],
    runs: int,
    seed: int,
    tick: timedelta,
    longest: timedelta,
    processes: int,
) -> list[list[Played]]:
    """The simulated rollouts of each truth, in order."""
    from abmesh.cli.playing import play_all

    jobs = [(experiment, truth, tick, longest, [seed, run]) for truth in truths for run in range(runs)]
    flat = play_all(jobs, processes)
    return [flat[index * runs : (index + 1) * runs] for index in range(len(truths))]


def _print_left_out(left_out: Sequence[str]) -> None:
    typer.echo(f"left out, because only errors and durations are simulated: {', '.join(left_out)}")
    typer.echo("the results are without them; with fewer guardrails sharing alpha, each one acts on less evidence")


def _print_result(truth: Truth, result: Forecast) -> None:
    if result.broken:
        effect = f"harms {', '.join(result.broken)}"
    elif result.worse:
        effect = f"is worse on {', '.join(result.worse)}, but within the limit; harm: any may roll it back"
    else:
        effect = "does no harm"
    typer.echo(
        f"truth: errors {format_share(truth.error_rate)} x {truth.error_factor:g}, latency {truth.latency_ms:g} ms x "
        f"{truth.latency_factor:g}, {truth.requests_per_second:g} requests/s from {truth.users} users;"
        f" the candidate {effect}"
    )
    for ending, (median, late) in sorted(result.after.items()):
        rate, error = result.share(ending)
        typer.echo(
            f"  {ending.replace('_', ' ')}: {format_share(rate)} +- {format_share(error)} of {result.runs} runs, after "
            f"{format_duration(median)} (median), {format_duration(late)} (90%)"
        )
    causes = ", ".join(
        f"{cause.replace('_', ' ')} ({count} of {result.runs})" for cause, count in result.causes.items()
    )
    typer.echo(f"  causes: {causes}")
    if result.weights:
        at = ", ".join(
            f"{format_percent(weight)} ({count} of {result.runs})" for weight, count in result.weights.items()
        )
        typer.echo(f"  rolled back at {at}")
    if result.false_rollbacks is not None:
        typer.echo(f"  false rollbacks: {format_share(result.false_rollbacks)}")
    if result.missed_harm is not None:
        typer.echo(f"  missed harm (promoted or declared a winner): {format_share(result.missed_harm)}")
    typer.echo(f"  requests to the candidate: {result.requests} (median)")


def _as_json(truth: Truth, result: Forecast) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "truth": asdict(truth),
        "runs": result.runs,
        "endings": {ending.value: count for ending, count in result.endings.items()},
        "causes": {cause.value: count for cause, count in result.causes.items()},
        "broken": list(result.broken),
        "worse": list(result.worse),
        "false_rollbacks": result.false_rollbacks,
        "missed_harm": result.missed_harm,
        "seconds": {
            ending.value: {"median": median.total_seconds(), "p90": late.total_seconds()}
            for ending, (median, late) in result.after.items()
        },
        "rolled_back_at": {format_weight(weight): count for weight, count in result.weights.items()},
        "requests": result.requests,
    }
