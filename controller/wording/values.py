"""How numbers are written in reasons. Pure."""

from __future__ import annotations

from datetime import timedelta

from abmesh.experiment.metrics import Metric
from abmesh.experiment.quantities import format_duration, format_share


def show_value(metric: Metric, value: float) -> str:
    """A value of a metric: ``1.2%``, ``87.5 ms``, ``$0.0012``, ``118``."""
    if metric.unit == "share":
        return format_share(value)
    if metric.unit == "duration":
        return format_milliseconds(value)
    return f"${value:.4g}" if metric.unit == "dollars" else f"{value:.4g}"


def show_limit(limit: float | timedelta, metric: Metric, *, relative: bool = False) -> str:
    """A limit as the document has it: ``5%``, ``20ms``, ``0.002``."""
    if isinstance(limit, timedelta):
        return format_duration(limit)
    return format_share(limit) if relative or metric.unit == "share" else f"{limit:.4g}"


def show_change(change: float | timedelta, metric: Metric, *, relative: bool, upper: bool) -> str:
    """How far from the control's value a candidate may be: ``plus 1%``, ``minus 20ms``, ``times 1.2``."""
    if relative:
        assert not isinstance(change, timedelta)
        return f"times {1 + (change if upper else -change):.4g}"
    return f"{'plus' if upper else 'minus'} {show_limit(change, metric)}"


def show_amount(value: float) -> str:
    """A probability: ``0.05``, ``3e-05``, ``below 1e-12``."""
    if value < 1e-12:
        return "below 1e-12"
    return f"{value:.2g}"


def format_milliseconds(value: float) -> str:
    """A duration as a person reads it: ``87.5 ms``, ``1240 ms``."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"
