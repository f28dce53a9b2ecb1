"""Files and objects become each other without loss, and what has no place on the other side is refused by name."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given

from abmesh.experiment.codec import parse as parse_document
from abmesh.experiment.errors import ConvertError
from abmesh.kube import yaml_out
from abmesh.kube.convert import to_document, to_objects
from abmesh.kube.objects import parse, parse_manifest
from abmesh.kube.spec_parts import Backend, RouteRef
from tests.abmesh.kube.specs import FULL, PLAIN, item, specs

ROUTES = (RouteRef(kind="HTTPRoute", name="chat", rule="v1"),)
ALL_WITHOUT = ("routes", "callers", "unassigned", "manage", "minReady", "capacity", "run")

DOCUMENT = """
version: 1
experiments:
- name: chat
  unit: [{header: x-user-id}]
  variants:
  - {name: a, cluster: "outbound|80||a.llm.svc.cluster.local", weight: 90, control: true}
  - {name: b, cluster: "outbound|80|v2|b.other.svc.cluster.local", weight: 10}
"""


def refused(document: str, **options: Any) -> str:
    with pytest.raises(ConvertError) as error:
        to_objects(parse_document(document), "llm", **{"routes": ROUTES, **options})
    return str(error.value)


@given(specs())
def test_an_object_comes_back_from_a_file(spec: dict[str, Any]) -> None:
    first = parse(item(spec))
    text = yaml_out.dump([to_document([first], ["routes"])])
    document = parse_document(text)
    (experiment,) = document.experiments
    assert experiment == first.experiment.model_copy(update={"name": "chat"})
    objects = to_objects(document, "llm", ROUTES)
    (again,) = parse_manifest(yaml_out.dump(objects), "x.yaml")
    assert again.experiment == first.experiment
    assert again.spec.weights == first.spec.weights
    assert again.spec.model_dump(exclude={"variants"}) == first.spec.model_dump(exclude={"variants"})
    assert to_objects(document, "llm", ROUTES) == json.loads(json.dumps(objects))


def test_a_full_object_comes_back_but_for_what_was_left_out() -> None:
    first = parse(item(FULL))
    document = parse_document(yaml_out.dump([to_document([first], ALL_WITHOUT)]))
    assert document.experiments == (first.experiment.model_copy(update={"name": "chat"}),)
    (again,) = to_objects(document, "llm", first.spec.routes)
    expected = copy.deepcopy(
        {key: value for key, value in FULL.items() if key not in ("callers", "unassigned", "manage")}
    )
    del expected["rollout"]["run"], expected["variants"][1]["minReady"], expected["variants"][1]["capacity"]
    assert parse(again).spec == parse(item(expected)).spec


class TestToAFile:
    def test_names_what_has_no_place_and_what_to_do(self) -> None:
        with pytest.raises(ConvertError) as error:
            to_document([parse(item(FULL))])
        told = str(error.value)
        for path, name in {
            "routes": "routes",
            "callers": "callers",
            "unassigned": "unassigned",
            "manage": "manage",
            "variants[1].minReady": "minReady",
            "variants[1].capacity": "capacity",
            "rollout.run": "run",
        }.items():
            (line,) = (line for line in told.splitlines() if line.startswith(f"llm/chat: {path}: "))
            assert line.endswith(f"add --without {name}")

    def test_refuses_one_name_of_two_namespaces(self) -> None:
        two = [parse(item()), parse(item(namespace="web"))]
        with pytest.raises(ConvertError, match="web/chat: llm/chat has the same name"):
            to_document(two, ["routes"])


class TestToObjects:
    def test_knows_services_by_their_clusters(self) -> None:
        (made,) = to_objects(parse_document(DOCUMENT), "llm", ROUTES)
        assert [variant["backend"] for variant in made["spec"]["variants"]] == [
            {"service": "a", "port": 80},
            {"service": "b", "port": 80, "subset": "v2", "namespace": "other"},
        ]

    @pytest.mark.parametrize(
        ("host", "backend"),
        [
            ("a", {"service": "a", "port": 8000}),
            ("a.llm", {"service": "a", "port": 8000}),
            ("a.web.svc.cluster.local", {"service": "a", "port": 8000, "namespace": "web"}),
        ],
    )
    def test_knows_services_by_their_hosts(self, host: str, backend: dict[str, Any]) -> None:
        text = DOCUMENT.replace("outbound|80||a.llm.svc.cluster.local", "mine")
        text = text.replace("outbound|80|v2|b.other.svc.cluster.local", "mine")
        text += f"clusters: {{mine: {{host: {host}, port: 8000}}}}\n"
        (made,) = to_objects(parse_document(text), "llm", ROUTES)
        assert made["spec"]["variants"][0]["backend"] == backend

    def test_asks_for_the_service_of_other_clusters(self) -> None:
        text = DOCUMENT.replace("outbound|80||a.llm.svc.cluster.local", "mine")
        assert "chat: variants[0].cluster: 'mine' is not Istio's name" in refused(text)
        assert "--backend mine=SERVICE:PORT" in refused(text)
        (made,) = to_objects(parse_document(text), "llm", ROUTES, {"mine": Backend(service="s", port=1)})
        assert made["spec"]["variants"][0]["backend"] == {"service": "s", "port": 1}

    def test_asks_for_routes(self) -> None:
        assert "--route HTTPRoute/NAME/RULE" in refused(DOCUMENT, routes=())

    @pytest.mark.parametrize(
        ("field", "text"),
        [
            ("event_origins", "event_origins: [https://app.example]\n"),
            ("journal", "journal: {keep: 3}\n"),
            ("default_cluster", "default_cluster: mine\n"),
        ],
    )
    def test_what_no_object_has_is_left_out_only_on_demand(self, field: str, text: str) -> None:
        told = refused(DOCUMENT + text)
        assert told.startswith(f"{field}: ")
        assert told.endswith(f"add --without {field}")
        assert to_objects(parse_document(DOCUMENT + text), "llm", ROUTES, without=[field])

    def test_ranges_that_would_move_users_are_refused(self) -> None:
        moved = DOCUMENT + "  ranges: {a: [[0, 500], [1500, 10000]], b: [[500, 1500]]}\n"
        assert "chat: ranges: " in refused(moved)
        assert to_objects(parse_document(moved), "llm", ROUTES, without=["ranges"])
        same = DOCUMENT + "  ranges: {a: [[0, 9000]], b: [[9000, 10000]]}\n"
        assert to_objects(parse_document(same), "llm", ROUTES)

    @pytest.mark.parametrize("source", ["{env: SALT}", "{file: /run/secrets/salt}"])
    def test_a_secret_elsewhere_is_refused(self, source: str) -> None:
        told = refused(DOCUMENT + f"  secret_salt: {source}\n")
        assert told.startswith("chat: secret_salt: an object names a file that is mounted below /etc/abmesh/secrets")

    def test_a_files_name_stays_bare(self) -> None:
        (made,) = to_objects(parse_document(DOCUMENT), "llm", ROUTES)
        assert made["metadata"] == {"name": "chat", "namespace": "llm"}
        assert parse(made).experiment.hash_salt == parse_document(DOCUMENT).experiments[0].hash_salt


def test_plain_is_a_spec_that_the_other_tests_build_on() -> None:
    assert parse(item(PLAIN)).experiment.name == "llm/chat"
