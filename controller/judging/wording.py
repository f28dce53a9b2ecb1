"""How numbers are written in reasons. Pure."""

from __future__ import annotations

from datetime import timedelta

from experiment.metrics import Metric
from experiment.quantities import format_duration, format_share


def show_value(metric: Metric, value: float) -> str:
    """A value of a metric: ``1.2%``, ``87.5 ms``."""
    return format_share(value) if metric.unit == "share" else format_milliseconds(value)


def show_increase(increase: float | timedelta, *, relative: bool) -> str:
    """What may be added to the control's value: ``plus 1%``, ``plus 20ms``, ``times 1.2``."""
    if relative:
        assert not isinstance(increase, timedelta)
        return f"times {1 + increase:.4g}"
    return f"plus {format_duration(increase) if isinstance(increase, timedelta) else format_share(increase)}"


def show_amount(value: float) -> str:
    """A probability: ``0.05``, ``3e-05``, ``below 1e-12``."""
    if value < 1e-12:
        return "below 1e-12"
    return f"{value:.2g}"


def format_milliseconds(value: float) -> str:
    """A duration as a person reads it: ``87.5 ms``, ``1240 ms``."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"
