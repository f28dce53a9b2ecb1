"""The node: takes every pod that nobody took, runs it, and follows what happens to it. Survives an API server's end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import aiohttp

from tests.cluster.kubelet.api import ApiError, Object
from tests.cluster.kubelet.fields import NODE_NAME
from tests.cluster.kubelet.pod import Pod
from tests.cluster.kubelet.shared import Node
from tests.cluster.kubelet.status import now
from tests.cluster.plane.network import NODE

CAPACITY = {"cpu": "64", "memory": "256Gi", "pods": "500", "nvidia.com/gpu": "64"}
LONGEST_PAUSE = 2.0


class Kubelet:
    """All pods of the one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pods: dict[str, Pod] = {}
        self._addresses = _addresses()
        self._endings: set[asyncio.Task[None]] = set()

    async def register(self) -> None:
        """Make the node's object; ready, with GPUs."""
        api = self._node.api
        labels = {"kubernetes.io/hostname": NODE_NAME}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE_NAME, "labels": labels}}
        if await api.find(f"/api/v1/nodes/{NODE_NAME}") is None:
            await api.call("POST", "/api/v1/nodes", node)
        condition = {"type": "Ready", "status": "True", "reason": "StandIn", "message": "pods are processes"}
        condition |= {"lastHeartbeatTime": now(), "lastTransitionTime": now()}
        status = {
            "capacity": CAPACITY,
            "allocatable": CAPACITY,
            "addresses": [{"type": "InternalIP", "address": NODE}],
            "conditions": [condition],
        }
        await api.patch(f"/api/v1/nodes/{NODE_NAME}/status", {"status": status})

    async def follow(self) -> None:
        """Run what the API server says, for ever."""
        pause = 0.1
        while True:
            try:
                version = await self._list()
                pause = 0.1
                async for kind, pod in self._node.api.watch("/api/v1/pods", version):
                    await self._see(kind, pod)
            except (ApiError, aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def close(self) -> None:
        """End every pod at once."""
        await asyncio.gather(*(pod.close() for pod in self._pods.values()))

    async def _list(self) -> str:
        """Catch up with all pods; the resource version to watch from."""
        listed = await self._node.api.call("GET", "/api/v1/pods")
        there = {pod["metadata"]["uid"] for pod in listed["items"]}
        for uid in self._pods.keys() - there:
            self._end(self._pods[uid], 0)
        for pod in listed["items"]:
            await self._see("ADDED", pod)
        version: str = listed["metadata"]["resourceVersion"]
        return version

    async def _see(self, kind: str, pod: Object) -> None:
        metadata, known = pod["metadata"], self._pods.get(pod["metadata"]["uid"])
        if kind == "BOOKMARK":
            return
        if kind == "DELETED":  # with --force, before its processes have ended
            if known:
                self._end(known, 0)
        elif not pod["spec"].get("nodeName"):
            await self._bind(metadata)
        elif metadata.get("deletionTimestamp"):
            if known:
                known.update(pod)
                self._end(known, metadata.get("deletionGracePeriodSeconds", 30))
            else:
                self._take(pod)
                self._end(self._pods[metadata["uid"]], 0)
        elif known:
            known.update(pod)
        elif pod["status"].get("phase") not in ("Succeeded", "Failed"):
            self._take(pod)

    def _take(self, pod: Object) -> None:
        self._pods[pod["metadata"]["uid"]] = Pod(pod, next(self._addresses), self._node)

    async def _bind(self, metadata: Object) -> None:
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/binding"
        target = {"kind": "Node", "name": NODE_NAME}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": metadata["name"]}, "target": target}
        with contextlib.suppress(ApiError):  # deleted meanwhile, or bound already
            await self._node.api.call("POST", path, binding)

    def _end(self, pod: Pod, grace: float) -> None:
        if not pod.stopping:
            task = asyncio.create_task(self._finish(pod, grace))
            self._endings.add(task)
            task.add_done_callback(self._endings.discard)

    async def _finish(self, pod: Pod, grace: float) -> None:
        await pod.delete(grace)
        self._pods.pop(pod.uid, None)


def _addresses() -> Iterator[str]:
    """Addresses of pods, over and over, beginning after the node's own folder of them."""
    while True:
        for third in range(1, 250):
            for fourth in range(1, 255):
                yield f"10.244.{third}.{fourth}"
