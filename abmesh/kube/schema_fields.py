"""What an Experiment's schema says of single fields beyond their models: forms of texts, kinds of lists. Pure.

Paths are those below ``spec``; ``unit[]`` is an item of a list.
"""

from __future__ import annotations

from typing import Any, Final

_HEADER: Final = "^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$"
_NAME: Final = {"maxLength": 63}
_METRIC: Final = {"maxLength": 100, "pattern": "^[a-z][a-z0-9_]{0,99}$"}

FORMS: Final[dict[str, dict[str, Any]]] = {
    "unit[].header": {"maxLength": 128, "pattern": _HEADER},
    "segments.header": {"maxLength": 128, "pattern": _HEADER},
    "answers.refusals[].header": {"maxLength": 128, "pattern": _HEADER},
    "answers.cached[].header": {"maxLength": 128, "pattern": _HEADER},
    "overrides[].variant": _NAME,
    "overrides[].header": {"minProperties": 1},
    "rollout.candidate": _NAME,
    "issueCookie.secure": {
        "description": "Whether it is sent over HTTPS only; auto means yes if the client used HTTPS. In quotes."
    },
    "issueCookie.sameSite": {
        "description": 'Whether it is sent with requests from other sites; none needs secure: "true".'
    },
    "rollout.guardrails[].metric": _METRIC,
    "rollout.goal.metric": _METRIC,
    "rollout.secondaryGoals[].metric": _METRIC,
    "variants[].weight": {"description": "Share of the users in percent, with at most two decimals: 90, 12.5 or 0.25."},
    "rollout.steps[]": {"description": "In percent, with at most two decimals."},
}
"""What the models check by code, by the field's path below spec."""

_BY_NAME: Final = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
_SET: Final = {"x-kubernetes-list-type": "set"}
_WHOLE: Final = {"x-kubernetes-list-type": "atomic"}

LISTS: Final[dict[str, dict[str, Any]]] = {
    "routes": _WHOLE,
    "unit": _WHOLE,
    "issueCookie.keyFiles": _WHOLE,
    "callers.namespaces": _SET,
    "variants": _BY_NAME,
    "overrides": _WHOLE,
    "segments.values": _SET,
    "answers.refusals": _WHOLE,
    "answers.cached": _WHOLE,
    "events": _BY_NAME,
    "rollout.steps": _WHOLE,
    "rollout.guardrails": _WHOLE,
    "rollout.secondaryGoals": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["metric"]},
    "rollout.checks": _BY_NAME,
}
"""How each list is merged, by its path below spec. Items with a name are told apart by it, also in messages."""
