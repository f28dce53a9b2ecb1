"""Feedback events: parses a request to ``/_ab/events/NAME`` and checks the value that it carries. Pure.

:mod:`ext_proc.core.table` calls this. Envoy answers such requests itself and counts those that our headers let pass.
Targets are bytes that a client may have chosen freely: nothing here raises, and every scan is linear in their length.
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
from ext_proc.core.headers import decoded, query_of

PREFIX: Final = EVENTS_PATH.encode()

_VALUE: Final = re.compile(rb"([0-9]{1,12})(?:\.([0-9]{1,3}))?")
_DECIMALS: Final = 3


def _pattern(name: str) -> re.Pattern[bytes]:
    # A possessive quantifier (*+) keeps the scan linear.
    return re.compile(rb"(?:^|&)" + re.escape(name.encode()) + rb"(?:=([^&]*+))?+(?=&|\Z)")


_VALUE_PATTERN: Final = _pattern(VALUE_PARAMETER)
_EXPERIMENT_PATTERN: Final = _pattern(EXPERIMENT_PARAMETER)


class EventQuery(NamedTuple):
    """The parameters of an event, decoded; None for each that is missing."""

    value: bytes | None
    experiment: bytes | None


_EMPTY_QUERY: Final = EventQuery(None, None)


def read_query(target: bytes) -> EventQuery:
    """The event parameters in a request target.

    Of repeated parameters the first counts, even if it is empty. Parameter names are compared without decoding them.
    """
    query = query_of(target)
    return EventQuery(_first(_VALUE_PATTERN, query), _first(_EXPERIMENT_PATTERN, query)) if query else _EMPTY_QUERY


def _first(pattern: re.Pattern[bytes], query: bytes) -> bytes | None:
    found = pattern.search(query)
    return None if found is None else decoded(found[1] or b"")


class CheckedValue(NamedTuple):
    """The value of an event, checked against its declaration.

    Attributes:
        allowed: whether the event may be counted.
        thousandths: the value; None if the event carries none.
    """

    allowed: bool
    thousandths: int | None = None


NO_VALUE: Final = CheckedValue(allowed=True)
WRONG_VALUE: Final = CheckedValue(allowed=False)


@dataclass(frozen=True, slots=True)
class ValueRange:
    """The values that an event may carry, in thousandths, both ends included."""

    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class DeclaredEvent:
    """An event that an experiment declares.

    Attributes:
        values: the values that it may carry; None if it carries none.
    """

    name: str
    values: ValueRange | None

    def check(self, text: bytes | None) -> CheckedValue:
        """Check a request's ``value`` parameter; None, for a request without one, is always allowed."""
        if text is None:
            return NO_VALUE
        written = _VALUE.fullmatch(text)
        if written is None or self.values is None:
            return WRONG_VALUE
        thousandths = int(written[1]) * VALUE_SCALE + int((written[2] or b"").ljust(_DECIMALS, b"0"))
        if self.values.lowest <= thousandths <= self.values.highest:
            return CheckedValue(allowed=True, thousandths=thousandths)
        return WRONG_VALUE


def compile_events(experiment: Experiment) -> dict[bytes, DeclaredEvent]:
    """The events that clients may send for an experiment, by name.

    ``continuation`` is not among them: Envoy counts it when our answer carries its header.
    """
    return {event.name.encode(): _compile(event) for event in experiment.events if event.name != CONTINUATION}


def _compile(event: Event) -> DeclaredEvent:
    return DeclaredEvent(event.name, None if event.value is None else _values(event.value))


def _values(bounds: EventValueBounds) -> ValueRange:
    # Decimal of the text, not of the float: a bound of 0.1 means one tenth, not the nearest binary fraction.
    lowest, highest = (Decimal(str(bound)) * VALUE_SCALE for bound in (bounds.min, bounds.max))
    return ValueRange(int(lowest.to_integral_value(ROUND_CEILING)), int(highest.to_integral_value(ROUND_FLOOR)))
