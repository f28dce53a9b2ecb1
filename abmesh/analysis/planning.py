"""Sample size and duration of an experiment, for three ways to look at it. Pure; called by ``abmesh plan``.

The sizes for one look and for planned ones are those of the normal approximation in :mod:`abmesh.inference.fixed`;
rates are planned on the arcsine scale, on which their variance does not depend on their value. The anytime-valid size
is that of the test that runs, found by simulating it: :mod:`abmesh.analysis.sizing`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from abmesh.analysis.layout import count, number, percent, table
from abmesh.analysis.rules import Difference, GoalRule, ReportRule
from abmesh.analysis.sizing import LOOKS, RUNS, Size, size_for
from abmesh.experiment.quantities import format_duration
from abmesh.inference.fixed import anytime_sample_size, sample_size, sequential_sample_size
from abmesh.inference.sequential import boundaries, stopping

_LONGEST = timedelta(days=36_500)
_FEW_EVENTS = 10


@dataclass(frozen=True, slots=True)
class GoalDesign:
    """How an experiment's goal decides.

    Attributes:
        slices: of the experiment.
        planned: whether at planned looks only; otherwise at any look.
    """

    slices: int
    planned: bool = False


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """The effect to find, and how reliably.

    Attributes:
        baseline: the control's value: a share in 0..1, or a mean.
        unit: ``share``, ``ms`` or, for a plain number, empty.
        sd: standard deviation of a mean's values; None for a rate.
        effect: the candidate's value minus the control's, not 0.
        power: probability of finding it, 0..1.
        alpha: probability of a false alarm, 0..1.
        sides: 1 or 2.
        control, candidate: shares of the experiment's traffic, 0..1.
        design_effect: how many requests are worth one independent request.
        looks: planned looks of the group-sequential design.
        per_second: the experiment's requests a second; None if that is not known.
        goal: how the goal decides that the requests are for; None for what ``abmesh analyze`` says of a file.
    """

    baseline: float
    unit: str
    sd: float | None
    effect: float
    power: float = 0.8
    alpha: float = 0.05
    sides: int = 2
    control: float = 0.5
    candidate: float = 0.5
    design_effect: float = 1.0
    looks: int = 5
    per_second: float | None = None
    goal: GoalDesign | None = None


@dataclass(frozen=True, slots=True)
class Design:
    """One way to look at the data, and what it takes.

    Attributes:
        name: ``fixed-horizon``, ``group-sequential`` or ``anytime-valid``.
        valid: what it is valid for, in words.
        control, candidate: most requests of each.
        expected: requests of both that it takes on average if the effect is real; None where that is not computed.
        ratio: its size over that of one look.
        seconds: how long that takes; None without traffic.
        expected_seconds: how long it takes on average if the effect is real.
    """

    name: str
    valid: str
    control: int
    candidate: int
    expected: float | None
    ratio: float
    seconds: float | None
    expected_seconds: float | None

    @property
    def total(self) -> int:
        """Most requests of both."""
        return self.control + self.candidate


@dataclass(frozen=True, slots=True)
class Plan:
    """A design for each way to look."""

    question: PlanQuestion
    designs: tuple[Design, ...]
    notes: tuple[str, ...] = ()
    simulated: Size | None = None
    """The anytime-valid size, as simulations found it; None where it is too large to simulate."""


def plan_for(question: PlanQuestion, runs: int = RUNS, seed: int = 1) -> Plan:
    """What each design takes.

    Args:
        question: the effect to find, and how reliably.
        runs: simulated experiments that the anytime-valid size is taken from.
        seed: of their random numbers.
    """
    ratio = question.candidate / question.control
    variance, delta = _scale(question)
    asked = (variance, variance, delta, question.alpha, question.power)
    fixed = sample_size(*asked, ratio, sides=question.sides)
    planned = sequential_sample_size(*asked, question.looks, ratio, sides=question.sides)
    assumed = anytime_sample_size(*asked, ratio, sides=question.sides)
    simulated = _simulated(question, assumed, ratio, runs, seed)
    anytime = assumed if simulated is None else simulated.control / question.design_effect
    part = _expected_part(question, abs(delta) / math.sqrt(variance * (1 + 1 / ratio) / planned))
    looks = f"{question.looks} looks" if question.looks > 1 else "1 look"
    once = "one look at the end; every earlier look adds false alarms"
    some = f"{looks}, evenly spaced and planned in advance, the last at this size"
    ever = "any number of looks at any time; the interval is narrowest at this size"
    return Plan(
        question,
        (
            _design(question, "fixed-horizon", once, fixed, 1.0, 1.0),
            _design(question, "group-sequential", some, planned, planned / fixed, part),
            _design(question, "anytime-valid", ever, anytime, anytime / fixed, None),
        ),
        _notes(question, fixed, simulated),
        simulated,
    )


def _simulated(question: PlanQuestion, assumed: float, ratio: float, runs: int, seed: int) -> Size | None:
    """The control's requests that the test that runs needs; None if they are too many to simulate."""
    effect = question.design_effect
    truth = Difference(question.baseline, question.baseline + question.effect, question.sd, effect)
    rule: ReportRule | GoalRule = ReportRule(truth, question.alpha, question.sides)
    if question.goal is not None:
        rule = GoalRule(truth, question.alpha / question.sides, question.goal.slices)
    return size_for(rule, assumed * effect, ratio, question.power, runs=runs, seed=seed)


