"""Installs the chart in a test's cluster, and asks the API server what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from tests.charts.support import CHART, Rules, Thing
from tests.cluster.cluster import Cluster
from tests.cluster.errors import ClusterError

INSTANCE: Final = "app.kubernetes.io/instance"
NAME: Final = "app.kubernetes.io/name"
HELM_LIMIT: Final = 300.0
_OTHERS: Final = {"events", "events.events.k8s.io", "componentstatuses"}


class HelmError(ClusterError):
    """Helm said no; holds what it said."""


@dataclass(frozen=True, slots=True)
class Release:
    """A release of the chart, installed or not.

    Attributes:
        cluster: where.
        namespace: of the release.
        name: of the release; its objects of the whole cluster are named by it.
    """

    cluster: Cluster
    namespace: str
    name: str = "abmesh"

    def helm(self, *arguments: str) -> str:
        """What Helm prints.

        Raises:
            HelmError: it failed.
        """
        helm = self.cluster.plane.programs.path("helm")
        done = self.cluster.plane.run(helm, *arguments, "--namespace", self.namespace, limit=HELM_LIMIT)
        if done.returncode != 0:
            raise HelmError(f"helm {' '.join(arguments)} failed:\n{done.stderr.strip()}")
        return done.stdout

    def template(self, *settings: str) -> str:
        """The chart's manifest, hooks included."""
        return self.helm("template", self.name, str(CHART), *_flags(settings))

    def install(self, *settings: str, wait: bool = False) -> None:
        """Install or upgrade it, and ``wait`` until its pods are ready. A CRD that another test left is taken over."""
        more = ("--wait", f"--timeout={HELM_LIMIT:g}s") if wait else ()
        self.helm("upgrade", "--install", self.name, str(CHART), "--take-ownership", *more, *_flags(settings))

    def uninstall(self, *, hooks: bool = False) -> None:
        """Uninstall it, with the Job before, or without it, as where no pod runs."""
        more = ("--timeout", f"{HELM_LIMIT:g}s") if hooks else ("--no-hooks", "--ignore-not-found")
        self.helm("uninstall", self.name, *more)

    def remains(self) -> set[tuple[str, str]]:
        """Kind and name of what carries the release's label, in all namespaces, of every kind that the chart makes."""
        kinds = (
            "clusterroles,clusterrolebindings,customresourcedefinitions,deployments,replicasets,jobs,services,"
            "serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers,configmaps"
        )
        found = self.cluster.plane.read(kinds, "", "", "--all-namespaces", "--selector", f"{INSTANCE}={self.name}")
        return {
            (item["kind"], item["metadata"]["name"])
            for item in found["items"]
            if "deletionTimestamp" not in item["metadata"]
        }

    def left(self) -> set[tuple[str, str, str]]:
        """Kind, namespace and name of whatever is labelled as abmesh's, of every kind that the cluster has.

        Not those that stay on purpose: the CRD, and in the release's namespace the Lease and ConfigMaps.
        """
        plane = self.cluster.plane
        kinds = set(plane.kubectl("api-resources", "--verbs=list", "--output=name").split()) - _OTHERS
        found = plane.read(",".join(sorted(kinds)), "", "", "--all-namespaces", "--selector", f"{NAME}=abmesh")
        return {
            (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])
            for item in found["items"]
            if "deletionTimestamp" not in item["metadata"] and not self._stays(item)
        }

    def _stays(self, item: Thing) -> bool:
        if item["kind"] in ("Lease", "ConfigMap"):
            return bool(item["metadata"]["namespace"] == self.namespace)
        return bool(item["kind"] == "CustomResourceDefinition")

    def account(self, component: str) -> str:
        """User name of a ServiceAccount of the release."""
        return f"system:serviceaccount:{self.namespace}:{self.name}-{component}"


def _flags(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def rights(cluster: Cluster, user: str, namespace: str) -> Rules:
    """What a user may do in a namespace, as `kubectl auth can-i --list` shows it, without what everybody may."""
    granted, everybodys = _review(cluster, user, namespace), _review(cluster, f"{user}-that-nobody-knows", namespace)
    return {key: verbs - everybodys.get(key, frozenset()) for key, verbs in granted.items() if key not in everybodys}


def _review(cluster: Cluster, user: str, namespace: str) -> Rules:
    body: Thing = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    groups = ["--as-group=system:authenticated", "--as-group=system:serviceaccounts"]
    said = cluster.plane.kubectl(
        *("create", "--validate=false", "--as", user, *groups, "--output", "json", "--filename", "-"),
        given=json.dumps(body),
    )
    status: dict[str, Any] = json.loads(said)["status"]
    assert not status.get("incomplete"), status
    found: Rules = {}
    for rule in status["resourceRules"]:
        for group in rule.get("apiGroups", ("",)):
            for resource in rule.get("resources", ()):
                key = (group, resource, tuple(rule.get("resourceNames", ())))
                found[key] = found.get(key, frozenset()) | frozenset(rule["verbs"])
    return found
