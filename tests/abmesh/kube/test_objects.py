"""Objects are read whole, and refused in the file's words with the object's fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from abmesh.experiment.errors import DocumentError, Problem
from abmesh.kube.objects import is_manifest, parse, parse_manifest, read_status
from tests.abmesh.kube.specs import FULL, PLAIN, item, specs


def problem(data: dict[str, Any]) -> Problem:
    with pytest.raises(DocumentError) as refused:
        parse(data)
    (found,) = refused.value.problems
    return found


def variants(**second: Any) -> list[dict[str, Any]]:
    return [PLAIN["variants"][0], {**PLAIN["variants"][1], **second}]


class TestParse:
    def test_is_the_experiment_of_its_namespace(self) -> None:
        found = parse(item(FULL))
        experiment = found.experiment
        assert (found.namespace, found.name) == ("llm", "chat")
        assert experiment.name == "llm/chat"
        assert experiment.public_salt == "chat"
        assert [variant.cluster for variant in experiment.variants] == [
            "outbound|8000|model-a|llm.llm.svc.cluster.local",
            "outbound|8000|model-b|llm.models.svc.cluster.local",
        ]
        assert experiment.weights == {"model-a": 8750, "model-b": 1250}
        assert experiment.secret_salt is not None
        assert experiment.secret_salt.file == "/etc/abmesh/secrets/chat-salt"
        assert experiment.issue_cookie is not None
        assert [key.file for key in experiment.issue_cookie.keys] == [
            "/etc/abmesh/secrets/cookie-new",
            "/etc/abmesh/secrets/cookie-old",
        ]
        assert experiment.issue_cookie.secure is True
        assert experiment.rollout is not None
        assert experiment.rollout.guardrails[3].limit == 0.002

    def test_default_salt_is_the_bare_name(self) -> None:
        assert parse(item()).experiment.hash_salt == "chat"

    @given(specs())
    def test_takes_every_valid_spec(self, spec: dict[str, Any]) -> None:
        assert parse(item(spec)).spec.weights == parse(item(spec)).experiment.weights

    @pytest.mark.parametrize(
        ("changes", "path", "message", "found"),
        [
            ({"variants": variants(weight=6)}, "spec.variants", "weights must sum to exactly 100", "95 + 6 = 101"),
            ({"variants": variants(weight="5")}, "spec.variants[1].weight", "not a weight", '"5"'),
            (
                {"variants": variants(wieght=5)},
                "spec.variants[1].wieght",
                "unknown field; did you mean weight?",
                '"wieght"',
            ),
            ({"variants": variants(minReady=-1)}, "spec.variants[1].minReady", "too small", "-1"),
            ({"variants": variants(cluster="x")}, "spec.variants[1].cluster", "unknown field", '"cluster"'),
            (
                {"variants": variants(capacity={"perReplica": "8"})},
                "spec.variants[1].capacity.perReplica",
                "not a rate",
                '"8"',
            ),
            ({"issue_cookie": {}}, "spec.issue_cookie", "unknown field; did you mean issueCookie?", '"issue_cookie"'),
            (
                {
                    "rollout": {
                        "candidate": "model-b",
                        "steps": [5],
                        "stage": {"minDuration": "2h", "maxDuration": "1h"},
                    }
                },
                "spec.rollout.stage.maxDuration",
                "maxDuration must be longer than minDuration",
                '"1h"',
            ),
            (
                {"rollout": {"candidate": "model-c", "steps": [5]}},
                "spec.rollout.candidate",
                "the candidate must be a variant that is not the control",
                "model-c",
            ),
            (
                {
                    "rollout": {
                        "candidate": "model-b",
                        "steps": [5],
                        "guardrails": [{"metric": "error_rate", "max": 0.05}],
                    }
                },
                "spec.rollout.guardrails[0].max",
                "not a limit",
                "0.05",
            ),
            ({"salt": "a", "saltFile": "b"}, "spec.salt", "there is a secret salt already", '"a"'),
            ({"saltFile": "../token"}, "spec.saltFile", "not in the required form", ""),
            (
                {"callers": {"all": True}},
                "spec.callers",
                "only a VirtualService of the mesh has callers",
                '{"all": true}',
            ),
            (
                {"routes": PLAIN["routes"] * 2},
                "spec.routes[1]",
                "route 'HTTPRoute chat, rule v1' appears twice",
                "HTTPRoute chat, rule v1",
            ),
            ({"routes": []}, "spec.routes", "too few", "0"),
            ({"brake": 1}, "spec.brake", "unknown field", '"brake"'),
        ],
    )
    def test_names_the_field_as_the_object_has_it(self, changes: Any, path: str, message: str, found: str) -> None:
        told = problem(item(PLAIN, **changes))
        assert (told.path, told.message, told.found, told.line) == (path, message, found, 0)

    def test_old_names_are_of_files_alone(self) -> None:
        plan = {"candidate": "model-b", "steps": [5], "analysis": {"brake": "20%"}}
        assert problem(item(PLAIN, rollout=plan)).path == "spec.rollout.analysis.brake"

    def test_cookies_of_sessions_are_no_units(self) -> None:
        cookie = {"name": "sid", "maxAge": "1d"}
        unit = [{"cookie": "sid"}, {"cookie": "sid-continued"}]
        told = problem(item(PLAIN, unit=unit, issueCookie=cookie, events=[{"name": "continuation"}]))
        assert told.path == "spec.unit[1].cookie"

    @pytest.mark.parametrize("field", ["kind", "apiVersion", "metadata", "spec"])
    def test_an_object_is_whole(self, field: str) -> None:
        data = item()
        del data[field]
        assert problem(data).path == field

    def test_shows_no_value_of_a_secrets_place(self) -> None:
        secret = "correct horse battery staple"
        told = problem(item(PLAIN, saltFile=secret))
        assert secret not in told.describe("x")


TWO = f"""# of a team
apiVersion: v1
kind: Service
metadata: {{name: llm}}
---
{json.dumps(item())}
--- # more
apiVersion: abmesh.dev/v1alpha1
kind: Experiment
metadata: {{name: other}}
spec:
  routes: [{{kind: HTTPRoute, name: other}}]
  unit: [{{header: x-user-id}}]
  variants:
  - {{name: model-a, backend: {{service: a, port: 80}}, weight: 90, control: true}}
  - {{name: model-b, backend: {{service: b, port: 80}}, weight: 10}}
