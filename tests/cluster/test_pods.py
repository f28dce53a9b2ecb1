"""Pods of the stand-in kubelet live as a cluster's do: the controllers and kubectl see no difference."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.kubelet.sandbox import maps_everybody
from tests.cluster.waiting import wait_for
from tests.cluster.workloads import MODEL_PORT, RESTRICTED_CONTAINER, RESTRICTED_POD, addresses, model, service

SLICES = "endpointslices.discovery.k8s.io"


def _pod(name: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    security = {"securityContext": RESTRICTED_POD}
    whole = {**security, "containers": list(containers), "terminationGracePeriodSeconds": 5, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": whole}


def _shell(script: str, name: str = "main", **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "shell:1", "args": ["-c", script], "securityContext": RESTRICTED_CONTAINER, **more}


def _phase(cluster: Cluster, namespace: str, name: str) -> str:
    phase: str = cluster.plane.read("pod", name, namespace)["status"].get("phase", "")
    return phase


def _in_slices(cluster: Cluster, namespace: str) -> set[str]:
    return addresses(cluster.plane.read(SLICES, namespace=namespace)["items"])


@pytest.fixture
def restricted(cluster: Cluster, namespace: str) -> str:
    """The test's namespace, with PodSecurity `restricted` enforced."""
    cluster.plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    return namespace


def test_a_restricted_deployment_is_ready_and_in_its_endpoint_slice(cluster: Cluster, restricted: str) -> None:
    labels = {"app": "llm"}
    cluster.plane.apply(model("model-a", labels, 3), service("llm", labels, 80, "http"), namespace=restricted)
    cluster.plane.kubectl("rollout", "status", "deployment/model-a", "--timeout=120s", namespace=restricted)
    pods = cluster.plane.read("pods", namespace=restricted)["items"]
    expected = {pod["status"]["podIP"] for pod in pods}
    assert len(expected) == 3
    wait_for(lambda: _in_slices(cluster, restricted) == expected, "the slice to have the pods' addresses")
    for address in expected:
        with urllib.request.urlopen(f"http://{address}:{MODEL_PORT}/v1/models", timeout=10) as answer:
            assert json.load(answer)["data"][0]["id"] == "model-a"

    cluster.plane.kubectl("scale", "deployment/model-a", "--replicas=1", namespace=restricted)
    wait_for(lambda: len(_in_slices(cluster, restricted)) == 1, "the slice to lose two addresses")
    wait_for(lambda: len(cluster.plane.read("pods", namespace=restricted)["items"]) == 1, "two pods to go")


def test_a_killed_container_comes_back_in_the_same_pod(cluster: Cluster, namespace: str) -> None:
    cluster.plane.apply(model("model-a", {"app": "llm"}), namespace=namespace)
    cluster.plane.kubectl("rollout", "status", "deployment/model-a", "--timeout=120s", namespace=namespace)
    (before,) = cluster.plane.read("pods", namespace=namespace)["items"]
    name = before["metadata"]["name"]
    os.kill(cluster.node.process(namespace, name, "server"), signal.SIGKILL)

    def container() -> Any:
        return cluster.plane.read("pod", name, namespace)["status"]["containerStatuses"][0]

    wait_for(lambda: container()["restartCount"] == 1 and container()["ready"], "a ready second run")
    after = cluster.plane.read("pod", name, namespace)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["podIP"] == before["status"]["podIP"]
    assert container()["lastState"]["terminated"]["exitCode"] == 137
    assert container()["containerID"] != before["status"]["containerStatuses"][0]["containerID"]


@pytest.mark.skipif(not maps_everybody(), reason="NOT TESTED: only root can make pods run as other users")
def test_a_container_is_confined_as_its_pod_says(cluster: Cluster, restricted: str) -> None:
    script = """
        id -u; id -G
        touch /file 2>&1
        echo kept > /data/file && cat /data/file
        grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status
        uname -n
        ls -A /root /home
    """
    mount: dict[str, Any] = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    spec = {"restartPolicy": "Never", "volumes": [{"name": "data", "emptyDir": {}}]}
    cluster.plane.apply(_pod("confined", _shell(script, **mount), **spec), namespace=restricted)
    wait_for(lambda: _phase(cluster, restricted, "confined") in ("Succeeded", "Failed"), "the pod to end")
    said = cluster.node.log(restricted, "confined", "main").splitlines()
    assert said[:2] == ["65532", "65532"]
    assert "Read-only file system" in said[2]
    assert said[3] == "kept"
    assert re.fullmatch(r"CapEff:\s+0+", said[4])
    assert re.fullmatch(r"NoNewPrivs:\s+1", said[5])
    assert said[6] == "confined", "its host's name is the pod's"


def test_a_mounted_config_map_changes_under_a_running_pod(cluster: Cluster, namespace: str) -> None:
    kubectl = cluster.plane.kubectl
    kubectl("create", "configmap", "settings", "--from-literal=value=one", namespace=namespace)
    script = "while :; do cat /etc/settings/value; echo; sleep 0.2; done"
    mount: dict[str, Any] = {"volumeMounts": [{"name": "settings", "mountPath": "/etc/settings", "readOnly": True}]}
    volumes = [{"name": "settings", "configMap": {"name": "settings"}}]
    cluster.plane.apply(_pod("reader", _shell(script, **mount), volumes=volumes), namespace=namespace)
    wait_for(lambda: "one" in cluster.node.log(namespace, "reader", "main"), "the first value")
    kubectl("patch", "configmap", "settings", "--patch", '{"data": {"value": "two"}}', namespace=namespace)
    wait_for(lambda: "two" in cluster.node.log(namespace, "reader", "main"), "the second value")


