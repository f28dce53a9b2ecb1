"""Rules about cookies that several experiments share. Pure; :mod:`abmesh.experiment.model` applies them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic_core import PydanticCustomError

from abmesh.experiment import metrics
from abmesh.experiment.parts import IssueCookie, UnitSource
from abmesh.experiment.secret_source import SecretSource
from abmesh.experiment.validation import refuse


class Cookies(NamedTuple):
    """What one experiment reads and issues.

    Attributes:
        experiment: its name.
        marks_sessions: whether a second cookie marks continued sessions.
    """

    experiment: str
    unit: tuple[UnitSource, ...]
    issued: IssueCookie | None
    marks_sessions: bool

    def keys_of(self, cookie: str | None) -> tuple[SecretSource, ...]:
        """The keys that authenticate a cookie; none if nothing does."""
        return self.issued.keys if self.issued is not None and self.issued.name == cookie else ()


def cookie_problems(experiments: Sequence[Cookies]) -> Iterator[PydanticCustomError]:
    """Refuse a unit that is the cookie of a continued session, or that others authenticate in another way."""
    markers = {item.issued.marker for item in experiments if item.issued is not None and item.marks_sessions}
    owners = {item.issued.name: item for item in reversed(experiments) if item.issued is not None and item.issued.keys}
    for index, item in enumerate(experiments):
        for place, unit in enumerate(item.unit):
            path = ("experiments", index, "unit", place, "cookie")
            if unit.cookie in markers:
                message = f"{metrics.CONTINUATION} sets this cookie itself, so it cannot be a unit"
                yield refuse(message, *path, allowed="any other cookie")
            owner = owners.get(unit.cookie or "")
            if owner is not None and item.keys_of(unit.cookie) != owner.keys_of(unit.cookie):
                message = f"experiment {owner.experiment} authenticates this cookie with other keys"
                yield refuse(message, *path, allowed="another cookie, or issue_cookie with the same keys")
