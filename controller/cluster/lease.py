"""The Lease: of several controllers in a cluster, one leads, and everything that it writes carries its epoch.

A leader renews the Lease every two seconds, from a thread of its own. It stops acting once its last renewal is too old
by the monotonic clock, well before anybody else may take over. A leader that was frozen in between and wakes up in the
middle of a write is stopped by the API server: the rule on the status's ``leader.epoch`` refuses epochs from before,
and every new leader stamps its own into each status before it decides on it.

A leader whose ticks do not end renews no longer, so that another takes over. Implements
:class:`controller.state.ports.Leadership`.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from abmesh.experiment.errors import StateError
from abmesh.kube.client import Client
from abmesh.kube.errors import AlreadyExists, KubeError, Missing, Stale
from abmesh.kube.resources import LEASES
from controller.cluster.names import LABELS, LEASE
from controller.state.lease import Heartbeat, Leader

log = logging.getLogger("abmesh.controller")

LONGEST_TICK: Final = 30.0
"""Seconds without a tick, before the first heartbeat, after which a leader gives the Lease up."""


class NotLeadingError(StateError):
    """This process does not lead, or no longer: nothing was written."""


class Fence(Protocol):
    """This process's right to write."""

    @property
    def stamp(self) -> dict[str, Any]:
        """Who writes, as each status names its leader: epoch and identity.

        Raises:
            NotLeadingError: this process does not lead.
        """

    def check(self) -> None:
        """Raise NotLeadingError if this process does not lead."""

    def lost(self, why: str) -> None:
        """Stop leading, because a newer leader was met."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long a Lease is held, in seconds.

    Attributes:
        duration: without a renewal, before others may take it.
        deadline: without a renewal, before its holder stops acting.
        every: between two renewals.
    """

    duration: float = 10.0
    deadline: float = 6.0
    every: float = 2.0


USUAL: Final = Times()


