"""`make demo-cluster` ends with a promotion, and says so as kubectl does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.demo import NAMESPACE, run_demo
from tests.cluster.releases import Release


@pytest.fixture
def ended(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster without what the demo leaves to its own cluster's end."""
    yield cluster
    Release(cluster, "abmesh").uninstall()
    cluster.plane.kubectl("delete", "namespace", NAMESPACE, "abmesh", "--ignore-not-found", "--wait=false")
    cluster.plane.kubectl("delete", "crd", "experiments.abmesh.dev", "--ignore-not-found")


def test_the_demo_promotes_the_new_model(ended: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    errors_alone = [{"metric": "error_rate", "max": "5%"}]
    assert run_demo(ended, said.append, rate=60, steps=[50, 100], guardrails=errors_alone), said
    assert said[-1].split()[3:] == ["0", "failed"], said
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert lines[0][:2] == ["NAME", "PHASE"]
    assert "Promoted" in {line[1] for line in lines if line[0] == "chat-model"}
