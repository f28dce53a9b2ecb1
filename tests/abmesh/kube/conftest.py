from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.abmesh.kube.fake_api import FakeApi


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi().running() as running:
        yield running
