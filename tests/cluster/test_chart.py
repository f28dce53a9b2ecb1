"""The shipped chart against a real API server: what it accepts, grants and leaves behind."""

from __future__ import annotations

import copy
import json
import re
import shutil
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.charts import rights as expected
from tests.charts.helm import CRD_FILE
from tests.charts.support import CHART, EXAMPLES, GATEWAY_NAMESPACE, MANIFEST, by_key, documents, pods
from tests.charts.support import read as read_file
from tests.cluster.cluster import Cluster
from tests.cluster.plane.control_plane import KubectlError
from tests.cluster.releases import HelmError, Release, rights
from tests.cluster.waiting import wait_for

KEPT = {("CustomResourceDefinition", "experiments.abmesh.dev")}


@pytest.fixture
def release(cluster: Cluster, namespace: str) -> Iterator[Release]:
    """A release that is not installed yet, and is gone after the test."""
    if not CRD_FILE.exists():
        pytest.skip(f"NOT TESTED: {CRD_FILE.name} has not been generated into the chart")
    found = Release(cluster, namespace)
    yield found
    found.uninstall()
    cluster.plane.kubectl("delete", "crd", "experiments.abmesh.dev", "--ignore-not-found")


@pytest.fixture
def gateways(cluster: Cluster, namespace: str) -> Iterator[str]:
    """A namespace for gateways."""
    name = f"{namespace}-gw"
    cluster.plane.kubectl("create", "namespace", name)
    yield name
    cluster.plane.kubectl("delete", "namespace", name, "--wait=false")


def _dry_run(cluster: Cluster, text: str, *more: str) -> str:
    arguments = ("apply", "--dry-run=server", "--validate=strict", *more, "--filename", "-")
    return cluster.plane.kubectl(*arguments, given=text)


class TestTheApiServer:
    @pytest.mark.parametrize("mode", ["deployment", "sidecar"])
    def test_accepts_every_object_strictly(self, release: Release, gateways: str, mode: str) -> None:
        settings = (f"gatewayNamespaces={{{gateways}}}", f"extProc.mode={mode}", "rbac.readers[0].kind=Group")
        more = ("rbac.readers[0].name=ml", f"networkPolicy.gatewayStatistics[0].namespace={gateways}")
        labels = ("networkPolicy.gatewayStatistics[0].podLabels.istio=ingress", "monitoring.dashboard.enabled=true")
        text = release.template(*settings, *more, *labels)
        said = _dry_run(release.cluster, text)
        assert len(said.splitlines()) == len(documents(text))

    def test_refuses_a_field_that_does_not_exist(self, release: Release) -> None:
        """So the test above can fail."""
        text = release.template().replace("replicas: 2", "replicaz: 2")
        with pytest.raises(KubectlError, match="replicaz"):
            _dry_run(release.cluster, text)

    def test_accepts_the_plain_manifest(self, cluster: Cluster, namespace: str) -> None:
        items = documents(MANIFEST.read_text())
        text = "\n---\n".join(
            json.dumps(item).replace('"namespace": "abmesh"', f'"namespace": "{namespace}"') for item in items
        )
        assert len(_dry_run(cluster, text).splitlines()) == len(items)
        _dry_run(cluster, GATEWAY_NAMESPACE.read_text(), "--namespace", namespace)

    @pytest.mark.parametrize("folder", ["cpu", "vllm"])
    def test_accepts_the_examples(self, release: Release, folder: str) -> None:
        release.install()
        items = {key: item for file in (EXAMPLES / folder).glob("*.yaml") for key, item in read_file(file).items()}
        (own,) = (key.name for key in items if key.kind == "Namespace")
        release.cluster.plane.kubectl("create", "namespace", own)
        try:
            text = "\n---\n".join(json.dumps(item) for key, item in items.items() if key.kind != "Namespace")
            said = _dry_run(release.cluster, text)
            assert len(said.splitlines()) == len(items) - 1
        finally:
            release.cluster.plane.kubectl("delete", "namespace", own, "--wait=false")


