import re
from datetime import timedelta
from typing import Any

import pytest
from betterproto2 import Casing

from abmesh.mesh.ext_proc_filter import ext_proc_filter


@pytest.fixture
def config() -> dict[str, Any]:
    found = ext_proc_filter((":path", "x-user-id"), timedelta(milliseconds=250)).to_dict(casing=Casing.SNAKE)
    assert found["name"] == "abmesh.ext_proc"
    typed: dict[str, Any] = found["typed_config"]
    return typed


def test_whatever_goes_wrong_the_request_goes_on(config: dict[str, Any]) -> None:
    assert config["failure_mode_allow"] is True
    assert config["disable_immediate_response"] is True
    assert config["message_timeout"] == "0.250s"


def test_only_needed_request_headers_are_sent(config: dict[str, Any]) -> None:
    assert config["processing_mode"] == {  # NONE, the mode of bodies, is the default
        "request_header_mode": "SEND",
        "response_header_mode": "SKIP",
        "request_trailer_mode": "SKIP",
        "response_trailer_mode": "SKIP",
    }
    assert config["forward_rules"] == {"allowed_headers": {"patterns": [{"exact": ":path"}, {"exact": "x-user-id"}]}}


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("x-model-version", True),
        ("x-ab-experiment", True),
        ("x-ab-slice", True),
        ("x-ab-group", True),
        ("x-ab-segment", True),
        ("x-ab-issued", True),
        ("x-ab-continued", True),
        ("x-ab-event", True),
        ("x-ab-value", True),
        ("x-ab-reason", True),
        ("x-ab-nowhere", False),
        ("x-envoy-upstream-rq-timeout-ms", True),
        ("x-envoy-retry-on", False),
        (":authority", False),
        ("x-ab-place", True),
        ("x-ab-route", False),
        ("x-ab-unassigned", False),
        ("x-ab-counted", False),
        ("authorization", False),
    ],
)
def test_the_server_may_set_its_own_headers_and_no_others(config: dict[str, Any], header: str, allowed: bool) -> None:
    rules = config["mutation_rules"]
    assert rules["disallow_all"] is True
    may, may_not = (re.fullmatch(rules[f"{kind}_expression"]["regex"], header) for kind in ("allow", "disallow"))
    assert bool(may and not may_not) is allowed


def test_metadata_is_taken_from_our_namespace_alone(config: dict[str, Any]) -> None:
    assert config["metadata_options"] == {"receiving_namespaces": {"untyped": ["abmesh"]}}
