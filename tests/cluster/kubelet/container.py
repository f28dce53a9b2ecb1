"""One container: its process, its probes, its restarts, and how it is ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

from tests.cluster.images import Image, repository
from tests.cluster.kubelet import probes
from tests.cluster.kubelet.api import ApiError, Object
from tests.cluster.kubelet.environment import ConfigError, container_environment
from tests.cluster.kubelet.fields import expand
from tests.cluster.kubelet.sandbox import Mount, PodNetwork, root_script
from tests.cluster.kubelet.security import identity, security_context
from tests.cluster.kubelet.shared import Node
from tests.cluster.kubelet.status import ContainerState, now, terminated
from tests.cluster.kubelet.volumes import Volumes

_LONGEST_HOSTNAME = 63
LONGEST_BACK_OFF = 30.0
STEADY_SECONDS = 60.0
"""After so long a run, the next restart waits as briefly as the first."""

_SCRIPT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Container:
    """One container of a pod.

    Attributes:
        spec: as the pod has it.
        state: as its status shows it.
        has_started: set while it runs and its startup probe has succeeded.
    """

    def __init__(
        self,
        spec: Object,
        node: Node,
        volumes: Volumes,
        network: PodNetwork,
        root: Path,
        log: Path,
        changed: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.state = ContainerState()
        self.has_started = asyncio.Event()
        self._node = node
        self._volumes = volumes
        self._network = network
        self._root = root
        self._log = log
        self._target = probes.Target(node.session, network.address, spec, self.execute)
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, policy: str) -> int | None:
        """Run it until it ends for good.

        Args:
            policy: `Always`, `OnFailure` or `Never`.

        Returns:
            Exit code of the last run; None if it was stopped before it ran.
        """
        delay = 1.0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once()
            over = self._stopping.is_set() or policy == "Never" or (policy == "OnFailure" and code == 0)
            if over and code is not None:
                self.state.final = True
                self._changed()
                return code
            self._changed()
            delay = 1.0 if time.monotonic() - began > STEADY_SECONDS else delay
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(2 * delay, LONGEST_BACK_OFF)
            self.state.restarts += code is not None
        return None

    async def execute(self, argv: Sequence[str]) -> int:
        """Run a command in the running container; its exit code."""
        inside = ["nsenter", "--target", str(self.state.process), "--mount", "--net", "--root", "--wd"]
        process = await asyncio.create_subprocess_exec(
            *inside,
            *identity(self._volumes.pod, self.spec, self._image().user).command(),
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()

    async def stop(self, grace: float) -> None:
        """End it: preStop, SIGTERM, and SIGKILL when the grace period is over."""
        self._stopping.set()
        process = self._process
        if process is not None and process.returncode is None:
            await self._end(process, grace)
        await self._idle.wait()

    async def _end(self, process: asyncio.subprocess.Process, grace: float) -> None:
        deadline = time.monotonic() + grace
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._before_stop(), max(grace, 0.01))
        await _terminate(process, max(deadline - time.monotonic(), 0.0))

    def kill(self) -> None:
        """End it at once."""
        self._stopping.set()
        if self._process is not None:
            _kill(self._process)

    async def _run_once(self) -> int | None:
        """One run; its exit code, or None if it could not be started."""
        self._idle.clear()
        try:
            process = await self._start()
            code = await self._attend(process)
        except (ConfigError, ValueError) as error:
            self.state.waiting = ("CreateContainerConfigError", str(error))
            return None
        except (ApiError, aiohttp.ClientError) as error:
            self.state.waiting = ("ContainerCreating", str(error))
            return None
        finally:
            self._idle.set()
        self.has_started.clear()
        self.state.ended = terminated(code, self.state)
        self.state.process, self.state.started, self.state.ready = 0, False, False
        self.state.waiting = ("CrashLoopBackOff", "restarting after a pause")
        return code

    async def _attend(self, process: asyncio.subprocess.Process) -> int:
        """Probe it until it ends; its exit code."""
        if self._stopping.is_set():
            _kill(process)
        probing = [self._probe_startup(process), self._probe_readiness(), self._probe_liveness(process)]
        tasks = [asyncio.create_task(task) for task in probing]
        try:
            return await process.wait()
        finally:
            _kill(process)  # what it left behind
            for task in tasks:
                task.cancel()

    async def _start(self) -> asyncio.subprocess.Process:
        image = self._image()
        variables = await container_environment(
            self._node.api, self._volumes.pod, self.spec, self._network.address, image.environment
        )
        argv = [*(self.spec.get("command") or image.entrypoint), *self.spec.get("args", [])]
        argv = [expand(argument, variables) for argument in argv]
        self._root.mkdir(parents=True, exist_ok=True)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = self._network.command(["unshare", "--mount", "--uts", "sh", "-c", self._script(argv)])
        command[0] = shutil.which(command[0]) or command[0]
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=variables | {"PATH": _SCRIPT_PATH, "CONTAINER_PATH": variables["PATH"]},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._process = process
        state = self.state
        state.process, state.identity, state.since = process.pid, f"process://{process.pid}", now()
        if not self.spec.get("startupProbe"):
            self._mark_started()
        self._changed()
        return process

    def _script(self, argv: Sequence[str]) -> str:
        """Builds the root and becomes the container's program, under the same process id."""
        pod = self._volumes.pod
        hostname = pod["metadata"]["name"][:_LONGEST_HOSTNAME].rstrip("-.")
        read_only = security_context(pod, self.spec).get("readOnlyRootFilesystem", False)
        script = root_script(self._root, hostname, self._network.address, self._mounts(), read_only)
        chroot, env = (shutil.which(name, path=_SCRIPT_PATH) or name for name in ("chroot", "env"))
        become = identity(pod, self.spec, self._image().user).command()
        become[0] = shutil.which(become[0], path=_SCRIPT_PATH) or become[0]
        folder = ["--chdir", self.spec["workingDir"]] if self.spec.get("workingDir") else []
        launch = shlex.join([chroot, ".", *become, env, "--unset=CONTAINER_PATH", *folder, *argv])
        return f'{script}\nexport PATH="$CONTAINER_PATH"\nexec {launch}\n'

    def _mounts(self) -> list[Mount]:
        mounts = []
        for entry in self.spec.get("volumeMounts", []):
            source = self._volumes.path(entry["name"]) / entry.get("subPath", "")
            mounts.append(Mount(source, entry["mountPath"], entry.get("readOnly", False)))
        return sorted(mounts, key=lambda mount: mount.target)

    def _image(self) -> Image:
        images = self._node.images
        if (image := images.get(repository(self.spec["image"]))) is None:
            raise ConfigError(f"no image {self.spec['image']!r}; there are {', '.join(sorted(images))}")
        return image

    async def _before_stop(self) -> None:
        hook = self.spec.get("lifecycle", {}).get("preStop", {})
        if sleep := hook.get("sleep"):
            await asyncio.sleep(sleep["seconds"])
        elif command := hook.get("exec"):
            await self.execute(command["command"])
        elif action := hook.get("httpGet"):
            with contextlib.suppress(aiohttp.ClientError):
                await probes.get(action, self._target)

    def _mark_started(self) -> None:
        self.state.started = True
        self.state.ready = not self.spec.get("readinessProbe")
        self.has_started.set()
        self._changed()

    async def _probe_startup(self, process: asyncio.subprocess.Process) -> None:
        def tell(good: bool) -> bool:
            if good:
                self._mark_started()
            return True

        if probe := self.spec.get("startupProbe"):
            await probes.watch(probe, self._target, tell)
            if not self.state.started:
                await _terminate(process, self._grace())

    async def _probe_readiness(self) -> None:
        def tell(good: bool) -> bool:
            if self.state.ready != good:
                self.state.ready = good
                self._changed()
            return False

        await self.has_started.wait()
        if probe := self.spec.get("readinessProbe"):
            await probes.watch(probe, self._target, tell, eager=True)

    async def _probe_liveness(self, process: asyncio.subprocess.Process) -> None:
        await self.has_started.wait()
        if probe := self.spec.get("livenessProbe"):
            await probes.watch(probe, self._target, lambda good: not good)
            await _terminate(process, self._grace())

    def _grace(self) -> float:
        return float(self._volumes.pod["spec"].get("terminationGracePeriodSeconds", 30))


async def _terminate(process: asyncio.subprocess.Process, grace: float) -> None:
    """SIGTERM, and SIGKILL for all of it when the grace period is over; at once if there is none."""
    if grace > 0:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace)
    _kill(process)
    await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill it and what it started, which is in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
