"""Tables and numbers as text: aligned for a terminal, or as Markdown. Pure."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Literal

from abmesh.inference.numbers import Interval

Format = Literal["text", "markdown"]

Row = Sequence[str]


def table(header: Row, rows: Sequence[Row], style: Format) -> list[str]:
    """Lines of a table; columns whose cells all start like numbers are aligned to the right.

    Args:
        header: names of the columns.
        rows: cells, as many as the header has.
        style: ``text`` aligns with spaces, ``markdown`` writes a GitHub table.
    """
    if style == "markdown":
        header, rows = [_escaped(cell) for cell in header], [[_escaped(cell) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in (header, *rows)) for index in range(len(header))]
    right = [bool(rows) and all(row[index][:1] in "+-<0123456789" for row in rows) for index in range(len(header))]

    def line(cells: Row) -> list[str]:
        pairs = zip(cells, widths, right, strict=True)
        return [cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in pairs]

    if style == "markdown":
        rule = [
            "-" * (width - 1) + ":" if to_right else "-" * width for width, to_right in zip(widths, right, strict=True)
        ]
        return ["| " + " | ".join(cells) + " |" for cells in (line(header), rule, *(line(row) for row in rows))]
    return ["  ".join(line(row)).rstrip() for row in (header, *rows)]


def heading(text: str, style: Format, level: int = 2) -> list[str]:
    """Lines of a heading, with empty lines around it."""
    return ["", f"{'#' * level} {text}", ""] if style == "markdown" else ["", text]


def listed(lines: Sequence[str], style: Format) -> list[str]:
    """Lines of a list."""
    return [f"- {line}" if style == "markdown" else f"  {line}" for line in lines]


def number(value: float | None, unit: str, *, sign: bool = False) -> str:
    """A value with its unit, to four significant digits; ``-`` for none.

    Args:
        value: a share in 0..1 where the unit is ``share`` or ``points``.
        unit: ``share`` gives percent, ``points`` percentage points; anything else is put behind the number.
        sign: whether to write ``+``.
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "no limit"
    behind = {"share": "%", "points": " pp", "": ""}.get(unit, f" {unit}")
    scaled = value * 100 if unit in ("share", "points") else value
    if abs(value) < sys.float_info.min:
        scaled = math.copysign(0.0, value)  # A limit that is just beyond 0.
    plain = 0.001 <= abs(scaled) < 1e7 or scaled == 0
    digits = max(0, 3 - math.floor(math.log10(abs(scaled)))) if plain and scaled else 0
    text = f"{scaled:{'+' if sign else ''}.{digits}f}" if plain else f"{scaled:{'+' if sign else ''}.3e}"
    if "." in text and "e" not in text:
        text = text.rstrip("0").rstrip(".")
    return text + behind


def span(interval: Interval, unit: str, *, sign: bool = False) -> str:
    """An interval in words: ``1.9% to 2.4%``, ``+0.1 to +0.3 pp``, ``above 1.9%``, ``no limit``."""
    lower, upper = number(interval.lower, unit, sign=sign), number(interval.upper, unit, sign=sign)
    if math.isfinite(interval.lower) and math.isfinite(interval.upper):
        return f"{lower.partition(' ')[0]} to {upper}"
    if math.isfinite(interval.lower):
        return f"above {lower}"
    return f"below {upper}" if math.isfinite(interval.upper) else "no limit"


def probability(p: float) -> str:
    """A p-value: ``0.0312``, ``<0.0001``; ``-`` for none."""
    if math.isnan(p):
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def count(value: float) -> str:
    """A count with thousands separated: ``21,067``; a large sum to six digits."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:,.6g}"


def percent(share: float) -> str:
    """A share in percent: ``95%``, ``0.5%``."""
    return f"{share * 100:.6g}%"


def _escaped(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|")
