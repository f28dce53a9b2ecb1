from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.support import ClusterWorld


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi().running() as running:
        yield running


@pytest.fixture
def world(api: FakeApi) -> Iterator[ClusterWorld]:
    found = ClusterWorld(api.client)
    try:
        yield found
    finally:
        found.close()
