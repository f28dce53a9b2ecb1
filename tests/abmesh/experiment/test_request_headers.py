from typing import Any

import pytest

from abmesh.experiment.model import Document
from abmesh.experiment.request_headers import needed_headers

PLAIN: dict[str, Any] = {
    "name": "plain",
    "unit": [{"query": "user_id"}],
    "variants": [
        {"name": "a", "cluster": "a", "weight": 50, "control": True},
        {"name": "b", "cluster": "b", "weight": 50},
    ],
}


def needs(*experiments: dict[str, Any]) -> tuple[str, ...]:
    merged = [{**PLAIN, "name": f"e{index}", **changes} for index, changes in enumerate(experiments)]
    return needed_headers(Document.model_validate({"version": 1, "experiments": merged}))


def test_the_path_and_the_host_are_always_needed() -> None:
    assert needs() == needs({}) == (":authority", ":path")


COOKIE = {"unit": [{"cookie": "sid"}]}
SECURE = {"issue_cookie": {"name": "sid", "max_age": "1h", "secure": True}}


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"unit": [{"header": "X-User-Id"}]}, {"x-user-id"}),
        (COOKIE, {"cookie"}),
        ({"match": {"headers": {"X-Tenant": "acme"}}}, {"x-tenant"}),
        ({"overrides": [{"header": {"x-a": "1", "x-b": "2"}, "variant": "b"}]}, {"x-a", "x-b"}),
        ({"segments": {"header": "x-segment", "values": ["power"]}}, {"x-segment"}),
        ({**COOKIE, "issue_cookie": {"name": "sid", "max_age": "1h"}}, {"cookie", "x-forwarded-proto"}),
        ({"events": ["click"]}, {"origin", "x-forwarded-proto"}),
        ({**COOKIE, **SECURE}, {"cookie"}),
        ({**COOKIE, **SECURE, "events": ["continuation"]}, {"cookie"}),
    ],
)
def test_every_header_that_an_experiment_looks_at_is_needed(changes: dict[str, Any], more: set[str]) -> None:
    assert needs(changes) == tuple(sorted({":path", ":authority"} | more))


def test_headers_of_all_experiments_are_needed_once_and_sorted() -> None:
    wanted = needs({"unit": [{"header": "x-b"}]}, {"unit": [{"header": "x-a"}, {"header": "x-b"}]}, COOKIE)
    assert wanted == (":authority", ":path", "cookie", "x-a", "x-b")
