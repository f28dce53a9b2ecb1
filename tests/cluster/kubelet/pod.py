"""The life of a pod: prepare, init containers, sidecars, containers, and the end; and its status, kept by one task."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from typing import Any

import aiohttp

from tests.cluster.kubelet.api import ApiError, Object
from tests.cluster.kubelet.container import Container
from tests.cluster.kubelet.environment import ConfigError
from tests.cluster.kubelet.sandbox import PodNetwork
from tests.cluster.kubelet.shared import Node
from tests.cluster.kubelet.status import ContainerState, is_sidecar, pod_status
from tests.cluster.kubelet.volumes import Volumes

REFRESH_SECONDS = 1.0
RETRY_SECONDS = 0.5
_NOT_NOW = (ApiError, aiohttp.ClientError, TimeoutError)


class Pod:
    """One pod, from its binding to its end."""

    def __init__(self, pod: Object, address: str, node: Node) -> None:
        metadata = pod["metadata"]
        self.uid: str = metadata["uid"]
        self.name = f"{metadata['namespace']}/{metadata['name']}"
        self.stopping = False
        self._path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        self._pod = pod
        self._address = address
        self._node = node
        self._folder = node.folder / "pods" / self.uid
        self._logs = node.folder / "logs" / metadata["namespace"] / metadata["name"]
        self._network: PodNetwork | None = None
        self._volumes = Volumes(node.api, pod, address, self._folder / "volumes")
        self._containers: dict[str, Container] = {}
        self._initialized = False
        self._trouble = ""
        self._written: Object = {}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._live()),
            asyncio.create_task(self._keep_status()),
        ]
        for task in self._tasks:
            task.add_done_callback(self._report)

    def update(self, pod: Object) -> None:
        """Take over what was changed on the object: labels and annotations."""
        self._pod = self._volumes.pod = pod

    async def delete(self, grace: float) -> None:
        """End it as its deletion asks for, and let the object go."""
        if self.stopping:
            return
        self.stopping = True
        if not self._containers:
            self._tasks[0].cancel()
        await self._stop_containers(grace)
        self._changed.set()
        await self._write_status()
        await self.close()
        await self._release()

    async def close(self) -> None:
        """End all of it at once, without the API server."""
        self.stopping = True
        for container in self._containers.values():
            container.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._network is not None:
            await self._network.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _live(self) -> None:
        await self._prepare()
        self._tasks.append(asyncio.create_task(self._refresh()))
        if await self._initialize():
            mains = [self._containers[spec["name"]] for spec in self._pod["spec"]["containers"]]
            policy = self._pod["spec"].get("restartPolicy", "Always")
            await asyncio.gather(*(main.run(policy) for main in mains))
            await self._stop_sidecars(grace=self._grace())
        self._changed.set()

    def _report(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._node.say(f"pod {self.name} is stuck: {error!r}")

    async def _prepare(self) -> None:
        """Network and volumes; waits for what a volume shows, as the kubelet does."""
        self._folder.mkdir(parents=True)
        self._network = await PodNetwork.create(self._address)
        while True:
            try:
                await self._volumes.write()
                break
            except (ConfigError, *_NOT_NOW) as error:
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    self._node.say(f"pod {self.name} waits for its volumes: {error}")
                    self._changed.set()
                await asyncio.sleep(RETRY_SECONDS)
        for spec in self._specs():
            name = spec["name"]
            root, log = self._folder / "root" / name, self._logs / f"{name}.log"
            self._containers[name] = Container(
                spec, self._node, self._volumes, self._network, root, log, self._changed.set
            )
        self._changed.set()

    async def _initialize(self) -> bool:
        """Run the init containers, and start the sidecars, in their order; whether the pod may go on."""
        policy = "Never" if self._pod["spec"].get("restartPolicy") == "Never" else "OnFailure"
        for spec in self._pod["spec"].get("initContainers", []):
            container = self._containers[spec["name"]]
            if is_sidecar(spec):
                self._tasks.append(asyncio.create_task(container.run("Always")))
                await container.has_started.wait()
                continue
            if await container.run(policy) != 0:
                return False
            container.state.ready = True
        self._initialized = True
        self._changed.set()
        return True

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            with contextlib.suppress(ConfigError, *_NOT_NOW):  # as the kubelet, it keeps what is there
                await self._volumes.write()

    async def _stop_containers(self, grace: float) -> None:
        mains = [spec["name"] for spec in self._pod["spec"]["containers"]]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        await asyncio.gather(*(self._containers[name].stop(grace) for name in mains if name in self._containers))
        await self._stop_sidecars(max(0.0, deadline - loop.time()))

    async def _stop_sidecars(self, grace: float) -> None:
        """The last started ends first."""
        for spec in reversed(self._pod["spec"].get("initContainers", [])):
            if spec["name"] in self._containers:
                await self._containers[spec["name"]].stop(grace)

    def _grace(self) -> float:
        return float(self._pod["spec"].get("terminationGracePeriodSeconds", 30))

    def _specs(self) -> list[Object]:
        spec = self._pod["spec"]
        return [*spec.get("initContainers", []), *spec["containers"]]

    async def _keep_status(self) -> None:
        """One write at a time: two in flight may arrive in the other order."""
        while True:
            await self._changed.wait()
            await self._write_status()

    async def _write_status(self) -> None:
        self._changed.clear()
        waiting = ContainerState(waiting=("ContainerCreating", self._trouble))
        states = {
            spec["name"]: self._containers[spec["name"]].state if spec["name"] in self._containers else waiting
            for spec in self._specs()
        }
        address = self._address if self._network is not None else ""
        status = pod_status(self._pod, states, self._initialized, address, self._written)
        if status == self._written:
            return
        try:
            await self._node.api.patch(f"{self._path}/status", {"metadata": {"uid": self.uid}, "status": status})
            self._written = status
        except ApiError as error:
            if error.status not in (404, 409):  # gone, or another pod of that name
                self._node.say(f"status of {self.name}: {error}")
        except (aiohttp.ClientError, TimeoutError):
            self._changed.set()
            await asyncio.sleep(RETRY_SECONDS)

    async def _release(self) -> None:
        """Delete the object for good, also when the API server is away for a while."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        while True:
            try:
                await self._node.api.call("DELETE", self._path, body)
                return
            except ApiError as error:
                if error.status in (404, 409):
                    return
                self._node.say(f"deletion of {self.name}: {error}")
            except (aiohttp.ClientError, TimeoutError):
                pass
            await asyncio.sleep(RETRY_SECONDS)
