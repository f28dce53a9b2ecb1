"""How large the controller's journal may become. Pure; a part of :mod:`abmesh.experiment.model`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from abmesh.experiment.quantities import Bytes
from abmesh.experiment.quantity_types import Size
from abmesh.experiment.validation import Frozen


class JournalBound(Frozen):
    """How large the controller's journal may become.

    Attributes:
        max_size: size at which the journal's file is put aside and a new one begun.
        keep: files that were put aside and stay; the oldest is removed first, and no record of its decisions is left.
    """

    max_size: Size = Bytes(64_000_000)
    keep: Annotated[int, Field(ge=1, le=100, strict=True)] = 8
