"""A leader that freezes between its decisions and its writes, and writes when it is woken. A program, for one test.

    python -m tests.cluster.old_leader OWN_NAMESPACE NAMESPACE EXPERIMENTS WRITES

It leads for a second's Lease, stamps every Experiment, looks at all of them, prints READY and stops itself. Woken, it
tries each write in four ways, all with its own epoch, and prints how each was answered, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from abmesh.experiment.errors import AbmeshError
from abmesh.kube.client import Client
from abmesh.kube.connection import connect
from abmesh.kube.errors import KubeError
from abmesh.kube.resources import EXPERIMENTS
from controller.cluster.lease import Times
from controller.cluster.status import state_of
from controller.cluster.stores import Stores, stores
from controller.records import ExperimentState
from controller.state.transition import Change

TIMES = Times(duration=1, deadline=0.6, every=0.2)


def main(own: str, namespace: str, experiments: int, writes: int) -> None:
    client = Client(connect())
    kept = stores(client, own, watched=namespace, settle=timedelta(), identity="old", times=TIMES, tell=lambda _: None)
    assert kept.lease.acquire()
    kept.attendant.before(datetime.now(UTC))
    names = [f"{namespace}/chat-{number}" for number in range(experiments)]
    things = {name: dict(kept.experiments.fetch(name) or {}) for name in names}
    stamp = kept.lease.stamp
    print("READY", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    told: Counter[str] = Counter()
    for number in range(writes):
        name = names[number % experiments]
        told[f"committed {_commit(kept, name, things[name])}"] += 1
        told[f"with the version that it saw {_write(client, things[name], stamp, version=True)}"] += 1
        told[f"without a version {_write(client, things[name], stamp, version=False)}"] += 1
        fresh = client.get(EXPERIMENTS, namespace, name.partition("/")[2])
        told[f"with the newest version {_write(client, fresh, stamp, version=True)}"] += 1
    print(json.dumps(told), flush=True)


def _commit(kept: Stores, name: str, thing: dict[str, Any]) -> str:
    def plan(_: object, state: ExperimentState | None) -> Change:
        raise AssertionError("nobody may ask a leader that lost its Lease to decide")

    try:
        kept.transitions.change(name, plan, datetime.now(UTC))
    except AbmeshError as error:
        return type(error).__name__
    return f"through, from {state_of(thing)}"


def _write(client: Client, thing: dict[str, Any], stamp: dict[str, Any], *, version: bool) -> str:
    metadata = {"resourceVersion": thing["metadata"]["resourceVersion"]} if version else {}
    status = {"phase": "Promoted", "candidateWeight": "100%", "leader": stamp}
    body = {"metadata": metadata, "status": status}
    namespace, name = thing["metadata"]["namespace"], thing["metadata"]["name"]
    try:
        client.merge_patch(EXPERIMENTS, namespace, name, body, subresource="status")
    except KubeError as error:
        return type(error).__name__
    return "through"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
