"""What a client is told about a feedback event that was not counted: a code and one sentence. Pure.

The server names the code (:mod:`ext_proc.wire`), Envoy has the sentences (:mod:`abmesh.mesh.events`): nothing that a
client sent is ever in an answer.
"""

from __future__ import annotations

import json
from typing import Final

from abmesh.experiment.names import EXPERIMENT_PARAMETER, VALUE_PARAMETER

REFUSALS: Final = {
    "no_unit": (
        "The event does not say whose it is: send it with the header, cookie or query parameter that identifies the "
        "user on other requests."
    ),
    "forged_cookie": (
        "The cookie that identifies the user was not issued here, or its key has expired: send another request first, "
        "whose answer sets a new cookie."
    ),
    "wrong_origin": (
        "A page of this origin may not send events: its origin must be listed under event_origins in the experiments "
        "document, or be the one that the event is sent to."
    ),
    "wrong_value": (
        f"The value is not allowed: send {VALUE_PARAMETER}=NUMBER within the event's bounds, with at most 3 digits "
        "after the point, and none for an event that declares none."
    ),
    "unmatched": (
        f"No experiment that declares this event applies to this host and these headers: name one with "
        f"{EXPERIMENT_PARAMETER}=NAME, or send the headers that it matches."
    ),
}
"""Sentences by code; the codes are those of the server's reasons, without ``event_``."""

DISAGREEMENT: Final = "not_counted"
"""The code where Envoy cannot count what the server would: one of the two has read a newer document."""

_DISAGREEMENT: Final = (
    "The server and this Envoy do not agree about this event: whoever runs them has to render Envoy's configuration "
    "from today's document."
)


def refusal(code: str) -> str:
    """The body of an answer: one JSON object on a line."""
    return json.dumps({"error": code, "message": REFUSALS.get(code, _DISAGREEMENT)}) + "\n"