"""


class TestManifest:
    def test_reads_experiments_among_other_kinds(self) -> None:
        found = parse_manifest(TWO, "x.yaml", "web")
        assert [(each.namespace, each.name) for each in found] == [("llm", "chat"), ("web", "other")]

    def test_tells_the_line_in_the_whole_text(self) -> None:
        with pytest.raises(DocumentError) as refused:
            parse_manifest(TWO.replace("weight: 10}", "weight: 11}"), "x.yaml")
        (told,) = refused.value.problems
        assert (told.line, told.path) == (14, "spec.variants")

    def test_tells_the_problems_of_all_objects(self) -> None:
        with pytest.raises(DocumentError) as refused:
            parse_manifest(TWO.replace("weight", "wait"), "x.yaml")
        assert {told.line for told in refused.value.problems} >= {6, 15, 16}

    def test_refuses_a_name_twice(self) -> None:
        text = f"{json.dumps(item())}\n---\n{json.dumps(item())}\n"
        with pytest.raises(DocumentError, match="llm/chat appears twice"):
            parse_manifest(text, "x.yaml")

    def test_reads_what_kubectl_prints(self) -> None:
        printed = {"apiVersion": "v1", "kind": "List", "items": [{**item(), "status": {"phase": "Manual"}}]}
        printed["items"][0]["metadata"]["uid"] = "1"  # type: ignore[index]
        text = json.dumps(printed, indent=1)
        assert is_manifest(text)
        assert [each.name for each in parse_manifest(text, "-")] == ["chat"]
        with pytest.raises(DocumentError, match=r"items\[0\].spec.unit\[0\].hedder"):
            parse_manifest(text.replace('"header"', '"hedder"'), "-")

    def test_refuses_a_manifest_without_an_experiment(self) -> None:
        with pytest.raises(DocumentError, match="no Experiment"):
            parse_manifest("kind: Service\napiVersion: v1\n", "x.yaml")

    @pytest.mark.parametrize("text", [TWO, json.dumps(item()), "kind: 'Experiment'\n", "apiVersion: abmesh.dev/v1\n"])
    def test_is_told_from_a_document(self, text: str) -> None:
        assert is_manifest(text)

    @pytest.mark.parametrize("text", ["version: 1\nexperiments: []\n", "", "experiments:\n- name: kind\n"])
    def test_a_document_is_none(self, text: str) -> None:
        assert not is_manifest(text)


class TestStatus:
    def test_none_before_the_controller_has_seen_it(self) -> None:
        assert read_status(item()) is None
        assert read_status({**item(), "status": {}}) is None

    def test_is_refused_with_its_field(self) -> None:
        with pytest.raises(DocumentError, match=r"status\.leader\.epoch"):
            read_status({**item(), "status": {"leader": {"epoch": "x"}}})

    def test_leaves_alone_what_a_newer_controller_wrote(self) -> None:
        found = read_status({**item(), "status": {"phase": "Manual", "tomorrow": 1}})
        assert found is not None
        assert found.phase == "Manual"
