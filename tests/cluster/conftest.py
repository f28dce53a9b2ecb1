"""One cluster for the whole session, and a namespace for each test.

Whoever asks for a fixture of a cluster is marked ``cluster``, so that `make check` and `make test` leave it out. The
tests run inside the cluster's network: an address of a pod, of the API server or of istiod can be called as it is.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.errors import Unavailable
from tests.cluster.programs.catalogue import Programs, programs
from tests.cluster.waiting import wait_for

FOLDER = Path(__file__).parent
FIXTURES = {"built_programs", "cluster", "namespace"}


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER) and FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("cluster")
            item.add_marker("process")
            if getattr(item, "originalname", item.name) in getattr(getattr(item, "module", None), "LONG", ()):
                item.add_marker("soak")


@pytest.fixture(scope="session")
def built_programs() -> Programs:
    """The programs of a cluster; the test is skipped where they were not built."""
    found = programs()
    if missing := found.missing():
        pytest.skip(f"NOT TESTED: not built yet: {', '.join(missing)}; `make cluster` builds them, once")
    return found


@pytest.fixture(scope="session")
def cluster(built_programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster. The session's thread is inside its network."""
    try:
        with (
            Cluster.started(built_programs, tmp_path_factory.mktemp("cluster")) as cluster,
            cluster.plane.network.entered(),
        ):
            yield cluster
    except Unavailable as error:
        pytest.skip(f"NOT TESTED: no cluster can run on this machine. {error}")


@pytest.fixture(autouse=True)
def _all_programs_run(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test, what ended by itself is started again, for the next one."""
    yield
    if "cluster" in request.fixturenames:
        for daemon in request.getfixturevalue("cluster").plane.ended():
            daemon.start()


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, where pods may be made. Nobody waits for its end."""
    readable = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].rstrip("-")
    name = f"{readable}-{secrets.token_hex(3)}"
    cluster.plane.kubectl("create", "namespace", name)
    accounts = ("get", "serviceaccounts", "--output", "name")
    wait_for(lambda: "default" in cluster.plane.kubectl(*accounts, namespace=name), "the namespace's account")
    yield name
    cluster.plane.delete_namespaces(name)
