"""The dashboard and the alert rules, as far as that can be told without a running Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from ruamel.yaml import YAML

from controller.metrics.telemetry import Telemetry
from controller.rollout.tick import TickReport
from controller.routes.publisher import RoutesStatus
from controller.sources.renderings import Renderings
from ext_proc.exposition import Exposition
from ext_proc.telemetry import Counts
from tests.controller.support import START, experiment
from tests.e2e.prometheus_process import ALERTS, need_prometheus

DASHBOARD = ALERTS.parents[1] / "grafana" / "dashboard.json"
DOCS = ALERTS.parents[2] / "docs" / "operations"
TESTS = Path(__file__).with_name("alerts.yaml")


def _texts(found: Any) -> Iterator[str]:
    """Every expression of the dashboard."""
    if isinstance(found, Mapping):
        if "expr" in found:
            yield found["expr"]
        for item in found.values():
            yield from _texts(item)
    elif isinstance(found, list):
        for item in found:
            yield from _texts(item)


def _rules() -> list[dict[str, Any]]:
    groups = YAML(typ="safe").load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def _kinds() -> dict[str, str]:
    """The kind of all metrics that the controller and the server have, by name."""
    telemetry = Telemetry()
    telemetry.add_routes(RoutesStatus())
    telemetry.add_http({"timeout": 0})
    telemetry.add_renderings(Renderings())
    segmented = experiment(segments={"header": "x-user-segment", "values": ["power"]})
    telemetry.record_counts(TickReport(1, experiments=(segmented,)), [], START)
    registry = CollectorRegistry()
    registry.register(Exposition(Counts, lambda: 0.0))
    pages = telemetry.render().decode() + generate_latest(registry).decode()
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", pages, re.MULTILINE))


def _ours() -> set[str]:
    """Names of all their series."""
    kinds = _kinds()
    parts = {
        name + part for name, kind in kinds.items() if kind == "histogram" for part in ("_bucket", "_sum", "_count")
    }
    return kinds.keys() | parts


def test_every_metric_that_is_asked_for_is_one_of_ours() -> None:
    expressions = [*_texts(_dashboard()), *(rule["expr"] for rule in _rules())]
    asked = {name for text in expressions for name in re.findall(r"\b(?:abmesh|llm)_\w+", text)}
    assert len(asked) > 25
    assert asked <= _ours(), asked - _ours()


def test_every_metric_and_every_alert_is_explained() -> None:
    pages = "".join((DOCS / f"{page}.md").read_text() for page in ("monitoring", "controller", "ext-proc"))
    missing = {name for name in _kinds() if not name.endswith("_created") and f"`{name}" not in pages}
    assert not missing
    assert {rule["alert"] for rule in _rules()} == set(re.findall(r"^\| `(Abmesh\w+)`", pages, re.MULTILINE))


def test_panels_are_told_apart_and_say_what_they_show() -> None:
    panels = _dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert len({(place["x"], place["y"]) for place in places}) == len(places)
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for panel in panels:
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert panel["description"], panel["title"]


def test_the_dashboard_shows_what_was_asked_of_it() -> None:
    dashboard = _dashboard()
    titles = " ".join(panel["title"] for panel in dashboard["panels"])
    for what in ("Request rate", "p95", "Time to first token", "Tokens", "Cost", "Events", "Weights", "Error budget"):
        assert what in titles
    (decisions,) = dashboard["annotations"]["list"]
    assert decisions["name"] == "Decisions"
    assert "[2m]" in decisions["expr"], (
        "its steps are as short as those between scrapes, and one sample has no increase"
    )
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "experiment"]


def test_every_alert_says_what_happened_and_how_bad_it_is() -> None:
    rules = _rules()
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}


@pytest.mark.process
def test_every_alert_is_raised_when_it_should_be_and_not_before() -> None:
    need_prometheus()
    tests = YAML(typ="safe").load(TESTS.read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    alerts = {rule["alert"] for rule in _rules()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in tests[0]["alert_rule_test"] if not case["exp_alerts"]} == alerts
    done = subprocess.run(["promtool", "test", "rules", str(TESTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
