"""Feedback events: what a request to ``/_ab/events/NAME`` says, and whether it may be counted. Pure.

:mod:`ext_proc.assignment` calls this. Envoy answers such requests itself and counts those that our headers let pass.
Targets are bytes that anybody may have written: nothing here raises, and every scan is linear in their length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Final, NamedTuple

from abmesh.experiment.answers import Event, EventValueBounds
from abmesh.experiment.metrics import CONTINUATION, VALUE_SCALE
from abmesh.experiment.model import Experiment
from abmesh.experiment.names import EVENTS_PATH, EXPERIMENT_PARAMETER, VALUE_PARAMETER
from ext_proc.identity import decoded, query_of

PREFIX: Final = EVENTS_PATH.encode()

_VALUE: Final = re.compile(rb"([0-9]{1,12})(?:\.([0-9]{1,3}))?")
_DECIMALS: Final = 3


def _pattern(name: str) -> re.Pattern[bytes]:
    # A possessive quantifier (*+) keeps the scan linear.
    return re.compile(rb"(?:^|&)" + re.escape(name.encode()) + rb"(?:=([^&]*+))?+(?=&|\Z)")


_VALUE_PATTERN: Final = _pattern(VALUE_PARAMETER)
_EXPERIMENT_PATTERN: Final = _pattern(EXPERIMENT_PARAMETER)


class Asked(NamedTuple):
    """What the query of an event says, decoded; None for what it does not mention."""

    value: bytes | None
    experiment: bytes | None


def asked(target: bytes) -> Asked:
    """What the query of a request target says about an event.

    Of repeated parameters the first counts, even if it is empty. Their names are compared as they are written.
    """
    query = query_of(target)
    return Asked(_first(_VALUE_PATTERN, query), _first(_EXPERIMENT_PATTERN, query)) if query else _NOTHING


_NOTHING: Final = Asked(None, None)


def _first(pattern: re.Pattern[bytes], query: bytes) -> bytes | None:
    found = pattern.search(query)
    return None if found is None else decoded(found[1] or b"")


class Reading(NamedTuple):
    """What an event's value comes to.

    Attributes:
        allowed: whether the event may be counted.
        thousandths: the value; None if the event carries none that counts.
    """

    allowed: bool
    thousandths: int | None = None


ABSENT: Final = Reading(allowed=True)
WRONG: Final = Reading(allowed=False)


@dataclass(frozen=True, slots=True)
class Values:
    """The values that an event may carry, in thousandths, both ends included."""

    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class Declared:
    """An event that an experiment declares.

    Attributes:
        values: that it may carry; None if it carries none.
    """

    name: str
    values: Values | None

    def read(self, text: bytes | None) -> Reading:
        """What a request's ``value`` comes to; None stands for a request that has none, which is always right."""
        if text is None:
            return ABSENT
        written = _VALUE.fullmatch(text)
        if written is None or self.values is None:
            return WRONG
        thousandths = int(written[1]) * VALUE_SCALE + int((written[2] or b"").ljust(_DECIMALS, b"0"))
        if self.values.lowest <= thousandths <= self.values.highest:
            return Reading(allowed=True, thousandths=thousandths)
        return WRONG


def compile_events(experiment: Experiment) -> dict[bytes, Declared]:
    """The events that clients may send for an experiment, by name; not the one that is counted by itself."""
    return {event.name.encode(): _compile(event) for event in experiment.events if event.name != CONTINUATION}


def _compile(event: Event) -> Declared:
    return Declared(event.name, None if event.value is None else _values(event.value))


def _values(bounds: EventValueBounds) -> Values:
    # By way of text: a bound of 0.1 means one tenth, not the fraction of two's powers that is nearest to it.
    lowest, highest = (Decimal(str(bound)) * VALUE_SCALE for bound in (bounds.min, bounds.max))
    return Values(int(lowest.to_integral_value(ROUND_CEILING)), int(highest.to_integral_value(ROUND_FLOOR)))
