"""``plan``: how many requests, and how much time, an experiment needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abmesh.cli.options import CONFIG, ConfigOption, JsonOption, print_json
from abmesh.experiment.errors import SettingsError
from abmesh.experiment.names import BUCKETS
from abmesh.experiment.quantities import DURATION_FORM, WEIGHT_FORM, format_weight, parse_duration, parse_weight

if TYPE_CHECKING:
    from abmesh.experiment.limits import Goal
    from abmesh.experiment.model import Experiment

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FORM = "a share such as 2%, a duration such as 220ms, or, with --sd, a plain number"


@dataclass(frozen=True, slots=True)
class Amount:
    """A quantity from the command line: a share in 0..1 (unit ``share``), milliseconds (``ms``) or a plain number."""

    value: float
    unit: str


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(plan)


def plan(
    baseline: Annotated[str, typer.Option("--baseline", help="The control's value: 2% (a rate) or 220ms (a mean).")],
    effect: Annotated[
        str | None,
        typer.Option(
            "--effect", help="Difference to find: 0.4%, 20ms, or with --relative 20%. [the goal's min_effect]"
        ),
    ] = None,
    relative: Annotated[bool, typer.Option("--relative", help="The effect is a share of the baseline.")] = False,
    sd: Annotated[str | None, typer.Option("--sd", help="Standard deviation of a mean's values, such as 90ms.")] = None,
    power: Annotated[str, typer.Option("--power", help="Probability of finding the effect if it is real.")] = "80%",
    alpha: Annotated[str | None, typer.Option("--alpha", help="Error probability. [5%, or the document's]")] = None,
    one_sided: Annotated[bool, typer.Option("--one-sided", help="Test in the effect's direction only.")] = False,
    traffic: Annotated[
        str | None, typer.Option("--traffic", help="The experiment's requests, such as 10/s; also /m, /h, /d.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Control's and candidate's weight. [50,50, or the document's]")
    ] = None,
    design_effect: Annotated[
        float,
        typer.Option("--design-effect", help="How many requests of repeat users are worth one independent request."),
    ] = 1.0,
    looks: Annotated[
        int | None, typer.Option("--looks", help="Planned looks of the group-sequential design. [5, or the goal's]")
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option("--experiment", help="Take weights, effect, looks and alpha from this experiment."),
    ] = None,
    config: ConfigOption = CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Compute sample sizes and durations for one look, for planned looks, and for looks at any time."""
    from abmesh.analysis.planning import PlanQuestion, as_text, plan_for
    from abmesh.analysis.planning import as_json as plan_json

    found = _experiment(experiment, config) if experiment is not None else None
    goal = found.rollout.goal if found is not None and found.rollout is not None else None
    base = _amount(baseline, "--baseline", plain=sd is not None)
    control, candidate = _weights(weights, found)
    error, sides = _alpha(alpha, found), 1 if one_sided else 2
    question = PlanQuestion(
        baseline=base.value,
        unit=base.unit,
        sd=_spread(sd, base),
        effect=_effect(effect, base, goal, relative=relative),
        power=_power(power, error / sides),
        alpha=error,
        sides=sides,
        control=control,
        candidate=candidate,
        design_effect=_number(str(design_effect), "--design-effect", "1 to 10000", 1, 10_000),
        looks=_looks(looks, goal),
        per_second=_traffic(traffic),
    )
    made = plan_for(question)
    if as_json:
        print_json(plan_json(made))
    else:
        typer.echo(as_text(made))


def _experiment(name: str, config: Path) -> Experiment:
    from abmesh.experiment.store import FileStore

    found = FileStore(config).read().document.experiment(name)
    if found.rollout is None:
        raise SettingsError(f"{name} has no rollout in {config}, so it has no goal and no weights to take")
    return found


def _amount(text: str, option: str, *, plain: bool) -> Amount:
    """A quantity with its sign.

    Args:
        text: as it was given.
        option: its name, for the message.
        plain: whether a number without unit is a value of a mean; otherwise it is a fraction.
    """
    sign, bare = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    length = parse_duration(bare)
    if length is not None:
        return Amount(sign * (length / timedelta(milliseconds=1)), "ms")
    number = _plain(bare.removesuffix("%").strip())
    if number is None or (not bare.endswith("%") and not plain and number > 1):
        raise SettingsError(f"{option} {text!r} is not a quantity; allowed: {_FORM} ({DURATION_FORM})")
    if bare.endswith("%"):
        return Amount(sign * number / 100, "share")
    return Amount(sign * number, "" if plain else "share")


def _plain(text: str) -> float | None:
    """A finite number of at least 0, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number <= 1e15 and "_" not in text else None


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
    found = _amount(text, "--sd", plain=True)
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
        amount = _amount(text, "--effect", plain=bool(base.unit != "share" and not relative))
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


def _number(text: str, option: str, allowed: str, lowest: float, highest: float) -> float:
    """A number or a percentage within bounds."""
    number = _plain(text.removesuffix("%").strip())
    value = number / 100 if number is not None and text.endswith("%") else number
    if value is None or not lowest <= value <= highest:
        raise SettingsError(f"{option} {text!r} is out of range; allowed: {allowed}")
    return value


def _power(text: str, side: float) -> float:
    """The probability of finding the effect; ``side`` is that of finding one where there is none."""
    power = _number(text, "--power", "50% to 99.99%", 0.5, 0.9999)
    if power < side + 1e-4:
        raise SettingsError(
            f"--power {text!r} is no more than chance finds at this --alpha; allowed: more than {side:.4%}"
        )
    return power


def _alpha(text: str | None, found: Experiment | None) -> float:
    if text is not None:
        return _number(text, "--alpha", "0.0001% to 50%", 1e-6, 0.5)
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


def _traffic(text: str | None) -> float | None:
    """Requests a second."""
    if text is None:
        return None
    number, _, unit = text.partition("/")
    rate = _plain(number.strip())
    seconds = _SECONDS.get(unit.strip())
    if not rate or seconds is None or rate > 1e12:
        raise SettingsError(
            f"--traffic {text!r} is not a rate; allowed: requests per unit of time: 10/s, 600/m, 5000/h, 1e6/d"
        )
    return rate / seconds
