"""What Helm makes of the chart. Skipped, and said so, where there is no Helm."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.charts import rights
from tests.charts.helm import CRD_FILE, helm, need_helm, template
from tests.charts.support import (
    CHART,
    EXAMPLES,
    GATEWAY_NAMESPACE,
    MANIFEST,
    Key,
    by_key,
    containers,
    documents,
    of_kind,
    pods,
    read,
    rules,
    unrestricted,
)
from tests.paths import ROOT

pytestmark = pytest.mark.process

EVERYTHING = (
    *("gatewayNamespaces={edge,istio-ingress}", "callerNamespaces={web,edge}", "secretName=secrets"),
    *("networkPolicy.monitoringNamespaces={monitoring}", "networkPolicy.apiServerPorts={6443}"),
    *(
        "networkPolicy.gatewayStatistics[0].namespace=edge",
        "networkPolicy.gatewayStatistics[0].podLabels.istio=ingress",
    ),
    *("monitoring.podMonitor.enabled=true", "monitoring.prometheusRule.enabled=true"),
    *("monitoring.dashboard.enabled=true", "rbac.readers[0].kind=Group", "rbac.readers[0].name=ml-platform"),
    *("imagePullSecrets[0].name=pull", "controller.nodeSelector.disk=ssd", "extProc.podLabels.team=ml"),
)
"""Settings that switch on what is off by default."""

WITHOUT_CRD = "crds.install=false"


@pytest.fixture(autouse=True)
def _helm() -> None:
    need_helm()


def test_the_manifest_is_what_the_make_target_renders() -> None:
    """`make manifest` writes it again."""
    target = (ROOT / "Makefile").read_text().partition("\nmanifest:")[2].partition("\n\n")[0]
    settings = re.findall(r"--set (\S+)", target)
    assert WITHOUT_CRD in settings
    assert template(*settings, hooks=False) == read(MANIFEST)


def test_the_role_for_a_gateways_namespace_is_the_charts() -> None:
    rendered = template("gatewayNamespaces={edge}", WITHOUT_CRD)
    for kind in ("Role", "RoleBinding"):
        (plain,) = of_kind(read(GATEWAY_NAMESPACE), kind).values()
        ours = rendered[Key(kind, "edge", "abmesh-filters")]
        del ours["metadata"]["namespace"], ours["metadata"]["labels"]["app.kubernetes.io/version"]
        assert plain == ours


class TestWithEverythingOn:
    def test_lint_has_no_complaint(self) -> None:
        need_crd()
        said = helm("lint", "--strict", str(CHART), *_set(EVERYTHING))
        assert "0 chart(s) failed" in said

    @pytest.mark.parametrize("mode", ["deployment", "sidecar"])
    def test_every_pod_has_the_form_that_restricted_asks_for(self, mode: str) -> None:
        found = pods(template(*EVERYTHING, WITHOUT_CRD, f"extProc.mode={mode}"))
        assert {key.kind for key in found} == {"Deployment", "Job"}
        assert [text for pod in found.values() for text in unrestricted(pod)] == []

    def test_salts_are_mounted_and_nothing_may_read_secrets(self) -> None:
        items = template(*EVERYTHING, WITHOUT_CRD)
        for pod in (pod for key, pod in pods(items).items() if key.kind == "Deployment"):
            mounts = {mount["mountPath"] for container in containers(pod) for mount in container["volumeMounts"]}
            assert "/etc/abmesh/secrets" in mounts
        roles = [item for key, item in items.items() if key.kind in ("Role", "ClusterRole")]
        assert "secrets" not in {resource for role in roles for rule in role["rules"] for resource in rule["resources"]}

    def test_each_namespace_gets_the_rights_once_and_the_controller_knows_them(self) -> None:
        items = template(*EVERYTHING, WITHOUT_CRD)
        roles = {
            key.namespace: item for key, item in items.items() if key.name == "abmesh-filters" and key.kind == "Role"
        }
        assert set(roles) == {"edge", "istio-ingress", "web"}
        assert all(rules(role) == rights.CONTROLLER_AT_GATEWAYS for role in roles.values())
        for name in ("abmesh-controller", "abmesh-uninstall"):
            (pod,) = (pod for key, pod in pods(items).items() if key.name == name)
            arguments = containers(pod)[0]["args"]
            assert [text for text in arguments if re.match("--(gateway|caller)-namespace=", text)] == [
                *("--gateway-namespace=edge", "--gateway-namespace=istio-ingress"),
                *("--caller-namespace=web", "--caller-namespace=edge"),
            ]

    def test_names_that_look_like_numbers_stay_text(self) -> None:
        account = ("extProc.mode=sidecar", "extProc.sidecar.serviceAccounts[0].name=7")
        numbers = ("gatewayNamespaces={123}", "extProc.sidecar.serviceAccounts[0].namespace=8")
        strings = [word for setting in (*account, *numbers) for word in ("--set-string", setting)]
        text = helm("template", "abmesh", str(CHART), "--namespace", "12", "--set", WITHOUT_CRD, *strings)
        items = by_key(documents(text))
        assert {key.namespace for key in items} == {"", "12", "123"}
        (subject,) = of_kind(items, "ClusterRoleBinding")["abmesh-ext-proc"]["subjects"]
        assert (subject["name"], subject["namespace"]) == ("7", "8")

    def test_rules_and_dashboard_are_those_of_the_project(self) -> None:
        items = template(*EVERYTHING, WITHOUT_CRD)
        (rule,) = of_kind(items, "PrometheusRule").values()
        (alerts,) = documents((ROOT / "envoy/prometheus/alerts.yaml").read_text())
        assert rule["spec"] == alerts
        dashboard = of_kind(items, "ConfigMap")["abmesh-dashboard"]["data"]["abmesh.json"]
        assert dashboard.rstrip("\n") == (ROOT / "envoy/grafana/dashboard.json").read_text().rstrip("\n")

    def test_monitors_select_pods_and_call_jobs_as_the_documentation_does(self) -> None:
        monitors = of_kind(template(*EVERYTHING, WITHOUT_CRD), "PodMonitor")
        jobs = {name: item["spec"]["podMetricsEndpoints"][0]["relabelings"][0] for name, item in monitors.items()}
        assert jobs == {
            name: {"targetLabel": "job", "replacement": name} for name in ("abmesh-controller", "abmesh-ext-proc")
        }


class TestTheCrd:
    def test_is_a_template_that_stays_when_the_release_goes(self) -> None:
        need_crd()
        (crd,) = of_kind(template(), "CustomResourceDefinition").values()
        (plain,) = documents(CRD_FILE.read_text())
        assert crd["metadata"].pop("annotations")["helm.sh/resource-policy"] == "keep"
        plain["metadata"].pop("annotations", None)
        assert crd == plain

    def test_goes_with_the_release_where_that_is_asked_for(self) -> None:
        need_crd()
        (crd,) = of_kind(template("crds.keep=false"), "CustomResourceDefinition").values()
        (plain,) = documents(CRD_FILE.read_text())
        assert crd == plain


class TestTheSidecar:
    def test_nothing_runs_here_but_the_controller(self) -> None:
        items = template("extProc.mode=sidecar", WITHOUT_CRD)
        assert set(of_kind(items, "Deployment")) == set(of_kind(items, "Service")) == {"abmesh-controller"}
        (pod,) = (pod for key, pod in pods(items).items() if key.kind == "Deployment")
        assert "--server=unix:/var/run/abmesh/ext_proc.sock" in containers(pod)[0]["args"]

    def test_gateways_accounts_may_read_experiments_and_no_more(self) -> None:
        account = (
            "extProc.sidecar.serviceAccounts[0].namespace=edge",
            "extProc.sidecar.serviceAccounts[0].name=gateway",
        )
        items = template("extProc.mode=sidecar", WITHOUT_CRD, *account)
        binding = of_kind(items, "ClusterRoleBinding")["abmesh-ext-proc"]
        assert binding["subjects"] == [{"kind": "ServiceAccount", "namespace": "edge", "name": "gateway"}]
        assert rules(of_kind(items, "ClusterRole")["abmesh-ext-proc"]) == rights.SERVER

    def test_a_chart_that_has_this_one_as_a_dependency_can_include_it(self, tmp_path: Path) -> None:
        """The pod that comes out is the one of the example, but for what Istio's injection does there."""
        (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: gateways\nversion: 1.0.0\n")
        (tmp_path / "values.yaml").write_text("abmesh: {crds: {install: false}, extProc: {mode: sidecar}}\n")
        shutil.copytree(CHART, tmp_path / "charts" / "abmesh")
        (tmp_path / "templates").mkdir()
        (tmp_path / "templates" / "gateway.yaml").write_text(GATEWAY)
        rendered = by_key(documents(helm("template", "edge", str(tmp_path), "--show-only", "templates/gateway.yaml")))
        (pod,) = pods(rendered).values()
        (example,) = documents((EXAMPLES / "gateway-sidecar.yaml").read_text())
        assert pod["initContainers"] == example["spec"]["template"]["spec"]["initContainers"]
        assert pod["volumes"] == example["spec"]["template"]["spec"]["volumes"]
        mounts = example["spec"]["template"]["metadata"]["annotations"]["sidecar.istio.io/userVolumeMount"]
        assert pod["containers"][0]["volumeMounts"] == json.loads(mounts)


GATEWAY = """\
{{- $abmesh := index .Subcharts "abmesh" }}
apiVersion: apps/v1
kind: Deployment
metadata: {name: gateway}
spec:
  template:
    spec:
      initContainers:
      {{- include "abmesh.sidecar.container" $abmesh | nindent 6 }}
      containers:
      - name: istio-proxy
        image: auto
        volumeMounts:
        {{- include "abmesh.sidecar.mounts" $abmesh | nindent 8 }}
      volumes:
      {{- include "abmesh.sidecar.volumes" $abmesh | nindent 6 }}
"""


class TestUninstalling:
    def test_a_job_takes_abmesh_out_first_with_the_controllers_rights(self) -> None:
        job = of_kind(template(WITHOUT_CRD, "gatewayNamespaces={edge}"), "Job")["abmesh-uninstall"]
        assert job["metadata"]["annotations"] == {
            "helm.sh/hook": "pre-delete",
            "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
        }
        assert job["spec"]["template"]["spec"]["serviceAccountName"] == "abmesh-controller"

    @pytest.mark.parametrize("setting", ["uninstall.enabled=false", "controller.manageFilters=false"])
    def test_it_is_left_out_where_it_is_not_wanted_or_may_not_delete(self, setting: str) -> None:
        assert not of_kind(template(WITHOUT_CRD, "gatewayNamespaces={edge}", setting), "Job")

    def test_it_is_left_out_where_no_namespace_was_written_to(self) -> None:
        """`abmesh uninstall` refuses to run without one, and the release could not be uninstalled."""
        assert not of_kind(template(WITHOUT_CRD), "Job")


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("replica=3", "replica"),
        ("controller.replica=3", "replica"),
        ("controller.replicas=0", "replicas"),
        ("extProc.mode=daemonset", "mode"),
        ("gatewayNamespaces={Edge}", "gatewayNamespaces"),
        ("image.digest=sha256:1", "digest"),
        ("extProc.eventOrigins={chat.example.com}", "eventOrigins"),
        ("extProc.drainSeconds=soon", "drainSeconds"),
        ("podDisruptionBudget.maxUnavailable=0", "maxUnavailable"),
        (r"extProc.podLabels.app\.kubernetes\.io/name=x", "kubernetes.io/name"),
        ("monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true", "counted twice"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(setting: str, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        template(setting, WITHOUT_CRD)


def need_crd() -> None:
    """Skips where the CRD has not been generated into the chart."""
    if not CRD_FILE.exists():
        pytest.skip(f"{CRD_FILE.relative_to(ROOT)} is not there")


def _set(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]
