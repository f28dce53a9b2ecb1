from __future__ import annotations

import json

import pytest

from abmesh.kube import errors
from abmesh.kube.errors import Attempt, KubeError, from_answer

PATCH = Attempt("patch", "experiments.abmesh.dev/status", "llm", "chat")


def status(code: int, reason: str = "", message: str = "told") -> bytes:
    return json.dumps({"kind": "Status", "code": code, "reason": reason, "message": message}).encode()


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", errors.Refused),
        (401, "Unauthorized", errors.Unauthorized),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.Missing),
        (405, "MethodNotAllowed", errors.Refused),
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Stale),
        (410, "Expired", errors.Gone),
        (422, "Invalid", errors.Refused),
        (429, "TooManyRequests", errors.Unreachable),
        (500, "InternalError", errors.Unreachable),
        (503, "", errors.Unreachable),
        (302, "", errors.Unreachable),
    ],
)
def test_each_answer_has_its_error(code: int, reason: str, kind: type[KubeError]) -> None:
    found = from_answer(PATCH, code, status(code, reason))
    assert type(found) is kind
    assert (found.status, found.reason) == (code, reason)
    assert "experiments.abmesh.dev/status chat in namespace llm: told" in str(found)


def test_forbidden_says_which_right_is_missing() -> None:
    found = from_answer(PATCH, 403, status(403, "Forbidden", 'User "ann" cannot patch resource'))
    assert isinstance(found, errors.Forbidden)
    assert found.attempt == PATCH
    assert str(found) == (
        'may not patch experiments.abmesh.dev/status chat in namespace llm: User "ann" cannot patch resource'
    )


def test_a_kind_that_the_cluster_does_not_have_is_told_apart_from_an_object() -> None:
    missing = from_answer(Attempt("list", "experiments.abmesh.dev"), 404, b"404 page not found\n")
    assert "is its CRD installed?" in str(missing)
    assert "CRD" not in str(from_answer(PATCH, 404, status(404, "NotFound")))


def test_an_unknown_field_in_an_applied_object_is_refused_and_not_tried_again() -> None:
    told = "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .dataa: field not declared in schema"
    assert isinstance(from_answer(PATCH, 500, status(500, "", told)), errors.Refused)


def test_the_page_of_a_proxy_is_quoted_and_cut() -> None:
    found = from_answer(PATCH, 502, b"<html>\x00" + b"x" * 100_000)
    assert isinstance(found, errors.Unreachable)
    assert "'<html>\\x00xxx" in str(found)
    assert len(str(found)) < 400
