"""What is done with the values of a file before they are added up: a cap, and a covariate from before. Pure.

Called by :mod:`abmesh.analysis.rows_tables`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abmesh.analysis.columns import Where
from abmesh.analysis.layout import count, number, percent
from abmesh.analysis.rows import Rows
from abmesh.inference.fixed import welch
from abmesh.inference.moments import Moments, PairedMoments, cuped, cuped_slope, winsorised
from abmesh.inference.numbers import Floats

_CUPED = (
    "adjusted (CUPED): what the covariate predicts is subtracted, so that users who differed before the experiment "
    "differ less now. The covariate must be from before: one that the experiment changes hides a part of the effect",
)

_FEWEST = 2
"""Rows with a covariate that a slope needs."""

_ALPHA = 0.001
"""Probability of a false doubt about the covariate."""


@dataclass(frozen=True, slots=True)
class Cap:
    """What values above count as.

    Attributes:
        value: in the metric's unit, or a quantile of the control's values, 0..1.
        quantile: whether it is one.
    """

    value: float
    quantile: bool


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of the rows that have a value of it; arrays of shape (rows,).

    Attributes:
        name: of the metric.
        cells: which cell each row belongs to.
        values: of the metric.
        n: requests.
        units: a hash of the unit; None where no column names it.
        covariate: the value from before, NaN where there is none; None without such a column.
    """

    name: str
    cells: NDArray[np.int32]
    values: Floats
    n: Floats
    units: NDArray[np.uint64] | None
    covariate: Floats | None


def capped(rows: Rows, metric: Column, control: str, cap: Cap) -> tuple[Column, str]:
    """Values above the cap count as the cap, in all variants alike; see :func:`abmesh.inference.moments.winsorised`.

    Returns:
        The capped column, and what was done, as a sentence.

    Raises:
        DataError: rows are sums, or the cap leaves nothing of the values.
    """
    if rows.n is not None:
        Where(rows.source, 0).refuse(metric.name, "a row's sum has no cap", allowed="--winsorise without --n")
    named = np.array([variant for _, _, variant in rows.keys])
    level, origin = cap.value, "as you asked"
    if cap.quantile:
        mine = metric.values[named[metric.cells] == control]
        level = float(np.quantile(mine, cap.value)) if mine.size else math.inf
        origin = f"{control}'s {percent(cap.value)} quantile"
    lower = winsorised(metric.values, level)
    if metric.values.size and float(np.ptp(metric.values)) > 0 and float(np.ptp(lower)) == 0:
        message = "the cap leaves no value different from another"
        allowed = "a cap above most values, such as --winsorise 99.9% or a number"
        Where(rows.source, 0).refuse(metric.name, message, number(level, ""), allowed)
    above = metric.values > level
    told = ", ".join(f"{name} {count(int((above & (named[metric.cells] == name)).sum()))}" for name in rows.variants)
    note = (
        f"{metric.name} is winsorised: values above {number(level, '')}, {origin}, count as {number(level, '')} "
        f"({told}), so that a few huge values cannot decide. What is compared is the mean of the capped values"
    )
    if cap.quantile:
        note += "; a quantile moves as the file grows, so if you look again, give the cap as a number"
    return replace(metric, values=lower), note


def adjusted(rows: Rows, metric: Column, control: str) -> tuple[Column, list[str], list[str]]:
    """Values minus what the covariate predicts; see :func:`abmesh.inference.moments.cuped`.

    All variants are adjusted by one slope, and a missing covariate counts as the mean, so nothing is adjusted there.

    Returns:
        The adjusted column; what was done, and what speaks against it, as sentences.

    Raises:
        DataError: rows are sums, or no row has a covariate.
    """
    assert metric.covariate is not None
    if rows.n is not None:
        Where(rows.source, 0).refuse(metric.name, "a row's sum is not adjusted", allowed="--covariate without --n")
    given = ~np.isnan(metric.covariate)
    lost = int((~given).sum())
    if metric.values.size - lost < _FEWEST:
        Where(rows.source, 0).refuse("--covariate", "the covariate has no values", allowed="numbers")
    # Numbers around 0 keep their digits; the difference of means does not change.
    x = np.where(given, metric.covariate - metric.covariate[given].mean(), 0.0)
    y = metric.values - metric.values.mean()
    width, arms = len(rows.keys), []
    columns = zip(*(sums(metric.cells, each, width) for each in (metric.n, x, x * x, y, y * y, x * y)), strict=True)
    for size, total_x, squares_x, total_y, squares_y, products in columns:
        arms.append(PairedMoments(Moments(size, total_y, squares_y), Moments(size, total_x, squares_x), products))
    slope = cuped_slope(arms)
    before = sum(arm.y.deviations for arm in arms)
    after = before - slope**2 * sum(arm.x.deviations for arm in arms)
    removed = 1 - after / before if before > 0 else 0.0
    share = percent(round(max(removed, 0.0), 3))
    note = f"{metric.name} is adjusted by the covariate, which removes {share} of its variance"
    if lost:
        note += f"; without a covariate and therefore not adjusted: {count(lost)}"
    treated = replace(metric, values=cuped(metric.values, x, slope))
    return treated, [note, *_CUPED], _doubts(rows, [arm.x for arm in arms], control)


def _doubts(rows: Rows, covariate: Sequence[Moments], control: str) -> list[str]:
    """A sentence if the covariate itself differs between variants of a stage, as it must not before an experiment."""
    parts: dict[str, dict[str, Moments]] = {}
    for (stage, _, variant), found in zip(rows.keys, covariate, strict=True):
        known = parts.setdefault(stage, {}).get(variant, Moments(0, 0, 0))
        total = Moments(known.n + found.n, known.total + found.total, known.squares + found.squares)
        parts[stage][variant] = total
    p = [
        welch(arms[control], arm, _ALPHA).p
        for arms in parts.values()
        if control in arms
        for variant, arm in arms.items()
        if variant != control
    ]
    if min(p, default=1.0) * len(p) > _ALPHA:
        return []
    return [
        "the covariate differs between variants, as no value from before the experiment should: it was measured later, "
        "or the users were not split at random; trust nothing that is adjusted by it"
    ]


def sums(places: NDArray[np.signedinteger[Any]], values: Floats, width: int) -> Floats:
    """The sum of the values in each place, shape (width,)."""
    return np.asarray(np.bincount(places, weights=values, minlength=width), dtype=np.float64)
