"""All stores of one controller in a cluster, put together. Called by :mod:`controller.wiring_cluster`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from abmesh.experiment.errors import StateError
from abmesh.kube.client import Client
from abmesh.kube.errors import KubeError
from controller.cluster.attendant import Attendant
from controller.cluster.conditions import camel
from controller.cluster.documents import ClusterDocuments
from controller.cluster.earlier import earlier_stage
from controller.cluster.events import Events
from controller.cluster.evidence import ClusterEvidence
from controller.cluster.journal import ClusterJournal
from controller.cluster.kept import Kept
from controller.cluster.lease import USUAL, ClusterLease, Times
from controller.cluster.maps import Maps
from controller.cluster.objects import Experiments, Thing, in_words
from controller.cluster.servers import Servers
from controller.cluster.serving import ClusterServing
from controller.cluster.states import ClusterStates
from controller.cluster.status import epoch_of, status_of
from controller.cluster.transitions import ClusterTransitions
from controller.records import JournalEntry, Kind
from controller.rollout.reconcile import Reconciler

ATTEMPTS = 5
"""How often to decide on one experiment in one tick, if people change it meanwhile."""


def write_line(line: str) -> None:
    """Write a line to standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of one controller, and what works on them."""

    experiments: Experiments
    lease: ClusterLease
    documents: ClusterDocuments
    states: ClusterStates
    evidence: ClusterEvidence
    journal: ClusterJournal
    transitions: ClusterTransitions
    reconciler: Reconciler
    attendant: Attendant
    serving: ClusterServing | None = None


def stores(
    client: Client,
    namespace: str,
    *,
    settle: timedelta,
    watched: str | None = None,
    identity: str = "",
    times: Times = USUAL,
    on_change: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = write_line,
    monotonic: Callable[[], float] = time.monotonic,
    servers: Callable[[], Servers] | None = None,
) -> Stores:
    """Make the stores of a controller.

    Args:
        client: to the API server; its time limit is shorter than the Lease's deadline.
        namespace: the controller's own, with its Lease and ConfigMaps.
        settle: how long new weights need until every server and Envoy serves them.
        watched: namespace of the Experiments; None for all namespaces.
        identity: of this process; made up if empty.
        times: of the Lease.
        on_change: called when a tick is wanted before its time.
        tell: gets every journal entry as a line of JSON.
        monotonic: a clock, for how often evidence is written.
        servers: those that have to serve a stage before its evidence begins; if None, the settle time alone counts.
    """
    experiments = Experiments(client, on_change, watched)

    def highest_epoch() -> int:
        experiments.list_now()
        return max(map(epoch_of, experiments.all().values()), default=0)

    def uid_of(name: str) -> str:
        thing = experiments.known(name)
        return "" if thing is None else str(thing["metadata"]["uid"])

    def decision_of(name: str) -> str:
        try:
            thing = experiments.fetch(name)
        except KubeError as error:
            raise StateError(in_words(error)) from error
        return "" if thing is None else str((status_of(thing).get("lastDecision") or {}).get("id", ""))

    lease = ClusterLease(client, namespace, highest_epoch, identity=identity, times=times)
    events, maps = Events(client, lease.identity), Maps(client, namespace, lease)
    journal, evidence, kept = (
        ClusterJournal(maps, uid_of, decision_of, tell),
        ClusterEvidence(maps, uid_of, monotonic),
        Kept(maps),
    )
    documents = ClusterDocuments(client, experiments, lease)

    def changed(thing: Thing, entry: JournalEntry) -> None:
        warning = entry.kind is Kind.ROLLBACK
        events.tell(thing, camel(entry.cause), entry.reason, action=camel(entry.kind), warning=warning)

    serving = None if servers is None else ClusterServing(experiments, documents, lease, servers, settle)
    transitions = ClusterTransitions(client, experiments, documents, journal, lease, changed=changed)
    states = ClusterStates(experiments)
    reconciler = Reconciler(
        states=states,
        journal=journal,
        evidence=evidence,
        documents=documents,
        transitions=transitions,
        settle=settle,
        attempts=ATTEMPTS,
        earlier=lambda name, decision: earlier_stage(journal, name, decision),
        serving=serving,
    )
    forget = (maps.forget, journal.forget, evidence.forget, kept.forget, reconciler.forget)
    attendant = Attendant(experiments, documents, transitions, kept, events, lease, forget)
    return Stores(experiments, lease, documents, states, evidence, journal, transitions, reconciler, attendant, serving)
