"""Each test here runs twice: on files, and on Kubernetes objects of an API server in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.support import ClusterWorld
from tests.controller.contract.subjects import ClusterSubject, FileSubject, Subject


@pytest.fixture(params=["files", "cluster"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    if request.param == "files":
        yield FileSubject(tmp_path)
        return
    with FakeApi().running() as api:
        found = ClusterSubject(ClusterWorld(api.client))
        try:
            yield found
        finally:
            found.world.close()
