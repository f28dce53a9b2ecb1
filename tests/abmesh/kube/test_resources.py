from __future__ import annotations

import pytest

from abmesh.kube.resources import CONFIG_MAPS, EXPERIMENTS, HTTP_ROUTES, PODS, Resource


def test_paths_are_those_of_the_api_server() -> None:
    assert (
        EXPERIMENTS.path("llm", "chat", "status") == "/apis/abmesh.dev/v1alpha1/namespaces/llm/experiments/chat/status"
    )
    assert EXPERIMENTS.path(None) == "/apis/abmesh.dev/v1alpha1/experiments"
    assert CONFIG_MAPS.path("abmesh") == "/api/v1/namespaces/abmesh/configmaps"
    assert (
        Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False).path(
            None, "abmesh"
        )
        == "/apis/rbac.authorization.k8s.io/v1/clusterroles/abmesh"
    )


def test_a_name_cannot_lead_to_another_path() -> None:
    assert PODS.path("../..", "a/b?c") == "/api/v1/namespaces/..%2F../pods/a%2Fb%3Fc"


def test_an_object_without_its_namespace_is_a_bug() -> None:
    with pytest.raises(ValueError, match="lives in a namespace"):
        PODS.path(None, "a")
    with pytest.raises(ValueError, match="only an object has"):
        PODS.path("llm", None, "status")


def test_only_what_a_crd_defines_can_be_deleted_as_a_kind() -> None:
    assert EXPERIMENTS.is_custom
    assert HTTP_ROUTES.is_custom
    assert not PODS.is_custom
