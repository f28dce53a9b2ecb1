"""What to ask of a file of results, and what is taken from the file where nobody said it. Pure.

Called by :mod:`abmesh.analysis.results`, :mod:`abmesh.analysis.table_report` and :mod:`abmesh.cli.analyze`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from abmesh.analysis.columns import Where
from abmesh.analysis.layout import count, percent
from abmesh.analysis.table import Table
from abmesh.experiment.errors import UnknownName
from abmesh.inference.means import half_width
from abmesh.inference.multiple import benjamini_hochberg, holm

Adjust = Literal["holm", "bh", "none"]
"""How p-values are corrected for the number of comparisons: Holm, Benjamini and Hochberg, or not at all."""

CORRECTIONS: Mapping[Adjust, Callable[[Sequence[float]], Sequence[float]]] = {
    "holm": holm,
    "bh": benjamini_hochberg,
    "none": lambda p: p,
}

_FAR = 0.1
"""From which part of its width on an interval that is too wide is worth a warning."""


@dataclass(frozen=True, slots=True)
class TableQuestion:
    """What to report of a table.

    Attributes:
        metric: its name in the report, where the file calls it ``sum``.
        unit: of a mean: ``ms``; empty if it has none. Shares are in percent.
        control: a variant; the one that is named control if None.
        alpha: 0..1, of all metrics and variants together.
        tuned_for: requests of both variants at which an interval is narrowest; None for the file's own size.
        weights: the expected split, in basis points by variant, or ``even``; None to check nothing.
        planned: each candidate's requests at the last planned look, and the number of looks; None without.
        adjust: how p-values are corrected for the number of metrics and variants; None for Holm, or, of many
            experiments, for Benjamini and Hochberg.
    """

    metric: str = "metric"
    unit: str = ""
    control: str | None = None
    alpha: float = 0.05
    tuned_for: float | None = None
    weights: Mapping[str, int] | Literal["even"] | None = None
    planned: tuple[int, int] | None = None
    adjust: Adjust | None = None


def control_of(variants: Sequence[str], wanted: str | None, source: str) -> str:
    """The variant to compare with: the one that was asked for, or the only one that is named control, in any case.

    Raises:
        UnknownName: the file has no such variant.
        DataError: none was asked for, and not exactly one is named control.
    """
    if wanted is not None:
        if wanted not in variants:
            raise UnknownName("variant", wanted, tuple(variants))
        return wanted
    named = [name for name in variants if name.casefold() == "control"]
    if len(named) != 1:
        message = "no variant is named control" if not named else "several variants are named control"
        found = ", ".join(variants)
        Where(source, 0).refuse("variant", message, found, "--control NAME, with one of these", longest=400)
    return named[0]


def tuned_for(table: Table, wanted: float | None) -> float:
    """Requests of two variants at which the intervals of a table are narrowest.

    Without a wish, the power of ten that is nearest to the file's size. It stays the same while the file grows tenfold,
    so that what is read meanwhile is one confidence sequence; at worst its intervals are 5% wider than the narrowest.
    """
    return wanted if wanted is not None else near(_size(table))


def near(size: float) -> float:
    """The power of ten that is nearest to a size, at least 10."""
    return 10.0 ** max(1, round(math.log10(max(size, 1.0))))


def tuning_warning(table: Table, wanted: float | None, alpha: float) -> str:
    """A sentence if a wish is far from the size of a table; otherwise nothing."""
    size = _size(table)
    if wanted is None or size < 1:
        return ""
    width, best = (float(half_width(1.0, size, tuned, alpha)) for tuned in (wanted, size))
    if width <= best * (1 + _FAR):
        return ""
    return (
        f"--tuned-for {count(wanted)} is far from the {count(round(size))} {table.per} of two variants: intervals at "
        f"any look are {percent(round(width / best - 1, 2))} wider than they need be, so differences are missed"
    )


def _size(table: Table) -> float:
    """Requests of two average variants."""
    sizes = table.sizes()
    return 2 * sum(sizes.values()) / max(len(sizes), 1)
