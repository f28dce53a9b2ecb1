"""Which rights count as used, without a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.charts.support import Rules
from tests.cluster.plane.audit import Request, requests
from tests.cluster.used import refused, unused

ANN = "system:serviceaccount:abmesh:ann"
GRANTED: Rules = {
    ("", "configmaps", ()): frozenset({"get", "create"}),
    ("", "leases", ("abmesh",)): frozenset({"get"}),
}


def asked(
    verb: str, resource: str = "configmaps", name: str = "a", namespace: str = "abmesh", code: int = 200
) -> Request:
    return Request(ANN, verb, "", resource, namespace, name, code, "")


def test_what_nobody_asked_for_is_left() -> None:
    assert unused(GRANTED, []) == GRANTED
    left = unused(GRANTED, [asked("get", code=404), asked("get", "leases", "abmesh")])
    assert left == {("", "configmaps", ()): {"create"}}


@pytest.mark.parametrize(
    "request_",
    [
        asked("get", "leases", "another"),
        asked("get", "leases", "abmesh", "elsewhere"),
        asked("get", "leases", "abmesh", code=403),
        asked("update", "leases", "abmesh"),
        asked("get", "leases/status", "abmesh"),
    ],
    ids=["another name", "another namespace", "refused", "another verb", "a subresource"],
)
def test_what_does_not_need_a_right_does_not_use_it(request_: Request) -> None:
    granted: Rules = {("", "leases", ("abmesh",)): frozenset({"get"})}
    assert unused(granted, [request_], {"abmesh"}) == granted


@pytest.mark.parametrize(("code", "left"), [(200, {"create"}), (201, set())])
def test_an_apply_that_creates_needs_both_rights(code: int, left: set[str]) -> None:
    granted: Rules = {("", "configmaps", ()): frozenset({"patch", "create"})}
    found = unused(granted, [asked("patch", code=code)])
    assert set().union(*found.values()) == left


def test_the_log_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    item = {
        "user": {"username": ANN},
        "verb": "patch",
        "objectRef": {
            "resource": "experiments",
            "subresource": "status",
            "apiGroup": "abmesh.dev",
            "namespace": "llm",
            "name": "chat",
        },
        "responseStatus": {"code": 403},
        "stageTimestamp": "2026-12-01T00:00:00Z",
    }
    path = {"user": {"username": ANN}, "verb": "get", "stageTimestamp": "", "responseStatus": {"code": 200}}
    other = {**item, "user": {"username": "other"}}
    log = tmp_path / "audit.log"
    log.write_text("".join(f"{json.dumps(each)}\n" for each in (item, other, path)) + '{"user": {"use')
    found = requests(log, ANN)
    assert found == [
        Request(ANN, "patch", "abmesh.dev", "experiments/status", "llm", "chat", 403, "2026-12-01T00:00:00Z"),
        Request(ANN, "get", "", "", "", "", 200, ""),
    ]
    assert refused(found) == found[:1]
