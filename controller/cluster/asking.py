"""Asks the leader for something, by the asker's own rights, and waits for its answer.

A request is an annotation of the Experiment (:mod:`controller.cluster.requests`). It is written with the
resourceVersion that was looked at, so what somebody has confirmed is what there still is. Called by
:class:`controller.cluster.place.Cluster`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from abmesh.experiment.errors import RefusedError, StateError
from abmesh.kube.client import Client
from abmesh.kube.errors import Stale, Unreachable
from abmesh.kube.resources import EXPERIMENTS
from controller.cluster.lookout import Lookout
from controller.cluster.maps import annotation
from controller.cluster.names import REQUEST, split
from controller.cluster.objects import Thing
from controller.cluster.requests import Request, waiting
from controller.cluster.status import status_of
from controller.rollout.place import Unseen

PATIENCE: Final = 30.0
"""Seconds to wait for an answer."""

TAKING_OVER: Final = 12.0
"""Seconds within which another controller takes over from a leader that is gone."""

_EVERY: Final = 0.2
_ATTEMPTS: Final = 20

Check = Callable[[Thing], None]
"""Looks whether an Experiment is still one to be asked about; raises if not."""


class Asker:
    """Asks the leader.

    Args:
        client: to the API server.
        lookout: knows whether anybody leads.
        tell: says what is waited for.
        sleep: waits.
        monotonic: a clock.
    """

    def __init__(
        self,
        client: Client,
        lookout: Lookout,
        tell: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._lookout = lookout
        self._tell = tell
        self._sleep = sleep
        self._monotonic = monotonic

    def ask(self, name: str, request: Request, check: Check) -> tuple[Thing, str]:
        """Ask, and wait until it is done.

        Args:
            name: the Experiment's whole name.
            request: what to ask for.
            check: called with the Experiment that the request is then written into.

        Returns:
            The Experiment after it, and what the leader says of it.

        Raises:
            RefusedError: the leader refused it.
            StateError: nobody has answered in time; the message says what becomes of the request.
            KubeError: a right is missing, or the API server does not answer.
        """
        self._let_others_go_first(name)
        self._write(name, request, check)
        return self._answer(name, request)

    def _let_others_go_first(self, name: str) -> None:
        """Another request that waits is answered first, if there is anybody who answers."""
        thing = self._read(name)
        other = waiting(thing)
        if other is None:
            return
        text = _words(other)
        ends = self._monotonic() + PATIENCE
        while self._leads() and self._monotonic() < ends:
            if waiting(self._read(name)) != other:
                return
            self._sleep(_EVERY)
        self._tell(f"{name}: this takes the place of {text}, which nobody has answered")

    def _write(self, name: str, request: Request, check: Check) -> None:
        namespace, bare = split(name)
        text = request.model_dump_json()
        for _ in range(_ATTEMPTS):
            thing = self._read(name)
            check(thing)
            version = thing["metadata"]["resourceVersion"]
            body = {"metadata": {"resourceVersion": version, "annotations": {REQUEST: text}}}
            try:
                self._client.merge_patch(EXPERIMENTS, namespace, bare, body)
            except Stale:
                continue
            except Unreachable:
                if annotation(self._read(name), REQUEST) != text:
                    raise
            return
        raise StateError(f"{name} was changed {_ATTEMPTS} times while trying to ask, so nothing was done; try again")

    def _answer(self, name: str, request: Request) -> tuple[Thing, str]:
        began, looked, gone, trouble = self._monotonic(), 0.0, False, ""
        while (waited := self._monotonic() - began) < PATIENCE:
            try:
                thing, trouble = self._read(name), ""
            except Unreachable as error:
                trouble = str(error)
                self._sleep(_EVERY)
                continue
            found = status_of(thing).get("lastRequest") or {}
            if found.get("id") == request.id:
                message = str(found.get("message", ""))
                if found.get("outcome") != "done":
                    raise RefusedError(message)
                return thing, message
            if annotation(thing, REQUEST) != request.model_dump_json():
                raise StateError(f"{name}: another request took the place of this one; see `abmesh journal {name}`")
            if waited - looked > 1:
                gone = not self._leads()
                if not looked:
                    self._tell(f"{name}: waiting for {'a controller to lead' if gone else 'the controller'}")
                looked = self._monotonic() - began
                if gone and looked > TAKING_OVER:
                    break
            self._sleep(_EVERY)
        raise StateError(self._unanswered(name, request, trouble, gone=gone))

    def _unanswered(self, name: str, request: Request, trouble: str, *, gone: bool) -> str:
        namespace, bare = split(name)
        if trouble:
            why = f"the answer cannot be read ({trouble})"
        elif gone:
            why = f"no controller leads ({self._lookout.last}), so nobody has done this yet"
        else:
            why = f"the controller has not answered within {PATIENCE:.0f} s"
        text = (
            f"{name}: {why}; the request stays, and the next controller that looks carries it out. To take it back: "
            f"kubectl -n {namespace} annotate abx {bare} {REQUEST}-"
        )
        if request.action in ("rollback", "weights"):
            text += f". Servers obey the weights of the spec even now: kubectl -n {namespace} edit abx {bare}"
        return text

    def _leads(self) -> bool:
        """Whether anybody leads, or that cannot be seen."""
        try:
            return self._lookout.leader() is not None
        except Unseen:
            return True

    def _read(self, name: str) -> dict[str, Any]:
        return self._client.get(EXPERIMENTS, *split(name))


def _words(other: Request | str) -> str:
    if isinstance(other, str):
        return "a request that cannot be read"
    return f"the request of {other.by or 'somebody'} to {other.action}"
