"""Quantities, rates and numbers as ``abmesh plan`` takes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from abmesh.experiment.errors import SettingsError
from abmesh.experiment.quantities import DURATION_FORM, parse_duration

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FORM = "a share such as 2%, a duration such as 220ms, or, with --sd, a plain number"


@dataclass(frozen=True, slots=True)
class Amount:
    """A quantity from the command line: a share in 0..1 (unit ``share``), milliseconds (``ms``) or a plain number."""

    value: float
    unit: str


def amount_of(text: str, option: str, *, plain: bool) -> Amount:
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
    number = plain_of(bare.removesuffix("%").strip())
    if number is None or (not bare.endswith("%") and not plain and number > 1):
        raise SettingsError(f"{option} {text!r} is not a quantity; allowed: {_FORM} ({DURATION_FORM})")
    if bare.endswith("%"):
        return Amount(sign * number / 100, "share")
    return Amount(sign * number, "" if plain else "share")


def plain_of(text: str) -> float | None:
    """A finite number of at least 0, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number <= 1e15 and "_" not in text else None


def number_of(text: str, option: str, allowed: str, lowest: float, highest: float) -> float:
    """A number or a percentage within bounds."""
    number = plain_of(text.removesuffix("%").strip())
    value = number / 100 if number is not None and text.endswith("%") else number
    if value is None or not lowest <= value <= highest:
        raise SettingsError(f"{option} {text!r} is out of range; allowed: {allowed}")
    return value


def traffic_of(text: str) -> float:
    """Requests a second."""
    number, _, unit = text.partition("/")
    rate = plain_of(number.strip())
    seconds = _SECONDS.get(unit.strip())
    if not rate or seconds is None or rate > 1e12:
        raise SettingsError(
            f"--traffic {text!r} is not a rate; allowed: requests per unit of time: 10/s, 600/m, 5000/h, 1e6/d"
        )
    return rate / seconds
