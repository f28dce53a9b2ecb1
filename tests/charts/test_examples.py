"""The examples for a cluster hold together: an Experiment's routes, rules, backends and subsets are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.charts.support import EXAMPLES, Key, Thing, containers, of_kind, pods, read, unrestricted

FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())


def _items(folder: Path) -> dict[Key, Thing]:
    found: dict[Key, Thing] = {}
    for file in sorted(folder.glob("*.yaml")):
        for key, item in read(file).items():
            assert key not in found, f"{key} stands in two files"
            found[key] = item
    return found


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def items(folder: Path) -> dict[Key, Thing]:
    return _items(folder)


@pytest.fixture
def spec(items: dict[Key, Thing]) -> Thing:
    (experiment,) = of_kind(items, "Experiment").values()
    found: Thing = experiment["spec"]
    return found


def test_both_of_the_documentations_examples_are_there() -> None:
    assert [folder.name for folder in FOLDERS] == ["cpu", "vllm"]


def test_all_of_it_lies_in_one_namespace_that_it_makes(items: dict[Key, Thing]) -> None:
    (namespace,) = of_kind(items, "Namespace")
    assert {key.namespace for key in items if key.kind != "Namespace"} == {namespace}


def test_each_route_that_an_experiment_names_has_that_rule(items: dict[Key, Thing], spec: Thing) -> None:
    for reference in spec["routes"]:
        route = of_kind(items, reference["kind"])[reference["name"]]["spec"]
        names = [rule.get("name") for rule in route["http" if reference["kind"] == "VirtualService" else "rules"]]
        assert None not in names
        assert names.count(reference["rule"]) == 1


def test_each_backend_is_a_port_of_a_service_with_pods(items: dict[Key, Thing], spec: Thing) -> None:
    for variant in spec["variants"]:
        backend = variant["backend"]
        service = of_kind(items, "Service")[backend["service"]]["spec"]
        assert backend["port"] in {port["port"] for port in service["ports"]}
        wanted = dict(service["selector"])
        if "subset" in backend:
            (rule,) = of_kind(items, "DestinationRule").values()
            assert rule["spec"]["host"].startswith(f"{backend['service']}.")
            (subset,) = (item for item in rule["spec"]["subsets"] if item["name"] == backend["subset"])
            wanted |= subset["labels"]
        templates = (item["spec"]["template"] for item in of_kind(items, "Deployment").values())
        chosen = [item for item in templates if wanted.items() <= item["metadata"]["labels"].items()]
        assert len(chosen) == 1, "a variant's users must meet one version only"
        ports = {port["name"]: port["containerPort"] for port in containers(chosen[0]["spec"])[0]["ports"]}
        assert {port["targetPort"] for port in service["ports"]} <= set(ports)


def test_the_route_sends_whom_nobody_assigned_to_the_control(items: dict[Key, Thing], spec: Thing) -> None:
    (control,) = (variant for variant in spec["variants"] if variant.get("control"))
    (reference,) = spec["routes"]
    route = of_kind(items, reference["kind"])[reference["name"]]["spec"]
    (rule,) = (rule for rule in route.get("http") or route["rules"] if rule["name"] == reference["rule"])
    backend = control["backend"]
    if reference["kind"] == "VirtualService":
        (target,) = (item["destination"] for item in rule["route"])
        assert (target["subset"], target["port"]["number"]) == (backend["subset"], backend["port"])
    else:
        assert rule["backendRefs"] == [{"name": backend["service"], "port": backend["port"]}]


def test_no_cookie_of_a_user_is_one_that_a_destination_rule_hashes(items: dict[Key, Thing], spec: Thing) -> None:
    hashed = {
        rule["spec"]
        .get("trafficPolicy", {})
        .get("loadBalancer", {})
        .get("consistentHash", {})
        .get("httpCookie", {})
        .get("name")
        for rule in of_kind(items, "DestinationRule").values()
    }
    assert not hashed & {spec["issueCookie"]["name"], *(unit.get("cookie") for unit in spec["unit"])} - {None}


def test_weights_begin_at_the_first_step(spec: Thing) -> None:
    weights = {variant["name"]: variant["weight"] for variant in spec["variants"]}
    assert sum(weights.values()) == 100
    assert weights[spec["rollout"]["candidate"]] == spec["rollout"]["steps"][0]


def test_pods_are_ready_only_when_they_answer(items: dict[Key, Thing]) -> None:
    for pod in pods(items).values():
        (container,) = containers(pod)
        assert container["readinessProbe"]["httpGet"]["port"] == "http"


def test_vllm_asks_for_gpus_and_serves_both_versions_under_one_name() -> None:
    found = [containers(pod)[0] for pod in pods(_items(EXAMPLES / "vllm")).values()]
    assert [container["resources"]["limits"]["nvidia.com/gpu"] for container in found] == [1, 1]
    names = {text for container in found for text in container["args"] if text.startswith("--served-model-name=")}
    assert len(names) == 1, "a client that names a model would get 404 from the other version"
    assert len({text for container in found for text in container["args"] if text.startswith("--model=")}) == 2


def test_the_one_without_gpus_runs_our_model_server_as_restricted_pods() -> None:
    for pod in pods(_items(EXAMPLES / "cpu")).values():
        assert unrestricted(pod) == []
        (container,) = containers(pod)
        assert container["command"] == ["python", "-m", "abmesh.local.model_server"]
        assert "nvidia.com/gpu" not in container["resources"]["limits"]


def test_each_experiment_is_valid(folder: Path) -> None:
    """By the rules of `abmesh validate`, which reads manifests with the same function."""
    objects = pytest.importorskip("abmesh.kube.objects", reason="this tree does not know Experiment objects yet")
    file = folder / "experiment.yaml"
    (found,) = objects.parse_manifest(file.read_text(), str(file))
    (namespace,) = of_kind(_items(folder), "Namespace")
    assert found.experiment.name == f"{namespace}/chat-model"
