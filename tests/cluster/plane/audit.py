"""What service accounts asked of the API server, and how it was answered: its audit log, kept small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # Kubernetes' own controllers.
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a service account.

    Attributes:
        user: ``system:serviceaccount:NAMESPACE:NAME``.
        verb: as roles name it.
        group: of what was asked for; empty for the core group.
        resource: with its subresource, as roles name it; empty for a path that is no object's.
        namespace: empty for objects of all namespaces, or without any.
        name: of the object; empty for a list.
        code: the HTTP status of the answer.
        at: when it was answered; RFC 3339.
    """

    user: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    code: int
    at: str

    @property
    def when(self) -> float:
        """The same in seconds since 1970."""
        return datetime.fromisoformat(self.at).timestamp()


def requests(log: Path, user: str) -> list[Request]:
    """What a user asked, in the order of the answers; a watch counts once it is answered, and again when it ends."""
    found = (_request(item) for item in _items(log))
    return [request for request in found if request.user == user]


def _items(log: Path) -> Iterator[dict[str, Any]]:
    # The last line may be half written.
    for line in log.read_text().split("\n")[:-1]:
        yield json.loads(line)


def _request(item: dict[str, Any]) -> Request:
    thing = item.get("objectRef", {})
    parts = (thing.get("resource", ""), thing.get("subresource", ""))
    return Request(
        item["user"]["username"],
        item["verb"],
        thing.get("apiGroup", ""),
        "/".join(filter(None, parts)),
        thing.get("namespace", ""),
        thing.get("name", ""),
        int(item.get("responseStatus", {}).get("code", 0)),
        item["stageTimestamp"],
    )
