"""The status of a pod, from the states of its containers. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.cluster.kubelet.api import Object
from tests.cluster.plane.network import NODE


@dataclass(slots=True)
class ContainerState:
    """How a container does.

    Attributes:
        restarts: how often it was started again.
        process: id of the running process, as the node sees it; 0 while none runs.
        identity: of this run, or of the last one.
        since: when this run began.
        started: whether its startup probe has succeeded.
        ready: whether its readiness probe says so.
        ended: how the last run ended, as ``terminated`` of the API; None if none has ended.
        final: whether it will not be started again.
        waiting: why it does not run, as ``(reason, message)``.
    """

    restarts: int = 0
    process: int = 0
    identity: str = ""
    since: str = ""
    started: bool = False
    ready: bool = False
    ended: Object | None = None
    final: bool = False
    waiting: tuple[str, str] = ("PodInitializing", "")


def now() -> str:
    """The time as the API writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def terminated(code: int, state: ContainerState) -> Object:
    """How a run ended; a negative code is that of a signal, which a runtime reports as 128 + its number."""
    return {
        "exitCode": code if code >= 0 else 128 - code,
        "reason": "Completed" if code == 0 else "Error",
        "startedAt": state.since,
        "finishedAt": now(),
        "containerID": state.identity,
    }


def container_status(container: Object, state: ContainerState) -> Object:
    """An entry of ``containerStatuses``."""
    status = {
        "name": container["name"],
        "image": container["image"],
        "imageID": container["image"],
        "ready": state.ready,
        "started": state.started,
        "restartCount": state.restarts,
    }
    if state.identity:
        status["containerID"] = state.identity
    if state.process:
        status["state"] = {"running": {"startedAt": state.since}}
    elif state.final and state.ended:
        status["state"] = {"terminated": state.ended}
    else:
        reason, message = state.waiting
        status["state"] = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
    if state.ended and not state.final:
        status["lastState"] = {"terminated": state.ended}
    return status


def is_sidecar(container: Object) -> bool:
    """Whether an init container is a native sidecar."""
    return container.get("restartPolicy") == "Always"


def pod_status(
    pod: Object, states: Mapping[str, ContainerState], initialized: bool, address: str, before: Object
) -> Object:
    """The whole status.

    Args:
        pod: as the API has it.
        states: by container.
        initialized: whether the init containers are through.
        address: of the pod; empty while it has none.
        before: the status that was last written, for the times of its conditions.
    """
    spec = pod["spec"]
    mains, inits = spec["containers"], spec.get("initContainers", [])
    sidecars = [container for container in inits if is_sidecar(container)]
    ready = initialized and all(states[container["name"]].ready for container in [*mains, *sidecars])
    conditions = {
        "PodReadyToStartContainers": bool(address),
        "Initialized": initialized,
        "ContainersReady": ready,
        "Ready": ready,
        "PodScheduled": True,
    }
    status = {
        "phase": phase(mains, inits, states, initialized),
        "hostIP": NODE,
        "hostIPs": [{"ip": NODE}],
        "startTime": before.get("startTime") or now(),
        "containerStatuses": [container_status(container, states[container["name"]]) for container in mains],
        "initContainerStatuses": [container_status(container, states[container["name"]]) for container in inits],
        "conditions": _conditions(conditions, before.get("conditions", [])),
        "observedGeneration": pod["metadata"].get("generation", 1),
    }
    return status | ({"podIP": address, "podIPs": [{"ip": address}]} if address else {})


def phase(
    mains: Sequence[Object], inits: Sequence[Object], states: Mapping[str, ContainerState], initialized: bool
) -> str:
    """Pending, Running, Succeeded or Failed."""
    failed_init = any(
        state.final and state.ended is not None and state.ended["exitCode"] != 0
        for state in (states[container["name"]] for container in inits if not is_sidecar(container))
    )
    if failed_init:
        return "Failed"
    if not initialized:
        return "Pending"
    ended = [states[container["name"]] for container in mains]
    if not all(state.final for state in ended):
        return "Running"
    codes = [state.ended["exitCode"] for state in ended if state.ended]
    return "Failed" if any(codes) else "Succeeded"


def _conditions(values: Mapping[str, bool], before: Sequence[Object]) -> list[Object]:
    known = {condition["type"]: condition for condition in before}
    conditions = []
    for kind, value in values.items():
        last = known.get(kind)
        same = last is not None and last["status"] == str(value)
        changed = last["lastTransitionTime"] if last is not None and same else now()
        conditions.append({"type": kind, "status": str(value), "lastTransitionTime": changed})
    return conditions
