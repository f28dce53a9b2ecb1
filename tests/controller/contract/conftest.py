"""Each test here runs twice: on files, and on Kubernetes objects of an API server in this process."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.support import ClusterWorld
from tests.controller.contract.subjects import ClusterSubject, FileSubject, Subject


@pytest.fixture(params=["files", "cluster"])
def new_subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Subject]]:
    """Makes one set of stores after the other."""
    with contextlib.ExitStack() as stack:
        numbers = itertools.count()

        def make() -> Subject:
            if request.param == "files":
                folder = tmp_path / str(next(numbers))
                folder.mkdir()
                return FileSubject(folder)
            api = stack.enter_context(FakeApi().running())
            found = ClusterSubject(ClusterWorld(api.client))
            stack.callback(found.world.close)
            return found

        yield make


@pytest.fixture
def subject(new_subject: Callable[[], Subject]) -> Subject:
    return new_subject()