class ClusterLease:
    """The Lease of one controller.

    Args:
        client: to the API server; its time limit must be shorter than the deadline.
        namespace: the controller's own.
        highest_epoch: the highest epoch in any status at this moment; may raise KubeError.
        identity: of this process; unique.
        times: how long it is held.
        monotonic: a clock that goes on while the process is stopped.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        highest_epoch: Callable[[], int],
        *,
        identity: str = "",
        times: Times = USUAL,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._highest_epoch = highest_epoch
        self.identity = identity or f"{socket.gethostname()}-{secrets.token_hex(3)}"
        self._times = times
        self._monotonic = monotonic
        self._lock = threading.RLock()
        self._mine: dict[str, Any] | None = None
        self._epoch = 0
        self._renewed = self._ticked = 0.0
        self._longest = LONGEST_TICK
        self._seen: tuple[object, float] | None = None
        self._last: dict[str, Any] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether this process leads and may act."""
        with self._lock:
            if self._mine is None:
                return False
            age = self._monotonic() - self._renewed
            if age < self._times.deadline:
                return True
            self._give_up(f"it was not renewed for {age:.1f} s")
            return False

    @property
    def epoch(self) -> int:
        """Of this leadership; greater than that of every earlier one."""
        return self._epoch

    @property
    def stamp(self) -> dict[str, Any]:
        """See :attr:`Fence.stamp`."""
        self.check()
        return {"epoch": self._epoch, "identity": self.identity}

    def check(self) -> None:
        """See :meth:`Fence.check`."""
        if not self.held:
            raise NotLeadingError("this controller leads no longer, so it writes nothing")

    def lost(self, why: str) -> None:
        """See :meth:`Fence.lost`."""
        with self._lock:
            self._give_up(why)

    def acquire(self) -> bool:
        """Try to lead; whether this process leads now.

        Raises:
            StateError: the API server does not say, or does not let us.
        """
        if self.held:
            return True
        try:
            return self._acquire()
        except KubeError as error:
            raise StateError(f"cannot use the Lease {self._namespace}/{LEASE}: {error}") from error

    def beat(self, heartbeat: Heartbeat) -> None:
        """Tell that a tick has ended."""
        with self._lock:
            self._ticked = self._monotonic()
            self._longest = max(LONGEST_TICK, 3 * heartbeat.every)

    def leader(self) -> Leader:
        """Who leads, as it was seen last."""
        spec = self._last.get("spec", {})
        since = spec.get("renewTime") or spec.get("acquireTime")
        at = datetime.fromisoformat(since) if since else datetime.now(UTC)
        return Leader(spec.get("holderIdentity") or "nobody", at)

    def release(self) -> None:
        """Stop leading, and let another controller take over at once."""
        with self._lock:
            mine, held = self._mine, self.held
            self._mine = None
            self._stop.set()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._times.deadline)
        if mine is not None and held:
            with suppress(KubeError):  # it runs out by itself
                self._client.replace(LEASES, self._namespace, LEASE, self._body(mine, holder=""))

    def _acquire(self) -> bool:
        asked = self._monotonic()
        try:
            present = self._client.get(LEASES, self._namespace, LEASE)
        except Missing:
            return self._take(None, asked)
        self._last = present
        spec = present.get("spec", {})
        version = present["metadata"]["resourceVersion"]
        if self._seen is None or self._seen[0] != version:
            self._seen = version, asked
        free = not spec.get("holderIdentity")
        # By the time since we saw it change, not by its own clock, which may be another machine's.
        expired = asked - self._seen[1] >= float(spec.get("leaseDurationSeconds") or self._times.duration)
        return self._take(present, asked) if free or expired else False

    def _take(self, present: dict[str, Any] | None, asked: float) -> bool:
        spec = (present or {}).get("spec", {})
        # A Lease that somebody deleted must not lock everybody out, so the epochs in the statuses count, too.
        epoch = max(int(spec.get("leaseTransitions") or 0), self._highest_epoch()) + 1
        body = self._body(present, holder=self.identity, epoch=epoch, acquired=True)
        try:
            if present is None:
                mine = self._client.create(LEASES, self._namespace, body)
            else:
                mine = self._client.replace(LEASES, self._namespace, LEASE, body)
        except (Stale, AlreadyExists, Missing):
            return False  # somebody was faster
        with self._lock:
            self._mine, self._epoch, self._renewed, self._last = mine, epoch, asked, mine
            self._ticked, self._longest = asked, LONGEST_TICK
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._renew, args=(self._stop,), name="lease", daemon=True)
            self._thread.start()
        log.info("leading as %s with epoch %d", self.identity, epoch)
        return True

    def _renew(self, stop: threading.Event) -> None:
        """Renew until told to stop, or until the Lease is lost."""
        while not stop.wait(self._times.every):
            with self._lock:
                mine = self._mine
                if stop.is_set() or not self.held or mine is None:
                    return
                silent = self._monotonic() - self._ticked
                if silent > self._longest:
                    self._give_up(f"no tick has ended for {silent:.0f} s")
                    return
            asked = self._monotonic()
            try:
                renewed = self._client.replace(
                    LEASES, self._namespace, LEASE, self._body(mine, holder=self.identity, epoch=self._epoch)
                )
            except (Stale, Missing) as error:
                self.lost(f"another controller took it, or it was deleted ({error})")
                return
            except KubeError as error:
                log.warning("cannot renew the Lease: %s", error)
                self._look_again(mine, asked)
                continue
            with self._lock:
                if self._mine is not None and not stop.is_set():
                    self._mine = self._last = renewed
                    self._renewed = asked

    def _look_again(self, mine: dict[str, Any], asked: float) -> None:
        """After a renewal without an answer: it may have been carried out, and then the Lease has another version."""
        with suppress(KubeError):
            present = self._client.get(LEASES, self._namespace, LEASE)
            spec = present.get("spec", {})
            ours = spec.get("holderIdentity") == self.identity and spec.get("leaseTransitions") == self._epoch
            with self._lock:
                if ours and self._mine is mine:
                    if present["metadata"]["resourceVersion"] != mine["metadata"]["resourceVersion"]:
                        self._renewed = asked
                    self._mine = self._last = present

    def _give_up(self, why: str) -> None:
        if self._mine is None:
            return
        self._mine = None
        self._stop.set()
        self._seen = None
        log.error("leading no longer: %s", why)

    def _body(
        self, present: dict[str, Any] | None, *, holder: str, epoch: int | None = None, acquired: bool = False
    ) -> dict[str, Any]:
        now = _now()
        before = dict((present or {}).get("spec", {}))
        spec = {
            **before,
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self._times.duration)),
            "renewTime": now,
        }
        if acquired:
            spec["acquireTime"] = now
        if epoch is not None:
            spec["leaseTransitions"] = epoch
        if not holder:
            spec.pop("holderIdentity")
        metadata: dict[str, Any] = {"name": LEASE, "namespace": self._namespace, "labels": dict(LABELS)}
        if present is not None:
            metadata = {key: value for key, value in present["metadata"].items() if key != "managedFields"}
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}


def _now() -> str:
    """The time as a Lease has it: six decimals, no more and no fewer."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