class TestPodSecurity:
    """Pods, not Deployments: of those the API server only warns."""

    @pytest.fixture
    def restricted(self, cluster: Cluster, namespace: str) -> str:
        label = "pod-security.kubernetes.io/enforce=restricted"
        cluster.plane.kubectl("label", "namespace", namespace, label)
        return namespace

    @pytest.mark.parametrize("setting", ["extProc.mode=deployment", "secretName=secrets"])
    def test_restricted_admits_every_pod(self, release: Release, restricted: str, setting: str) -> None:
        found = pods(by_key(documents(release.template(setting, "gatewayNamespaces={edge}"))))
        assert {key.kind for key in found} == {"Deployment", "Job"}
        for key, spec in found.items():
            _dry_run(release.cluster, _pod(key.name, spec), "--namespace", restricted)

    def test_restricted_admits_the_model_servers_of_the_example(self, cluster: Cluster, restricted: str) -> None:
        for key, spec in pods(read_file(EXAMPLES / "cpu" / "models.yaml")).items():
            _dry_run(cluster, _pod(key.name, spec), "--namespace", restricted)

    def test_restricted_refuses_a_pod_that_may_be_root(self, release: Release, restricted: str) -> None:
        """So the tests above can fail."""
        spec = next(iter(pods(by_key(documents(release.template()))).values()))
        root = copy.deepcopy(spec)
        del root["securityContext"]["runAsNonRoot"]
        with pytest.raises(KubectlError, match="runAsNonRoot"):
            _dry_run(release.cluster, _pod("root", root), "--namespace", restricted)


def _pod(name: str, spec: Mapping[str, object]) -> str:
    """A Pod with the default account: that of the release is not there in a dry run."""
    own = {key: value for key, value in spec.items() if key != "serviceAccountName"}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": own})


class TestARelease:
    def test_is_upgraded_and_leaves_only_what_is_kept(self, release: Release, gateways: str) -> None:
        release.install(f"gatewayNamespaces={{{gateways}}}")
        plane = release.cluster.plane
        _make_experiment(release)
        release.install(f"gatewayNamespaces={{{gateways}}}", "extProc.workers=2")
        server = plane.read("deployment", "abmesh-ext-proc", release.namespace)
        assert "--workers=2" in server["spec"]["template"]["spec"]["containers"][0]["args"]
        release.uninstall()
        wait_for(lambda: not release.remains(), "the release's objects to be gone")
        crds = plane.read("customresourcedefinitions")["items"]
        kept = {(item["kind"], item["metadata"]["name"]) for item in crds if item["spec"]["group"] == "abmesh.dev"}
        assert kept == KEPT
        assert plane.read("experiments.abmesh.dev", "chat-model", release.namespace)["spec"]["variants"]

    def test_says_what_to_do_next(self, release: Release, gateways: str) -> None:
        release.install()
        assert "IT MAY NOT CHANGE ANY GATEWAY YET" in release.helm("get", "notes", release.name)
        release.install(f"gatewayNamespaces={{{gateways}}}")
        assert f"It may write EnvoyFilters in: {gateways}." in release.helm("get", "notes", release.name)

    def test_is_installed_again_over_the_crd_that_it_left(self, release: Release) -> None:
        release.install()
        release.uninstall()
        release.helm("install", release.name, str(CHART))

    def test_changes_the_crd_when_it_is_upgraded(self, release: Release, tmp_path: Path) -> None:
        """A CRD in the chart's folder `crds` would stay as it was."""
        release.install()
        newer = tmp_path / "abmesh"
        shutil.copytree(CHART, newer)
        file = newer / "files" / CRD_FILE.name
        text = file.read_text()
        changed, times = re.subn(r"\n( +)- abx\n", r"\n\1- abx\n\1- abxs\n", text)
        assert times == 1
        file.write_text(changed)
        release.helm("upgrade", release.name, str(newer))
        names = release.cluster.plane.read("crd", "experiments.abmesh.dev")["spec"]["names"]
        assert names["shortNames"] == ["abx", "abxs"]

    def test_is_refused_beside_another(self, release: Release, gateways: str) -> None:
        """Two would both lead."""
        release.install()
        other = Release(release.cluster, gateways, "other-abmesh")
        with pytest.raises(HelmError, match="invalid ownership metadata"):
            other.helm("install", other.name, str(CHART))

    def test_refuses_a_namespace_of_gateways_that_does_not_exist(self, release: Release) -> None:
        with pytest.raises(HelmError, match='namespaces "nowhere" not found'):
            release.install("gatewayNamespaces={nowhere}")

    def test_filters_of_its_cluster_role_go_with_it_without_a_controller(self, release: Release, gateways: str) -> None:
        release.install(f"gatewayNamespaces={{{gateways}}}")
        plane = release.cluster.plane
        role = plane.read("clusterrole", "abmesh-controller")["metadata"]
        owner = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
        plane.apply(
            {
                "apiVersion": "networking.istio.io/v1alpha3",
                "kind": "EnvoyFilter",
                "metadata": {
                    "name": "abmesh-gateway",
                    "namespace": gateways,
                    "ownerReferences": [{**owner, "name": role["name"], "uid": role["uid"]}],
                },
                "spec": {"workloadSelector": {"labels": {"app": "nothing"}}, "configPatches": []},
            }
        )
        assert plane.read("envoyfilters", "abmesh-gateway", gateways)
        release.uninstall()
        wait_for(lambda: not plane.read("envoyfilters", "", gateways)["items"], "the garbage collector")


