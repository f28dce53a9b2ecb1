"""Which cell of a table a row of a CSV belongs to. Pure.

Called by :mod:`abmesh.analysis.table_reader` and :mod:`abmesh.analysis.table_users`.
"""

from __future__ import annotations

from abmesh.analysis import columns
from abmesh.analysis.columns import Where
from abmesh.analysis.table import CellKey

MOST_VARIANTS = 20
MOST_CELLS = 2_000


class Cells:
    """Finds the cell that a row belongs to; a name is checked when it first appears.

    Attributes:
        variants, stages, segments: names so far, in the order in which they appeared.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._variant = names.index("variant")
        self._stage = names.index("stage") if "stage" in names else None
        self._segment = names.index("segment") if "segment" in names else None
        self._known: set[CellKey] = set()
        self.variants: dict[str, None] = {}
        self.stages: dict[str, None] = {}
        self.segments: dict[str, None] = {}

    def key(self, row: list[str], where: Where) -> CellKey:
        """The cell of a row.

        Raises:
            DataError: a name is not one, or there are too many.
        """
        key = (
            "" if self._stage is None else row[self._stage].strip(),
            "" if self._segment is None else row[self._segment].strip(),
            row[self._variant].strip(),
        )
        if key not in self._known:
            self._add(key, where)
        return key

    def _add(self, key: CellKey, where: Where) -> None:
        stage, segment, variant = key
        self.variants[columns.name(variant, "variant", where)] = None
        self.stages[stage if self._stage is None else columns.name(stage, "stage", where)] = None
        self.segments[segment if self._segment is None else columns.name(segment, "segment", where)] = None
        self._known.add(key)
        if len(self.variants) > MOST_VARIANTS:
            where.refuse("variant", "too many variants", variant, f"at most {MOST_VARIANTS}")
        if len(self._known) > MOST_CELLS:
            allowed = f"at most {MOST_CELLS} combinations of variant, segment and stage"
            where.refuse("", "too many groups", f"{len(self._known)}", allowed)
