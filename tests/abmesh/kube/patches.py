"""Merge patch (RFC 7396) and JSON patch (RFC 6902), as far as the fake API server needs them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any


def merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


def json_patched(target: Any, operations: Iterable[Mapping[str, Any]]) -> Any:
    """The target after the operations.

    Raises:
        ValueError, KeyError, IndexError: a test failed, or a place does not exist.
    """
    found = copy.deepcopy(target)
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        place = found
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        _carry_out(operation, place, last)
    return found


def _carry_out(operation: Mapping[str, Any], place: Any, last: str) -> None:
    action = operation["op"]
    if isinstance(place, list):
        index = len(place) if last == "-" else int(last)
        if action == "add":
            place.insert(index, operation["value"])
            return
        key: Any = index
    else:
        key = last
        if action == "add":
            place[key] = operation["value"]
            return
    present = place[key]
    if action == "test":
        if present != operation["value"]:
            raise ValueError(f"test failed at {operation['path']}")
    elif action == "replace":
        place[key] = operation["value"]
    elif action == "remove":
        del place[key]
    else:
        raise ValueError(f"unknown operation {action}")
