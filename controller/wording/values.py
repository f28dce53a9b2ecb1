"""How numbers are written in sentences.

Pure; used by the modules beside this one, :mod:`abmesh.analysis` and the CLI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from abmesh.experiment.limits import Guardrail
from abmesh.experiment.metrics import Metric
from abmesh.experiment.quantities import format_duration, format_percent, format_share, format_weight
from controller.decision.verdicts import OnHarm
from controller.evidence.coverage import Coverage


def show_value(metric: Metric, value: float) -> str:
    """A value of a metric: ``1.2%``, ``87.5 ms``, ``$0.0012``, ``118``."""
    if metric.unit == "share":
        return format_share(value)
    if metric.unit == "duration":
        return show_milliseconds(value)
    return f"${value:.4g}" if metric.unit == "dollars" else f"{value:.4g}"


def show_limit(limit: float | timedelta, metric: Metric, *, relative: bool = False) -> str:
    """A limit as the document has it: ``5%``, ``20ms``, ``0.002``."""
    if isinstance(limit, timedelta):
        return format_duration(limit)
    return format_share(limit) if relative or metric.unit == "share" else f"{limit:.4g}"


def show_guardrail(guardrail: Guardrail) -> str:
    """What a guardrail is called: ``latency_p95 max_increase 20% of the control``."""
    amount = show_limit(guardrail.limit, guardrail.measured, relative=guardrail.relative)
    per = " per user" if guardrail.per == "user" else ""
    return f"{guardrail.subject}{per} {guardrail.kind} {amount}{' of the control' if guardrail.relative else ''}"


def show_effect(on_harm: OnHarm) -> str:
    """What harm does, as a verb."""
    return {OnHarm.ROLLBACK: "rolls back", OnHarm.PAUSE: "pauses", OnHarm.REPORT: "would act"}[on_harm]


def show_change(change: float | timedelta, metric: Metric, *, relative: bool, upper: bool) -> str:
    """How far from the control's value a candidate may be: ``plus 1%``, ``minus 20ms``, ``times 1.2``."""
    if relative:
        assert not isinstance(change, timedelta)
        return f"times {1 + (change if upper else -change):.4g}"
    return f"{'plus' if upper else 'minus'} {show_limit(change, metric)}"


def show_probability(value: float) -> str:
    """A probability: ``0.05``, ``3e-05``, ``below 1e-12``."""
    if value < 1e-12:
        return "below 1e-12"
    return f"{value:.2g}"


def show_milliseconds(value: float) -> str:
    """A duration: ``87.5 ms``, ``1240 ms``."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def show_age(age: timedelta) -> str:
    """An age in whole seconds; tenths only below ten seconds, where they matter."""
    step = timedelta(seconds=1) if age >= timedelta(seconds=10) else timedelta(milliseconds=100)
    return format_duration(age // step * step)


def show_weights(weights: Mapping[str, int]) -> str:
    """Weights by variant: ``model-a 90%, model-b 10%``."""
    return ", ".join(f"{name} {format_percent(points)}" for name, points in weights.items())


def show_steps(steps: Sequence[int]) -> str:
    """Steps as the document has them: ``[5, 25, 100]``."""
    return "[" + ", ".join(format_weight(step) for step in steps) + "]"


def show_coverage(coverage: Coverage) -> str:
    """Which Envoys did not answer, and why."""
    if coverage.total == 0:
        return "there is no Envoy to ask"
    shown = ", ".join(f"{envoy} ({why})" for envoy, why in coverage.absent[:3])
    more = f" and {len(coverage.absent) - 3} more" if len(coverage.absent) > 3 else ""
    return f"{coverage.answered} of {coverage.total} Envoys answered; no answer from {shown}{more}"


def show_needed(needed: int, things: str, seen: float, elapsed: timedelta) -> str:
    """How many more requests a verdict takes, and how long: ``about 1200 more requests (14m at this rate)``.

    Args:
        needed: how many more.
        things: what they are.
        seen: how many the current stage has had.
        elapsed: in what time.
    """
    digits = 10 ** max(0, len(str(needed)) - 2)
    text = f"about {-(-needed // digits) * digits} more {things}"
    if seen <= 0 or not elapsed:
        return text
    return f"{text} ({show_coarse(elapsed / seen * needed)} at this rate)"


def show_coarse(lasts: timedelta) -> str:
    """A time as exactly as it matters, in whole minutes from ten on: ``46s``, ``3h5m``, ``more than a year``."""
    if lasts > timedelta(days=365):
        return "more than a year"
    coarse = timedelta(minutes=1) if lasts >= timedelta(minutes=10) else timedelta(seconds=1)
    return format_duration(max(coarse, lasts // coarse * coarse))