def test_init_containers_run_first_and_a_sidecar_ends_last(cluster: Cluster, namespace: str) -> None:
    def trace(word: str) -> str:
        return f"echo {word} >> /data/trace"

    mount: dict[str, Any] = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    waiting = "trap '{}; exit 0' TERM; {}; while :; do sleep 0.1; done"
    sidecar = _shell(waiting.format(trace("side-ends"), trace("side")), "side", restartPolicy="Always", **mount)
    sidecar["startupProbe"] = {"exec": {"command": ["grep", "side", "/data/trace"]}, "periodSeconds": 1}
    once = _shell(trace("once"), "once", **mount)
    main = _shell(f"{trace('main')}; cat /data/trace", **mount)
    spec = {"restartPolicy": "Never", "initContainers": [sidecar, once], "volumes": [{"name": "data", "emptyDir": {}}]}
    cluster.plane.apply(_pod("ordered", main, **spec), namespace=namespace)
    wait_for(lambda: _phase(cluster, namespace, "ordered") == "Succeeded", "the pod to succeed")
    assert cluster.node.log(namespace, "ordered", "main").split() == ["side", "once", "main"]
    side, _ = cluster.plane.read("pod", "ordered", namespace)["status"]["initContainerStatuses"]
    assert side["state"]["terminated"]["exitCode"] == 0


def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace(cluster: Cluster, namespace: str) -> None:
    stubborn = _shell("trap 'echo asked' TERM; echo up; while :; do sleep 0.1; done")
    cluster.plane.apply(_pod("stubborn", stubborn, terminationGracePeriodSeconds=1), namespace=namespace)
    wait_for(lambda: "up" in cluster.node.log(namespace, "stubborn", "main"), "the pod to run")
    process = cluster.node.process(namespace, "stubborn", "main")
    cluster.plane.kubectl("delete", "pod", "stubborn", "--timeout=120s", namespace=namespace)
    assert "asked" in cluster.node.log(namespace, "stubborn", "main")
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_job_calls_the_api_with_its_accounts_token(cluster: Cluster, namespace: str) -> None:
    plane = cluster.plane
    plane.kubectl("create", "serviceaccount", "lister", namespace=namespace)
    plane.kubectl("create", "role", "lister", "--verb=list", "--resource=pods", namespace=namespace)
    account = f"--serviceaccount={namespace}:lister"
    plane.kubectl("create", "rolebinding", "lister", "--role=lister", account, namespace=namespace)
    script = """
import json, os, ssl, urllib.error, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
context = ssl.create_default_context(cafile=folder + "ca.crt")
server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}/api/v1/namespaces/"
for what in (open(folder + "namespace").read() + "/pods", "kube-system/pods"):
    headers = {"Authorization": "Bearer " + open(folder + "token").read()}
    try:
        with urllib.request.urlopen(urllib.request.Request(server + what, headers=headers), context=context) as answer:
            print([pod["metadata"]["labels"]["job"] for pod in json.load(answer)["items"]])
    except urllib.error.HTTPError as error:
        print(error.code)
"""
    container = {"name": "main", "image": "python:3", "args": ["-c", script], "securityContext": RESTRICTED_CONTAINER}
    pod = {"securityContext": RESTRICTED_POD, "serviceAccountName": "lister", "restartPolicy": "Never"}
    template = {"metadata": {"labels": {"job": "list"}}, "spec": {**pod, "containers": [container]}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "list"}, "spec": {"template": template}}
    plane.apply(job, namespace=namespace)
    plane.kubectl("wait", "--for=condition=complete", "job/list", "--timeout=120s", namespace=namespace)
    (ran,) = plane.read("pods", namespace=namespace)["items"]
    assert cluster.node.log(namespace, ran["metadata"]["name"], "main").splitlines() == ["['list']", "403"]


def test_an_unknown_image_and_a_missing_config_map_are_named(cluster: Cluster, namespace: str) -> None:
    unknown = {**_shell("true"), "image": "nowhere/none:1"}
    volumes = [{"name": "settings", "configMap": {"name": "absent"}}]
    cluster.plane.apply(_pod("unknown", unknown), _pod("waits", _shell("true"), volumes=volumes), namespace=namespace)

    def message(name: str) -> str:
        (status,) = cluster.plane.read("pod", name, namespace)["status"].get("containerStatuses", [{}])
        return json.dumps(status.get("state", {}).get("waiting", {}))

    wait_for(lambda: "no image 'nowhere/none:1'" in message("unknown"), "the image to be named")
    wait_for(lambda: "'absent' not found" in message("waits"), "the ConfigMap to be named")


def test_pods_keep_running_while_the_api_server_is_away(cluster: Cluster, namespace: str) -> None:
    cluster.plane.apply(model("model-a", {"app": "llm"}), namespace=namespace)
    cluster.plane.kubectl("rollout", "status", "deployment/model-a", "--timeout=120s", namespace=namespace)
    (pod,) = cluster.plane.read("pods", namespace=namespace)["items"]
    cluster.plane.api_server.kill()
    try:
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:{MODEL_PORT}/healthz", timeout=10) as answer:
            assert answer.status == 200
    finally:
        cluster.plane.api_server.start()
    cluster.plane.kubectl("scale", "deployment/model-a", "--replicas=2", namespace=namespace)
    cluster.plane.kubectl("rollout", "status", "deployment/model-a", "--timeout=120s", namespace=namespace)
    assert cluster.plane.read("pod", pod["metadata"]["name"], namespace)["metadata"]["uid"] == pod["metadata"]["uid"]
