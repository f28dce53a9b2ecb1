"""The objects of the fake API server: versions, conflicts, generations, and the history that watches read."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.abmesh.kube.patches import json_patched, merged

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Plural with its group, namespace and name."""

JSON = "application/json-patch+json"


class Refusal(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def status(self) -> Object:
        return {"kind": "Status", "apiVersion": "v1", "code": self.code, "reason": self.reason, "message": self.message}


@dataclass
class Objects:
    """Attributes:
    with_status: kinds whose ``status`` is a subresource.
    history: version, event, kind and object of every change.
    """

    with_status: frozenset[str]
    known: dict[Key, Object] = field(default_factory=dict)
    history: list[tuple[int, str, str, Object]] = field(default_factory=list)
    version: int = 100

    def get(self, key: Key) -> Object:
        if key not in self.known:
            raise Refusal(404, "NotFound", f'{key[0]} "{key[2]}" not found')
        return self.known[key]

    def create(self, key: Key, body: Object) -> Object:
        if key in self.known:
            raise Refusal(409, "AlreadyExists", f'{key[0]} "{key[2]}" already exists')
        body = {name: value for name, value in body.items() if name != "status" or key[0] not in self.with_status}
        return self.store(key, body)

    def replace(self, key: Key, body: Object, subresource: str) -> Object:
        return self._change(key, self.get(key), body, body["metadata"].get("resourceVersion"), subresource)

    def patch(self, key: Key, body: Any, form: str, subresource: str) -> Object:
        before = self.get(key)
        if form != JSON:
            version = body.get("metadata", {}).get("resourceVersion")
            return self._change(key, before, merged(before, body), version, subresource)
        try:
            after = json_patched(before, body)
        except (ValueError, KeyError, IndexError) as error:
            raise Refusal(422, "Invalid", "the server rejected our request due to an error in our request") from error
        return self._change(key, before, after, after["metadata"].get("resourceVersion"), subresource)

    def apply(self, key: Key, body: Object) -> Object:
        """Merges; who owns which field is not kept."""
        return self.patch(key, body, "merge", "") if key in self.known else self.create(key, body)

    def delete(self, key: Key, uid: str | None = None) -> Object:
        if uid and uid != self.get(key)["metadata"]["uid"]:
            raise Refusal(409, "Conflict", "the UID in the precondition does not match")
        gone = copy.deepcopy(self.get(key))
        del self.known[key]
        gone["metadata"]["resourceVersion"] = str(self.version + 1)
        self.record("DELETED", key[0], gone)
        return gone

    def list(self, kind: str, namespace: str, query: Mapping[str, str]) -> Object:
        found = [
            {name: value for name, value in item.items() if name not in ("apiVersion", "kind")}
            for key, item in sorted(self.known.items())
            if key[0] == kind and namespace in ("", key[1]) and selected(item, query)
        ]
        start = int(query.get("continue", 0))
        stop = start + (int(query.get("limit", 0)) or len(found))
        more = {"continue": str(stop)} if stop < len(found) else {}
        return {"metadata": {"resourceVersion": str(self.version), **more}, "items": found[start:stop]}

    def record(self, event: str, kind: str, item: Object) -> None:
        self.version += 1
        self.history.append((self.version, event, kind, item))

    def _change(self, key: Key, before: Object, after: Object, version: str | None, subresource: str) -> Object:
        if version and version != before["metadata"]["resourceVersion"]:
            raise Refusal(409, "Conflict", f'the object "{key[2]}" has been modified')
        if subresource == "status":
            after = {**before, "status": after.get("status", {})}
        elif key[0] in self.with_status:
            after = {name: value for name, value in after.items() if name != "status"}
            after |= {"status": before["status"]} if "status" in before else {}
        return self.store(key, after)

    def store(self, key: Key, body: Object) -> Object:
        """Create or replace, without asking for a version; what changes nothing has no event."""
        before = self.known.get(key)
        created = f"2026-01-01T00:{self.version // 60 % 60:02}:{self.version % 60:02}Z"
        kept: Object = before["metadata"] if before else {"uid": str(uuid.uuid4()), "creationTimestamp": created}
        own: Object = {"uid": kept["uid"], "creationTimestamp": kept["creationTimestamp"], "generation": 1}
        after = copy.deepcopy({**body, "metadata": {**body.get("metadata", {}), **own, "name": key[2]}})
        if key[1]:
            after["metadata"]["namespace"] = key[1]
        if before is not None:
            after["metadata"]["generation"] = kept["generation"] + (after.get("spec") != before.get("spec"))
            after["metadata"]["resourceVersion"] = kept["resourceVersion"]
            if after == before:
                return before
        after["metadata"]["resourceVersion"] = str(self.version + 1)
        self.known[key] = after
        self.record("ADDED" if before is None else "MODIFIED", key[0], after)
        return after


def selected(item: Object, query: Mapping[str, str]) -> bool:
    """Whether an object fits the selectors of a query."""
    labels = item["metadata"].get("labels", {})
    wanted = [part.partition("=") for part in query.get("labelSelector", "").split(",") if part]
    names = [part.partition("=") for part in query.get("fieldSelector", "").split(",") if part]
    named = all(item["metadata"].get(place.rpartition(".")[2]) == value for place, _, value in names)
    return named and all(labels.get(key) == value if value else key in labels for key, _, value in wanted)