def _scale(question: PlanQuestion) -> tuple[float, float]:
    """Variance of one value and the effect, on the scale on which both variants have the same variance."""
    if question.sd is not None:
        return question.sd**2, question.effect
    changed = question.baseline + question.effect
    return 1.0, 2 * (math.asin(math.sqrt(changed)) - math.asin(math.sqrt(question.baseline)))


def _expected_part(question: PlanQuestion, drift: float) -> float:
    """Part of the largest size that a group-sequential design takes on average, if the effect is real."""
    fractions = [look / question.looks for look in range(1, question.looks + 1)]
    limits = boundaries(fractions, question.alpha, sides=question.sides)
    stops = stopping(fractions, limits, drift, sides=question.sides)
    return sum(t * p for t, p in zip(fractions, stops, strict=True)) + 1 - sum(stops)


def _design(question: PlanQuestion, name: str, valid: str, size: float, ratio: float, part: float | None) -> Design:
    requests = size * question.design_effect
    control = math.ceil(requests * (1 - 1e-12))
    candidate = math.ceil(requests * question.candidate / question.control * (1 - 1e-12))
    expected = None if part is None else part * (control + candidate)
    seconds = None
    if question.per_second is not None:
        seconds = max(control / question.control, candidate / question.candidate) / question.per_second
    expected_seconds = None if seconds is None or part is None else part * seconds
    return Design(name, valid, control, candidate, expected, ratio, seconds, expected_seconds)


def _notes(question: PlanQuestion, size: float, simulated: Size | None) -> tuple[str, ...]:
    notes = []
    if question.sd is None:
        rate = min(question.baseline, question.baseline + question.effect)
        fewest = rate * size * min(1.0, question.candidate / question.control)
        if fewest < _FEW_EVENTS:
            notes.append(f"only about {fewest:.2g} events are expected in the smaller variant, so the sizes are rough")
    if simulated is None:
        notes.append("the anytime-valid size is too large to simulate; it is that of a confidence sequence, and rough")
    if question.goal is not None and question.goal.planned:
        notes.append("this goal decides at planned looks: take the group-sequential size")
    if question.design_effect == 1:
        notes.append(
            "requests are assumed to be independent; if users repeat, pass --design-effect (abmesh analyze shows it)"
        )
    return tuple(notes)


