"""The committed manifest: what everybody gets who applies it, checked without Helm and without a cluster."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import typer

from abmesh.cli.main import app
from tests.charts import rights
from tests.charts.support import (
    GATEWAY_NAMESPACE,
    MANIFEST,
    Key,
    Rules,
    Thing,
    containers,
    of_kind,
    pods,
    read,
    rules,
    unrestricted,
)

ITEMS = read(MANIFEST)
DEPLOYMENTS = of_kind(ITEMS, "Deployment")


def test_it_has_what_the_design_has_and_no_experiment() -> None:
    found = sorted((key.kind, key.name) for key in ITEMS)
    assert found == sorted(
        [
            ("ClusterRole", "abmesh-controller"),
            ("ClusterRole", "abmesh-edit"),
            ("ClusterRole", "abmesh-ext-proc"),
            ("ClusterRole", "abmesh-view"),
            ("ClusterRoleBinding", "abmesh-controller"),
            ("ClusterRoleBinding", "abmesh-ext-proc"),
            ("Deployment", "abmesh-controller"),
            ("Deployment", "abmesh-ext-proc"),
            ("HorizontalPodAutoscaler", "abmesh-ext-proc"),
            ("NetworkPolicy", "abmesh-controller"),
            ("NetworkPolicy", "abmesh-ext-proc"),
            ("PodDisruptionBudget", "abmesh-controller"),
            ("PodDisruptionBudget", "abmesh-ext-proc"),
            ("Role", "abmesh-controller"),
            ("RoleBinding", "abmesh-controller"),
            ("Service", "abmesh-controller"),
            ("Service", "abmesh-ext-proc"),
            ("ServiceAccount", "abmesh-controller"),
            ("ServiceAccount", "abmesh-ext-proc"),
        ]
    )


def test_nothing_of_it_is_a_hook() -> None:
    """kubectl knows no hooks: the Job that uninstalls would run at once."""
    assert "helm.sh/hook" not in MANIFEST.read_text()


class TestPods:
    @pytest.mark.parametrize("key", pods(ITEMS), ids=lambda key: key.name)
    def test_have_the_form_that_restricted_asks_for(self, key: Key) -> None:
        assert unrestricted(pods(ITEMS)[key]) == []

    @pytest.mark.parametrize("key", pods(ITEMS), ids=lambda key: key.name)
    def test_run_as_our_user_with_a_home_that_can_be_written_to(self, key: Key) -> None:
        pod = pods(ITEMS)[key]
        assert (
            pod["securityContext"] | {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}
            == pod["securityContext"]
        )
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in containers(pod):
            environment = {item["name"]: item["value"] for item in container["env"]}
            mounts = {item["mountPath"]: item["name"] for item in container["volumeMounts"]}
            assert "emptyDir" in volumes[mounts[environment["HOME"]]]

    @pytest.mark.parametrize("name", DEPLOYMENTS)
    def test_are_probed_spread_and_limited_in_memory(self, name: str) -> None:
        spec = DEPLOYMENTS[name]["spec"]
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        assert {"livenessProbe", "readinessProbe"} <= set(container)
        assert container["resources"]["limits"].keys() == {"memory"}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        labels = spec["selector"]["matchLabels"]
        assert {item["topologyKey"] for item in pod["topologySpreadConstraints"]} == {
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        }
        assert all(item["labelSelector"]["matchLabels"] == labels for item in pod["topologySpreadConstraints"])

    def test_a_server_is_ready_by_its_health_and_alive_by_its_port(self) -> None:
        (server,) = DEPLOYMENTS["abmesh-ext-proc"]["spec"]["template"]["spec"]["containers"]
        assert server["readinessProbe"]["grpc"] == {"port": 50051}
        assert server["livenessProbe"]["tcpSocket"] == {"port": "grpc"}

    def test_a_server_has_more_time_to_end_than_its_drain_takes(self) -> None:
        pod = DEPLOYMENTS["abmesh-ext-proc"]["spec"]["template"]["spec"]
        (server,) = pod["containers"]
        (drain,) = (re.fullmatch(r"--drain=(\d+)s", argument) for argument in server["args"] if "drain" in argument)
        assert drain is not None
        wait = server["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] > wait + int(drain[1])

    @pytest.mark.parametrize("name", DEPLOYMENTS)
    def test_get_no_sidecar(self, name: str) -> None:
        labels = DEPLOYMENTS[name]["spec"]["template"]["metadata"]["labels"]
        assert labels["sidecar.istio.io/inject"] == "false"

    def test_ports_probes_and_flags_name_the_same_numbers(self) -> None:
        for deployment in DEPLOYMENTS.values():
            (container,) = deployment["spec"]["template"]["spec"]["containers"]
            ports = {item["containerPort"] for item in container["ports"]}
            said = {int(found[1]) for text in container["args"] if (found := re.search(r"=0\.0\.0\.0:(\d+)$", text))}
            assert said == ports

    @pytest.mark.parametrize("name", DEPLOYMENTS)
    def test_pass_flags_that_their_command_has(self, name: str) -> None:
        (container,) = DEPLOYMENTS[name]["spec"]["template"]["spec"]["containers"]
        _need_flags(container["args"])


def _need_flags(arguments: list[str]) -> None:
    """Skips, and says so, where a command of this tree does not run in a cluster yet."""
    command, *flags = arguments
    known = {name for item in typer.main.get_command(app).commands[command].params for name in item.opts}  # type: ignore[attr-defined]
    if "--kubernetes" not in known:
        pytest.skip(f"abmesh {command} has no --kubernetes in this tree, so its flags cannot be compared")
    assert {flag.partition("=")[0] for flag in flags} <= known


def _break(change: Callable[[Thing], object]) -> Thing:
    pod: Thing = copy.deepcopy(DEPLOYMENTS["abmesh-controller"]["spec"]["template"]["spec"])
    change(pod)
    return pod


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda pod: pod["securityContext"].pop("runAsNonRoot"), "runAsNonRoot is not true"),
        (lambda pod: pod["securityContext"].pop("seccompProfile"), "no seccomp profile"),
        (lambda pod: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}), "volume x is a hostPath"),
        (lambda pod: pod.update(hostNetwork=True), "hostNetwork"),
        (lambda pod: pod["containers"][0].pop("securityContext"), "controller: capabilities are not dropped"),
        (lambda pod: pod["containers"][0]["ports"].append({"hostPort": 1}), "controller: a port of the host"),
    ],
)
def test_the_check_of_pods_sees(change: Callable[[Thing], object], problem: str) -> None:
    assert problem in unrestricted(_break(change))


class TestRights:
    @pytest.mark.parametrize(
        ("kind", "name", "expected"),
        [
            ("ClusterRole", "abmesh-controller", rights.CONTROLLER_EVERYWHERE),
            ("Role", "abmesh-controller", rights.CONTROLLER_AT_HOME),
            ("ClusterRole", "abmesh-ext-proc", rights.SERVER),
            ("ClusterRole", "abmesh-view", rights.VIEWERS),
            ("ClusterRole", "abmesh-edit", rights.EDITORS),
        ],
    )
    def test_are_those_that_are_written_down(self, kind: str, name: str, expected: Rules) -> None:
        assert rules(of_kind(ITEMS, kind)[name]) == expected

    def test_at_gateways_are_those_that_are_written_down(self) -> None:
        items = read(GATEWAY_NAMESPACE)
        assert rules(of_kind(items, "Role")["abmesh-filters"]) == rights.CONTROLLER_AT_GATEWAYS
        (binding,) = of_kind(items, "RoleBinding").values()
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "abmesh-controller", "namespace": "abmesh"}]

    def test_hold_no_secret_and_no_wildcard(self) -> None:
        roles = [item for key, item in ITEMS.items() if key.kind in ("Role", "ClusterRole")]
        granted = [word for role in roles for rule in role["rules"] for words in rule.values() for word in words]
        assert roles
        assert not {"secrets", "*"} & set(granted)

    def test_are_bound_to_accounts_that_exist(self) -> None:
        accounts = set(of_kind(ITEMS, "ServiceAccount"))
        for key, item in ITEMS.items():
            if key.kind in ("RoleBinding", "ClusterRoleBinding"):
                assert {subject["name"] for subject in item["subjects"]} == {item["roleRef"]["name"]} <= accounts

    def test_reach_pods_only_where_they_are_used(self) -> None:
        accounts = of_kind(ITEMS, "ServiceAccount")
        assert not any(account["automountServiceAccountToken"] for account in accounts.values())
        used = {name: item["spec"]["template"]["spec"]["serviceAccountName"] for name, item in DEPLOYMENTS.items()}
        assert used == {name: name for name in accounts}


class TestServices:
    def test_the_servers_port_speaks_grpc(self) -> None:
        ports = {port["name"]: port for port in of_kind(ITEMS, "Service")["abmesh-ext-proc"]["spec"]["ports"]}
        assert ports["grpc"] == {"name": "grpc", "port": 50051, "targetPort": "grpc", "appProtocol": "grpc"}

    def test_the_controller_is_told_the_address_of_that_service(self) -> None:
        (container,) = DEPLOYMENTS["abmesh-controller"]["spec"]["template"]["spec"]["containers"]
        assert "--server=abmesh-ext-proc.abmesh.svc.cluster.local:50051" in container["args"]
        assert "--owner=abmesh-controller" in container["args"]

    @pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget", "NetworkPolicy"])
    def test_select_the_pods_of_their_name(self, kind: str) -> None:
        for name, item in of_kind(ITEMS, kind).items():
            spec = item["spec"]
            selected = spec.get("podSelector") or spec["selector"]
            expected = DEPLOYMENTS[name]["spec"]["selector"]["matchLabels"]
            assert selected.get("matchLabels", selected) == expected

    def test_the_autoscaler_alone_sets_the_number_of_servers(self) -> None:
        (scaler,) = of_kind(ITEMS, "HorizontalPodAutoscaler").values()
        assert scaler["spec"]["scaleTargetRef"]["name"] == "abmesh-ext-proc"
        assert "replicas" not in DEPLOYMENTS["abmesh-ext-proc"]["spec"], "an upgrade would undo what it scaled"
        assert DEPLOYMENTS["abmesh-controller"]["spec"]["replicas"] == 2
