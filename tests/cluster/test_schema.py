"""The definition of Experiments on a real API server: what it takes, what it refuses, and how it reads."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from abmesh.experiment.errors import DocumentError
from abmesh.kube.objects import parse
from abmesh.kube.schema import definition, text
from tests.abmesh.kube.specs import FULL, PLAIN, item, specs
from tests.cluster.bad_experiments import ABMESH_ALONE, BAD, BY_FORM, BY_RULE, Bad
from tests.cluster.cluster import Cluster
from tests.cluster.plane.control_plane import ControlPlane, KubectlError

SCHEMA = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.fixture
def plane(cluster: Cluster) -> ControlPlane:
    """The control plane, with the definition established."""
    cluster.plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=text())
    cluster.plane.kubectl("wait", "crd/experiments.abmesh.dev", "--for=condition=Established", "--timeout=120s")
    return cluster.plane


def create(plane: ControlPlane, namespace: str, objects: Sequence[dict[str, Any]]) -> str:
    """What a server-side dry run of some objects says, of all of them."""
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    arguments = ("create", "--dry-run=server", "--validate=strict", "-f", "-")
    try:
        return plane.kubectl(*arguments, namespace=namespace, given=given)
    except KubectlError as error:
        return str(error)


def named(bad: Sequence[Bad], namespace: str) -> list[dict[str, Any]]:
    return [item(each.spec, name=f"bad-{place}", namespace=namespace) for place, each in enumerate(bad)]


def by_name(told: str) -> dict[str, str]:
    """What is said of each object that is refused."""
    parts = re.split(r'Experiment(?:\.abmesh\.dev)? "([^"]+)" is invalid: ', told)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def refusal(plane: ControlPlane, *arguments: str, namespace: str) -> str:
    with pytest.raises(KubectlError) as refused:
        plane.kubectl(*arguments, namespace=namespace)
    return str(refused.value)


def patch(plane: ControlPlane, namespace: str, change: Any, *more: str) -> tuple[str, ...]:
    return ("patch", "abx", "chat", "--type=merge", "-p", json.dumps(change), *more)


class TestRules:
    def test_every_rule_refuses_its_bad_object_and_says_why(self, plane: ControlPlane, namespace: str) -> None:
        told = by_name(create(plane, namespace, named(BY_RULE, namespace)))
        for place, bad in enumerate(BY_RULE):
            assert bad.says in told[f"bad-{place}"], (bad, told)
            assert f"spec.{bad.field}: " in told[f"bad-{place}"], (bad, told)

    def test_forms_refuse_their_bad_objects(self, plane: ControlPlane, namespace: str) -> None:
        """Some of them kubectl finds itself, whose words depend on its version."""
        for bad in BY_FORM:
            told = create(plane, namespace, named([bad], namespace))
            assert bad.says in told, (bad, told)
            assert bad.field.rpartition(".")[2] in told, (bad, told)

    def test_every_rule_has_a_bad_object(self) -> None:
        messages = {rule["message"] for rule in rules(SCHEMA["properties"]["spec"])}
        untested = [message for message in messages if not any(_says(bad, message) for bad in BAD)]
        assert untested == []

    def test_abmesh_refuses_all_that_the_rules_refuse(self) -> None:
        for bad in BAD:
            with pytest.raises(DocumentError):
                parse(item(bad.spec))

    @pytest.mark.parametrize("bad", ABMESH_ALONE, ids=lambda bad: bad.says)
    def test_what_rules_cannot_say_abmesh_refuses_by_its_field(self, bad: Bad) -> None:
        with pytest.raises(DocumentError) as refused:
            parse(item(bad.spec))
        told = str(refused.value)
        assert f"spec.{bad.field}: " in told
        assert bad.says in told

    def test_the_api_server_lets_pass_what_only_abmesh_refuses(self, plane: ControlPlane, namespace: str) -> None:
        told = create(plane, namespace, named(ABMESH_ALONE, namespace))
        assert told.count("created (server dry run)") == len(ABMESH_ALONE), told


DURATIONS = ("1.5ms", "3ms", "0.5s", "59s", "1m", "1.5m", "90m", "1.6h", "25h", "1d12h", "36h1.5s", "2d1ms")
"""In their order: an API server has an own way of reading days."""


class TestDurations:
    def test_the_api_server_compares_them_as_abmesh_does(self, plane: ControlPlane, namespace: str) -> None:
        objects = []
        for place, (shorter, longer) in enumerate(itertools.pairwise(DURATIONS)):
            for name, first, last in (("rises", shorter, longer), ("falls", longer, shorter)):
                stage = {"minDuration": first, "maxDuration": last}
                spec = {**PLAIN, "rollout": {"candidate": "model-b", "steps": [5], "stage": stage}}
                objects.append(item(spec, name=f"{name}-{place}", namespace=namespace))
        told = create(plane, namespace, objects)
        assert "rises" not in told
        refused = by_name(told)
        assert sorted(refused) == sorted(f"falls-{place}" for place in range(len(DURATIONS) - 1))
        assert all("maxDuration must be longer than minDuration" in why for why in refused.values())


class TestTransitions:
    def test_a_salt_stays_while_the_rollout_progresses(self, plane: ControlPlane, namespace: str) -> None:
        plane.apply(item(PLAIN, namespace=namespace))
        plane.kubectl(*patch(plane, namespace, {"spec": {"salt": "first"}}), namespace=namespace)
        plane.kubectl(
            *patch(plane, namespace, {"status": {"phase": "Progressing"}}, "--subresource=status"), namespace=namespace
        )
        for change in ({"salt": "second"}, {"salt": None}, {"salt": None, "saltFile": "file"}):
            told = refusal(plane, *patch(plane, namespace, {"spec": change}), namespace=namespace)
            assert "the salt may not change while the rollout is Progressing" in told
        plane.kubectl(*patch(plane, namespace, {"spec": {"slices": 20}}), namespace=namespace)
        plane.kubectl(
            *patch(plane, namespace, {"status": {"phase": "Paused"}}, "--subresource=status"), namespace=namespace
        )
        plane.kubectl(*patch(plane, namespace, {"spec": {"salt": "second"}}), namespace=namespace)

    def test_an_older_leader_cannot_write(self, plane: ControlPlane, namespace: str) -> None:
        plane.apply(item(PLAIN, namespace=namespace))

        def status(change: Any) -> tuple[str, ...]:
            return patch(plane, namespace, {"status": change}, "--subresource=status")

        plane.kubectl(*status({"leader": {"epoch": 7, "identity": "a"}, "phase": "Manual"}), namespace=namespace)
        told = refusal(plane, *status({"leader": {"epoch": 6}, "phase": "Promoted"}), namespace=namespace)
        assert "a newer leader has taken over, of epoch 7" in told
        assert "a newer leader has taken over" in refusal(plane, *status({"leader": None}), namespace=namespace)
        plane.kubectl(*status({"phase": "Paused"}), namespace=namespace)
        plane.kubectl(*status({"leader": {"epoch": 8}}), namespace=namespace)

    def test_a_name_is_a_dns_label(self, plane: ControlPlane, namespace: str) -> None:
        for name, says in (("a.b", "allowed: a DNS label"), ("a" * 64, "Too long")):
            told = create(plane, namespace, [item(PLAIN, name=name, namespace=namespace)])
            assert "metadata.name" in told
            assert says in told


class TestForUsers:
    def test_valid_experiments_are_taken(self, plane: ControlPlane, namespace: str) -> None:
        drawn: list[dict[str, Any]] = []

        @settings(max_examples=60, database=None, suppress_health_check=[HealthCheck.too_slow])
        @given(specs())
        def draw(spec: dict[str, Any]) -> None:
            drawn.append(spec)

        draw()  # one call of the API server for all of them
        objects = [item(spec, name=f"good-{place}", namespace=namespace) for place, spec in enumerate([FULL, *drawn])]
        told = create(plane, namespace, objects)
        assert told.count("created (server dry run)") == len(objects), told

    def test_applying_again_changes_nothing(self, plane: ControlPlane, namespace: str) -> None:
        given = json.dumps(item(FULL, namespace=namespace))
        assert "created" in plane.kubectl("apply", "-f", "-", given=given)
        before = plane.read("abx", "chat", namespace)["metadata"]
        for _ in range(3):
            assert "unchanged" in plane.kubectl("apply", "-f", "-", given=given)
        assert plane.read("abx", "chat", namespace)["metadata"]["resourceVersion"] == before["resourceVersion"]

    def test_what_is_read_back_is_the_same_experiment(self, plane: ControlPlane, namespace: str) -> None:
        plane.apply(item(FULL, namespace=namespace))
        found = parse(plane.read("abx", "chat", namespace))
        assert found.spec.weights == {"model-a": 8750, "model-b": 1250}
        assert found.experiment == parse(item(FULL, namespace=namespace)).experiment

    def test_columns(self, plane: ControlPlane, namespace: str) -> None:
        plane.apply(item(FULL, namespace=namespace))
        status = {
            "phase": "Progressing",
            "reason": "error_rate is not yet known to keep 5%",
            "candidateWeight": "12.5%",
            "stage": {"since": "2026-12-01T00:00:00Z"},
            "conditions": [
                {
                    "type": "Healthy",
                    "status": "Unknown",
                    "reason": "TooFew",
                    "message": "",
                    "lastTransitionTime": "2026-12-01T00:00:00Z",
                }
            ],
        }
        plane.kubectl(*patch(plane, namespace, {"status": status}, "--subresource=status"), namespace=namespace)
        head, row = plane.kubectl("get", "abmesh", namespace=namespace).splitlines()
        assert head.split() == ["NAME", "PHASE", "CANDIDATE", "WEIGHT", "STAGE", "HEALTHY", "REASON", "AGE"]
        assert re.match(r"chat +Progressing +model-b +12\.5% +\S+ +Unknown +error_rate is not yet known", row)
        chosen = plane.kubectl("get", "abx", "--field-selector=status.phase=Progressing", namespace=namespace)
        assert "chat" in chosen

    def test_explain(self, plane: ControlPlane) -> None:
        told = plane.kubectl("explain", "abx", "--recursive")
        assert "GROUP:      abmesh.dev" in told
        for path in ("spec", "spec.rollout", "spec.rollout.guardrails", "spec.variants", "status", "spec.issueCookie"):
            told = plane.kubectl("explain", f"abx.{path}")
            assert "<no description>" not in told
            assert not re.search(r"`|\bNone\b", told)
        assert "Time after which onTimeout applies" in plane.kubectl("explain", "abx.spec.rollout.stage")


def rules(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Every rule of a schema."""
    found: list[dict[str, Any]] = list(node.get("x-kubernetes-validations", ()))
    inner = [*node.get("properties", {}).values(), node.get("items"), node.get("additionalProperties")]
    for part in inner:
        found += rules(part) if isinstance(part, dict) else []
    return found


def _says(bad: Bad, message: str) -> bool:
    start = min(len(bad.says), len(message))
    return bad.says[:start] == message[:start]