def as_text(plan: Plan) -> str:
    """The plan for people."""
    question = plan.question
    points = "points" if question.unit == "share" else question.unit
    changed, lift = question.baseline + question.effect, question.effect / question.baseline
    sides = "two-sided" if question.sides == 2 else "one-sided"
    kind = "a rate" if question.sd is None else f"a mean (sd {number(question.sd, question.unit)})"
    lines = [
        f"To distinguish {kind} of {number(changed, question.unit)} from {number(question.baseline, question.unit)} "
        f"({number(question.effect, points, sign=True)}, {number(lift, 'share', sign=True)} of it)",
        f"with power {percent(question.power)}, alpha {percent(question.alpha)} {sides}, control "
        f"{percent(question.control)} and candidate {percent(question.candidate)} of the traffic"
        + (f", design effect {question.design_effect:g}" if question.design_effect != 1 else ""),
        "",
    ]
    timed = question.per_second is not None
    header = ["design", "control", "candidate", "total", *(["duration"] if timed else []), "ratio", "expected total"]
    rows = []
    for design in plan.designs:
        expected = "-" if design.expected is None else count(round(design.expected))
        rows.append(
            [
                design.name,
                count(design.control),
                count(design.candidate),
                count(design.total),
                *([_duration(design.seconds)] if timed else []),
                f"{design.ratio:.2f}",
                expected,
            ]
        )
        if timed:
            rows[-1].append(_duration(design.expected_seconds))
    lines += table([*header, *(["expected duration"] if timed else [])], rows, "text")
    lines += ["", *(f"{design.name}: valid for {design.valid}" for design in plan.designs)]
    lines.append("expected: on average, if the effect is real; the anytime-valid design may also find it sooner")
    if plan.simulated is not None:
        lines.append(_how_simulated(plan.question, plan.simulated))
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join(lines)


def _how_simulated(question: PlanQuestion, found: Size) -> str:
    """Where the anytime-valid size comes from."""
    rule = "what abmesh analyze says" if question.goal is None else "how this goal decides"
    return (
        f"simulated: {rule}, {count(found.runs)} times at the anytime-valid size: {found.power:.1%} +- "
        f"{found.error:.1%} found the effect at one of {LOOKS} looks, {found.at_end:.1%} at the last one alone"
    )


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan for programs: shares in 0..1, means in milliseconds or as they were given, times in seconds."""
    question = plan.question
    return {
        "baseline": question.baseline,
        "unit": question.unit,
        "sd": question.sd,
        "effect": question.effect,
        "power": question.power,
        "alpha": question.alpha,
        "sides": question.sides,
        "control_share": question.control,
        "candidate_share": question.candidate,
        "design_effect": question.design_effect,
        "looks": question.looks,
        "requests_per_second": question.per_second,
        "designs": [
            {
                "design": design.name,
                "control": design.control,
                "candidate": design.candidate,
                "total": design.total,
                "expected_total": design.expected,
                "ratio": design.ratio,
                "seconds": design.seconds,
                "expected_seconds": design.expected_seconds,
                "valid_for": design.valid,
            }
            for design in plan.designs
        ],
        "notes": list(plan.notes),
        "simulated": None
        if plan.simulated is None
        else {
            "rule": "analyze" if question.goal is None else "goal",
            "runs": plan.simulated.runs,
            "looks": LOOKS,
            "power": plan.simulated.power,
            "power_error": plan.simulated.error,
            "power_at_last_look": plan.simulated.at_end,
        },
    }


def _duration(seconds: float | None) -> str:
    """A duration to its two largest units, rounded up: ``3d4h``."""
    if seconds is None:
        return "-"
    if seconds > _LONGEST.total_seconds():
        return "over 100 years"
    unit = 3600 if seconds >= 86_400 else 60 if seconds >= 3600 else 1
    return format_duration(timedelta(seconds=math.ceil(seconds / unit) * unit))
