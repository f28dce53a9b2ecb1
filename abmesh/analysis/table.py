"""What a file of results holds: totals by stage, segment and variant. Pure.

Read by :mod:`abmesh.analysis.table_reader`, compared by :mod:`abmesh.analysis.table_report`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from abmesh.analysis.records import Kind
from abmesh.inference.numbers import Slices

CellKey = tuple[str, str, str]
"""Stage, segment, variant."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What was added up of one variant, in one stage and one segment.

    Attributes:
        n: requests.
        y: sum of the metric: events, or the sum of all values.
        yy: sum of squares, where the metric is a mean of independent requests.
        slices: the same sums by group of users, where users send several requests.
    """

    n: float
    y: float
    yy: float | None = None
    slices: Slices | None = None

    def __add__(self, other: Totals) -> Totals:
        """Both together."""
        slices = None
        if self.slices is not None and other.slices is not None:
            slices = Slices(self.slices.n + other.slices.n, self.slices.y + other.slices.y)
        yy = None if self.yy is None or other.yy is None else self.yy + other.yy
        return Totals(self.n + other.n, self.y + other.y, yy, slices)


@dataclass(frozen=True, slots=True)
class Table:
    """What a file holds.

    Attributes:
        source: its name.
        kind: what the metric is: ``ratio`` where there are users, ``mean`` where there are squares, otherwise ``rate``.
        share: whether every sum counts events, at most one per request, so values are shares.
        variants: names in the order in which they first appear.
        stages: names likewise; one empty name where the file has no such column.
        segments: likewise.
        cells: the final sums.
        history: cumulative sums at each time, rising; empty without a column ``time``.
        dated: whether times are dates, in seconds since 1970.
        users: how many different users each variant has by stage; empty without a column ``user``.
        shared_users: how many users are in more than one variant of a stage.
        ends: the time of each variant's last row; empty without a column ``time``.
        metric: the name of the column that was added up; empty where the file calls it ``sum``.
        per: what ``n`` counts, as a heading: ``requests``, ``units``, or the name of a column.
        counted: what ``users`` counts.
        adjusted_share: whether values were shares before a covariate was taken into account.
        missing: rows of each variant without a value of this metric, which are left out.
        warnings: sentences on the file that a reader must know before believing anything.
        notes: sentences on what was done with the values before they were added up.
    """

    source: str
    kind: Kind
    share: bool
    variants: tuple[str, ...]
    stages: tuple[str, ...]
    segments: tuple[str, ...]
    cells: Mapping[CellKey, Totals]
    history: tuple[tuple[float, Mapping[CellKey, Totals]], ...] = ()
    dated: bool = False
    users: Mapping[tuple[str, str], int] = field(default_factory=dict)
    shared_users: int = 0
    ends: Mapping[str, float] = field(default_factory=dict)
    metric: str = ""
    per: str = "requests"
    counted: str = "users"
    adjusted_share: bool = False
    missing: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def sizes(self) -> dict[str, float]:
        """Requests of each variant, over all stages and segments."""
        found: dict[str, float] = {}
        for (_, _, variant), totals in self.cells.items():
            found[variant] = found.get(variant, 0.0) + totals.n
        return found

    def part(
        self, stage: str, segment: str | None = None, cells: Mapping[CellKey, Totals] | None = None
    ) -> dict[str, Totals]:
        """Totals of each variant in a stage, of one segment or of all (None); without variants that have none.

        Args:
            stage: its name.
            segment: its name.
            cells: those of a moment of the history; the final ones unless given.
        """
        found: dict[str, Totals] = {}
        for (of_stage, of_segment, variant), sums in (self.cells if cells is None else cells).items():
            if of_stage == stage and segment in (None, of_segment):
                found[variant] = found[variant] + sums if variant in found else sums
        return found

    def arms(
        self, control: str, variant: str, segment: str | None = None, cells: Mapping[CellKey, Totals] | None = None
    ) -> list[tuple[Totals, Totals]]:
        """Totals of the control and of a variant in each stage in which both have requests; see :meth:`part`."""
        parts = [self.part(stage, segment, cells) for stage in self.stages]
        found = [(part.get(control), part.get(variant)) for part in parts]
        return [(a, b) for a, b in found if a is not None and b is not None and a.n > 0 and b.n > 0]
