"""Checks as the document has them: a query with a limit, or a webhook, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from abmesh.experiment.checks import Check
from abmesh.experiment.codec import parse
from abmesh.experiment.errors import DocumentError
from tests.abmesh.experiment.test_analysis import rollout_of
from tests.abmesh.experiment.test_model import ROLLOUT
from tests.controller.support import DOCUMENT

QUERY: dict[str, Any] = {"name": "p99", "prometheus": "max(latency)", "max": 5}
HOOK: dict[str, Any] = {"name": "gate", "webhook": "https://gate.example/ask?token=s3cret"}


def test_a_check_is_asked_every_30_seconds_and_holds_after_three_failures_unless_it_says_otherwise() -> None:
    check = Check.model_validate(QUERY)
    assert (check.interval, check.timeout, check.failures) == (timedelta(seconds=30), timedelta(seconds=10), 3)
    assert (check.on_failure, check.address, check.headers, check.max) == ("hold", None, {}, 5.0)
    assert Check.model_validate(HOOK).on_failure == "hold"


def test_a_plan_without_checks_has_none_and_they_take_no_part_of_alpha() -> None:
    assert rollout_of(ROLLOUT).checks == ()
    assert rollout_of({**ROLLOUT, "checks": [QUERY, HOOK]}).alarms == rollout_of(ROLLOUT).alarms


def test_names_take_the_place_of_placeholders_and_promqls_braces_stay() -> None:
    query = 'rate(errors{app="{{candidate}}",of=~"{{ experiment }}|{{control}}"}[5m])'
    check = Check.model_validate({**QUERY, "prometheus": query})
    assert check.query("chat", "model-b", "model-a") == 'rate(errors{app="model-b",of=~"chat|model-a"}[5m])'


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"webhook": "http://h/"}, "either Prometheus or a webhook"),
        ({"prometheus": None}, "either Prometheus or a webhook"),
        ({"max": None}, "a number needs a limit"),
        ({"max": 1, "min": 2}, "at least min and at most max"),
        ({"max": "5%"}, "valid number"),
        ({"max": float("nan")}, "finite number"),
        ({"prometheus": "up{{job}}"}, "unknown placeholder"),
        ({"prometheus": ""}, "at least 1 character"),
        ({"address": "prometheus:9090"}, "match pattern"),
        ({"address": "http://user:secret@prometheus:9090"}, "match pattern"),
        ({"address": "ftp://prometheus"}, "match pattern"),
        ({"address": "http://prometheus:9090/?key=s3cret"}, "path is added to its end"),
        ({"interval": "100ms"}, "not a possible interval"),
        ({"interval": "2d"}, "not a possible interval"),
        ({"timeout": "0s"}, "not a possible time limit"),
        ({"timeout": "10m"}, "not a possible time limit"),
        ({"failures": 0}, "greater than or equal to 1"),
        ({"on_failure": "pause"}, "'hold' or 'rollback'"),
        ({"name": "P 99"}, "match pattern"),
        ({"headers": {"Content-Length": "3"}}, "sets this header itself"),
        ({"headers": {"x-ab-place": "3"}}, "cannot send this header"),
        ({"count": 3}, "Extra inputs"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Check.model_validate({**QUERY, **changes})


@pytest.mark.parametrize("changes", [{"max": 5}, {"min": 5}, {"address": "http://p:9090"}])
def test_a_webhook_has_no_limit_and_no_server(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="whole answer"):
        Check.model_validate({**HOOK, **changes})


@pytest.mark.parametrize("address", ["http://[::1]:9090", "https://prometheus.example/prefix", "http://10.0.0.1:9090/"])
def test_a_server_may_have_a_prefix_or_an_ipv6_address(address: str) -> None:
    assert Check.model_validate({**QUERY, "address": address}).address == address


def test_two_checks_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="check 'p99' appears twice"):
        rollout_of({**ROLLOUT, "checks": [QUERY, QUERY]})


def test_what_may_hold_a_key_is_not_quoted_when_the_document_is_refused() -> None:
    for line in (
        "{name: a, webhook: 'gopher://h/s3cret'}",
        "{name: a, webhook: [s3cret]}",
        "{name: a, prometheus: up, max: 1, headers: {authorization: 'Bearer s3cret '}}",
        "{name: a, prometheus: up, max: 1, headers: {authorization: [s3cret]}}",
        "{name: a, webhook: 'https://h/s3cret', max: 1}",
        "{name: a, prometheus: up, max: 1, address: 'http://me:s3cret@h'}",
        "{name: a, prometheus: up, max: 1, address: 'http://h/?key=s3cret'}",
        "{name: a, prometheus: up, max: 1, address: [s3cret]}",
        "[s3cret]",
        "{name: a, webhook: 'https://h/s3cret', webhook: b}",
        "{name: a, webhook: 'https://h/s3cret",
    ):
        text = DOCUMENT.replace("      guardrails:", f"      checks:\n        - {line}\n      guardrails:")
        with pytest.raises(DocumentError) as caught:
            parse(text)
        assert "s3cret" not in str(caught.value)


def test_an_empty_query_is_told_how_long_it_must_be() -> None:
    line = "{name: a, prometheus: '', max: 1}"
    text = DOCUMENT.replace("      guardrails:", f"      checks:\n        - {line}\n      guardrails:")
    with pytest.raises(DocumentError, match=r"prometheus: too short; found ''; allowed: at least 1 character"):
        parse(text)
