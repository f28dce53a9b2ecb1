"""Which column of a file is what: the variant, the unit, the metrics. Pure.

Called by :mod:`abmesh.analysis.results` and the modules that read rows. A file whose columns are called ``variant``,
``n`` and ``sum`` needs none of this (:mod:`abmesh.analysis.table_reader`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from abmesh.analysis.columns import Where

VARIANTS = ("variant", "version", "arm", "group", "treatment", "bucket")
"""Columns that are taken for the variant where nobody named one."""

UNITS = ("user", "userid", "unit", "unitid", "uid", "visitorid", "customerid", "clientid", "playerid")
"""Columns that are taken for the unit where nobody named one, without blanks, ``_`` and ``-``."""

_SHOWN = 600
"""Most characters of a list of columns in a message."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Columns that were named, each as it is written in the file or in another case.

    Attributes:
        variants: columns whose values, together, name the variant.
        unit: the column that names what was assigned, such as a user.
        n: the column that says how many requests a row stands for; one where there is none.
        metrics: columns of values, or of events among ``n``.
        segment, stage: columns that group rows.
        by: the column that names the experiment, where a file holds many.
        covariate: the column of a value from before the experiment.
    """

    variants: tuple[str, ...] = ()
    unit: str | None = None
    n: str | None = None
    metrics: tuple[str, ...] = ()
    segment: str | None = None
    stage: str | None = None
    by: str | None = None
    covariate: str | None = None

    def names_columns(self, header: Sequence[str]) -> bool:
        """Whether anything but the name of a metric was given, or the metric is a column."""
        columns = (self.unit, self.n, self.segment, self.stage, self.by, self.covariate, *self.variants)
        known = {_bare(name) for name in header} - {"sum"}
        return any(columns) or len(self.metrics) > 1 or any(_bare(name) in known for name in self.metrics)


@dataclass(frozen=True, slots=True)
class Places:
    """Where in a row each column is; names are as the file writes them.

    Attributes:
        header: all columns.
        variants: may be empty in a file of many experiments only.
        metrics: at least one.
    """

    header: tuple[str, ...]
    variants: tuple[int, ...]
    unit: int | None
    n: int | None
    metrics: tuple[int, ...]
    segment: int | None
    stage: int | None
    by: int | None
    covariate: int | None

    def name(self, index: int) -> str:
        """A column's name, as messages and reports show it."""
        return self.header[index]


def places(header: Sequence[str], asked: Asked, where: Where) -> Places:
    """Find the columns.

    Args:
        header: the cells of the first line.
        asked: what was named.
        where: the first line.

    Raises:
        DataError: a column is not there, is there twice, or has to be named.
    """
    names = tuple(cell.strip() for cell in header)

    def find(option: str, wanted: str | None) -> int | None:
        return None if wanted is None else _find(names, option, wanted, where)

    by = find("--by", asked.by)
    variants = tuple(_find(names, "--variant", wanted, where) for wanted in asked.variants)
    if not variants:
        guessed = _guess(names, VARIANTS)
        if len(guessed) != 1 and by is None:
            message = "several columns may be the variant" if guessed else "no column is known to be the variant"
            where.refuse("", message, _listed(names), "--variant COLUMN, with one of these", longest=_SHOWN)
        variants = tuple(guessed) if len(guessed) == 1 else ()
    unit = find("--unit", asked.unit)
    n = find("--n", asked.n)
    if unit is None and n is None:
        unit = next(iter(_guess(names, UNITS)), None)
    segment, stage = find("--segment", asked.segment), find("--stage", asked.stage)
    covariate = find("--covariate", asked.covariate)
    metrics = tuple(_find(names, "--metric", wanted, where) for wanted in asked.metrics)
    taken = [each for each in (*variants, unit, n, segment, stage, by, covariate, *metrics) if each is not None]
    if not metrics:
        left = [name for index, name in enumerate(names) if index not in taken and name]
        where.refuse("", "no column is named as a metric", _listed(left), "--metric COLUMN", longest=_SHOWN)
    twice = next((index for index in taken if taken.count(index) > 1), None)
    if twice is not None:
        where.refuse(names[twice], "the column is named for two purposes", names[twice], "one purpose each")
    return Places(names, variants, unit, n, metrics, segment, stage, by, covariate)


def _find(names: Sequence[str], option: str, wanted: str, where: Where) -> int:
    """The column that was named: exactly so, or else in another case."""
    found = [index for index, name in enumerate(names) if name == wanted.strip()]
    if not found:
        found = [index for index, name in enumerate(names) if name.casefold() == wanted.strip().casefold()]
    if len(found) != 1:
        message = f"{option} {wanted!r} is no column" if not found else f"{option} {wanted!r} is a column twice"
        where.refuse("", message, _listed(names), "a column of this file", longest=_SHOWN)
    return found[0]


def _guess(names: Sequence[str], known: Sequence[str]) -> list[int]:
    return [index for index, name in enumerate(names) if _bare(name) in known]


def _bare(name: str) -> str:
    return name.strip().casefold().replace("_", "").replace("-", "").replace(" ", "")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name for name in names if name) or "nothing"
