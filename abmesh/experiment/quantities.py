"""Quantities as people write them in the document: weights, shares, durations and limits. Pure.

weight    90, 12.5 or 0.25      percent, at most two decimals     -> basis points (int)
share     5%, 0.5% or 0.05      a percentage or a plain fraction  -> fraction (float)
duration  500ms, 30s, 1h30m     numbers with units                -> timedelta
size      64MB, 1.5GB           a number with a unit, of 1,000s   -> bytes (int)
limit     a share, a duration or a plain number, depending on its metric's unit

:mod:`abmesh.experiment.quantity_types` makes types of fields of them.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from decimal import Decimal, InvalidOperation

from abmesh.experiment.names import BUCKETS

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+")
WHOLE_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+|(?:[0-9]+(?:ms|s|m|h|d))+")
"""A duration in an object. An API server reads decimals or days, but drops the decimals where it finds days: 1.5d is
five days to it."""

_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_SIGNED = re.compile(r"-?[0-9]{1,13}(?:\.[0-9]{1,30})?")
PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?) *%")
_LONGEST = timedelta(days=3650)
SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(kB|MB|GB)")
_SIZE_UNITS = {"GB": 1_000_000_000, "MB": 1_000_000, "kB": 1_000}

DURATION_FORM = "a number with a unit (ms, s, m, h or d), such as 500ms, 30s or 1h30m, at most 3650d"
SHARE_FORM = "a percentage such as 5%, or a fraction from 0 to 1"
DAYS_FORM = f"{DURATION_FORM}; with days, without decimals: 36h for 1.5d"
LARGEST = 1e12
"""Largest limit that is a plain number."""

LIMIT_FORM = f"a percentage such as 5%; a duration: {DURATION_FORM}; or a plain number of at most {LARGEST:.0e}"
QUOTED_SHARE_FORM = 'a percentage such as 5%, or a fraction from 0 to 1 in quotes, such as "0.05"'
QUOTED_LIMIT_FORM = f'a percentage such as 5%; a duration: {DURATION_FORM}; or a number in quotes, such as "0.002"'
SIZE_FORM = "a number with a unit (kB, MB or GB), such as 64MB, from 100kB to 10GB"
WEIGHT_FORM = "a percentage from 0 to 100 with at most two decimals, such as 12.5"
PLAIN_WEIGHT_FORM = f"{WEIGHT_FORM}, without quotes"


class Percentage(float):
    """A share that was written with ``%``, as opposed to a plain number."""


class Bytes(int):
    """A size in bytes, as opposed to a plain number."""


def parse_duration(text: str) -> timedelta | None:
    """The duration that a text stands for; None if it is not a duration."""
    if not DURATION.fullmatch(text):
        return None
    try:
        total = sum((float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text)), timedelta())
    except OverflowError:
        return None
    return total if total <= _LONGEST else None


def format_duration(duration: timedelta) -> str:
    """A duration in its shortest form: ``3600s`` becomes ``1h``."""
    left = round(duration / _UNITS["ms"])
    if left == 0:
        return "0s"
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        size = round(_UNITS[unit] / _UNITS["ms"])
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return "".join(parts)


def parse_size(text: str) -> int | None:
    """The bytes that a text stands for, from 100 kB to 10 GB; None if it is not such a size."""
    found = SIZE.fullmatch(text)
    if not found or len(found[1]) > 20:
        return None
    size = Decimal(found[1]) * _SIZE_UNITS[found[2]]
    return int(size) if _SIZE_UNITS["kB"] * 100 <= size <= _SIZE_UNITS["GB"] * 10 else None


def format_size(size: int) -> str:
    """A size in the largest unit that it has one of: 64,000,000 becomes ``64MB``; parts of a kB are left out."""
    unit = next((unit for unit, count in _SIZE_UNITS.items() if size >= count), "kB")
    return f"{Decimal(size // 1_000 * 1_000) / _SIZE_UNITS[unit]:f}{unit}"


def parse_weight(value: object) -> int | None:
    """A weight in percent as basis points; None if the value is not a weight."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        return None
    try:
        percent = Decimal(str(value))
    except (InvalidOperation, ValueError):  # ValueError: an integer with more digits than Python converts
        return None
    if not percent.is_finite() or not 0 <= percent <= 100:
        return None
    _, digits, exponent = percent.as_tuple()
    # Checked before multiplying, which rounds to 28 digits.
    surplus = -int(exponent) - 2
    if surplus > 0 and any(digits[-surplus:]):
        return None
    return int(percent * (BUCKETS // 100))


def format_weight(points: int) -> str:
    """A weight as the document has it, in percent without a sign: 1250 basis points become ``12.5``."""
    percent = Decimal(points).scaleb(-2)
    return f"{percent:f}".rstrip("0").rstrip(".") if percent % 1 else str(int(percent))


def format_percent(points: int) -> str:
    """A weight as people read it: 1250 basis points become ``12.5%``."""
    return f"{format_weight(points)}%"


def parse_share(value: object) -> float | None:
    """A percentage or fraction as a fraction from 0 to 1; None if it is neither."""
    if isinstance(value, str):
        percent = PERCENT.fullmatch(value)
        share = float(percent[1]) / 100 if percent else math.nan
    elif isinstance(value, int | float) and not isinstance(value, bool):
        share = float(value) if abs(value) <= 1 else math.nan
    else:
        return None
    return share if 0 <= share <= 1 else None


def format_share(share: float, digits: int = 3) -> str:
    """A share as a percentage, to so many significant digits: 0.0123 becomes ``1.23%``."""
    return f"{share * 100:.{digits}g}%"


def percent_of(points: int) -> float:
    """Basis points in percent, as a whole number where it is one: 90, 12.5."""
    whole, rest = divmod(points, BUCKETS // 100)
    return float(format_weight(points)) if rest else whole


def percentage(share: float) -> str:
    """A share as a percentage that means exactly it; empty if there is none."""
    text = f"{Decimal(repr(float(share))).scaleb(2).normalize():f}%"
    return text if parse_share(text) == share else ""


def exact_duration(duration: timedelta) -> str:
    """A duration to the microsecond: as :func:`format_duration` has it, and ``26h0.0015s`` with parts of one."""
    if not duration % _UNITS["ms"]:
        return format_duration(duration)
    # No days: see WHOLE_DURATION.
    hours, rest = divmod(duration, _UNITS["h"])
    minutes, rest = divmod(rest, _UNITS["m"])
    seconds = Decimal(rest // timedelta(microseconds=1)) / 1_000_000
    return "".join((f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{seconds:f}s"))


def unquoted(value: object) -> object:
    """A value of an object as a file has it: numbers with decimals stand in quotes, and without them they are none.

    The API server takes a whole number or a text where both are allowed, and refuses 0.05.
    """
    if isinstance(value, float):
        return None
    return float(value) if isinstance(value, str) and _SIGNED.fullmatch(value) else value
