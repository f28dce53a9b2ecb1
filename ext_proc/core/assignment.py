"""The result of an assignment: which variant a request gets, and why. Pure.

:mod:`ext_proc.core.experiment` and :mod:`ext_proc.core.table` make it; :mod:`ext_proc.wire` turns it into an answer.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Reason = Literal[
    "override",
    "header",
    "cookie",
    "query",
    "issued",
    "reissued",
    "no_unit",
    "unmatched",
    "no_config",
    "event",
    "event_no_unit",
    "event_forged_cookie",
    "event_wrong_origin",
    "event_wrong_value",
    "event_unmatched",
]
"""Why a request got its assignment.

``header``, ``cookie`` and ``query`` name where its unit was found; ``issued`` means that it got a new identity,
``reissued`` that it got one in place of a cookie that was not authentic; ``override`` that its headers match an
override. The others pass untouched: ``no_unit`` has no unit and the experiment issues none, ``unmatched`` matches no
experiment, ``no_config`` came before the first valid document.

Feedback events have their own reasons. ``event`` may be counted. The others may not: the event has no unit, or only a
cookie that is not authentic, comes from a page or carries a value that is not allowed, or none of the experiments that
declare it applies. An event that no experiment declares is ``unmatched``.
"""

FEEDBACK: Final[frozenset[Reason]] = frozenset(
    {
        "event",
        "event_no_unit",
        "event_forged_cookie",
        "event_wrong_origin",
        "event_wrong_value",
        "event_unmatched",
    }
)
"""The reasons of feedback events that an experiment declares."""


class Assignment(NamedTuple):
    """The variant of a request, with everything that its answer needs.

    Attributes:
        experiment: the experiment's name; empty if none matches.
        variant: the variant's name; empty if the request passes untouched.
        slice: the slice of the variant's users; None for overrides, which are not evidence.
        group: the group of slices; None for overrides.
        segment: a declared segment or ``other``; None where no segments are declared.
        set_cookie: the Set-Cookie value that carries a new identity or a session's marker; None for no cookie.
        in_session: whether the unit is an issued identity.
        continued: whether this is the second request of a session.
        event: the name of a feedback event that may be counted; None for all other requests.
        value: the event's value in thousandths; None if it carries none.
    """

    reason: Reason
    experiment: str = ""
    variant: str = ""
    slice: int | None = None
    group: int | None = None
    segment: str | None = None
    set_cookie: str | None = None
    in_session: bool = False
    continued: bool = False
    event: str | None = None
    value: int | None = None


NEW_IDENTITY: Final[frozenset[Reason]] = frozenset({"issued", "reissued"})
"""The reasons of requests that got a new identity: the same request gets another the next time."""

UNMATCHED: Final = Assignment("unmatched")
NO_CONFIG: Final = Assignment("no_config")