def _make_experiment(release: Release) -> None:
    (key, item), *_ = read_file(EXAMPLES / "cpu" / "experiment.yaml").items()
    assert key.kind == "Experiment"
    own = item["metadata"] | {"namespace": release.namespace}
    release.cluster.plane.apply({**item, "metadata": own})


class TestServers:
    def test_are_ready_before_there_is_an_experiment_and_serve_the_first(self, release: Release) -> None:
        """As pods of the chart, with the rights of the chart, and no other."""
        release.install("extProc.autoscaling.enabled=false", "extProc.replicas=2")
        plane = release.cluster.plane

        def ready() -> int:
            found = plane.read("deployment", "abmesh-ext-proc", release.namespace)["status"]
            return int(found.get("readyReplicas", 0))

        wait_for(lambda: ready() == 2, "both servers to be ready", 90)
        _make_experiment(release)
        selector = "app.kubernetes.io/component=ext-proc"
        pods_ = plane.read("pods", "", release.namespace, "--selector", selector)["items"]
        addresses = [item["status"]["podIP"] for item in pods_]
        own = f"{release.namespace}/chat-model"
        wait_for(lambda: all(own in _served(address) for address in addresses), "the Experiment at both servers")


def _served(address: str) -> list[str]:
    """Names of the Experiments that a server serves."""
    with urllib.request.urlopen(f"http://{address}:9102/generation", timeout=5) as response:
        return list(json.load(response)["experiments"])


class TestRights:
    """`kubectl auth can-i --list` of each account, without what everybody may."""

    @pytest.fixture
    def installed(self, release: Release, gateways: str) -> tuple[Release, str]:
        release.install(f"gatewayNamespaces={{{gateways}}}")
        return release, gateways

    def test_of_a_server_are_to_read_experiments(self, installed: tuple[Release, str]) -> None:
        release, gateways = installed
        for namespace in (release.namespace, gateways, "kube-system"):
            assert rights(release.cluster, release.account("ext-proc"), namespace) == expected.SERVER

    def test_of_a_controller_are_those_that_are_written_down(self, installed: tuple[Release, str]) -> None:
        release, gateways = installed
        account, everywhere = release.account("controller"), expected.CONTROLLER_EVERYWHERE
        assert rights(release.cluster, account, "default") == everywhere
        assert rights(release.cluster, account, release.namespace) == everywhere | expected.CONTROLLER_AT_HOME
        assert rights(release.cluster, account, gateways) == everywhere | expected.CONTROLLER_AT_GATEWAYS

    @pytest.mark.parametrize(
        ("role", "verb", "answer"), [("edit", "patch", "yes"), ("view", "patch", "no"), ("view", "watch", "yes")]
    )
    def test_of_people_follow_their_rights_to_the_namespace(
        self, installed: tuple[Release, str], role: str, verb: str, answer: str
    ) -> None:
        release, gateways = installed
        plane = release.cluster.plane
        plane.kubectl(
            "create", "rolebinding", f"{role}-{verb}", "--clusterrole", role, "--user", "ann", namespace=gateways
        )
        command = ("kubectl", "auth", "can-i", verb, "experiments.abmesh.dev", "--as", "ann", "--namespace", gateways)
        wait_for(lambda: plane.run(*command).stdout.strip() == answer, f"`{' '.join(command)}` to say {answer}")

    def test_nobody_but_the_controller_writes_status(self, installed: tuple[Release, str]) -> None:
        release, gateways = installed
        plane = release.cluster.plane
        plane.kubectl("create", "rolebinding", "ann", "--clusterrole", "edit", "--user", "ann", namespace=gateways)
        command = ("kubectl", "auth", "can-i", "patch", "experiments.abmesh.dev", "--subresource=status", "--as", "ann")
        assert plane.run(*command, "--namespace", gateways).stdout.strip() == "no"
