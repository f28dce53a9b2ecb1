"""A network of its own for a cluster: a network namespace with a bridge that pods are plugged into.

Every port in it is free, every pod gets an address that an EndpointSlice accepts (loopback is refused there), and
nothing can leave it: there is no route out. A process of ours holds the namespace; when that ends, so does the network.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from abmesh.local.processes import ending_with_parent
from tests.cluster.errors import ClusterError, Unavailable

NODE: Final = "10.244.0.1"
"""Address of the node, on the bridge: of the API server, of istiod, and of whoever enters the namespace."""

PREFIX: Final = 16
BRIDGE: Final = "br0"

_TOOLS: Final = {"unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "ip": "iproute2"}
_CLONE_NEWNET: Final = 0x40000000
_LIMIT: Final = 10.0
_SETUP: Final = (
    "ip link set lo up && ip link add {bridge} type bridge && ip addr add {node}/{prefix} dev {bridge} "
    "&& ip link set {bridge} up"
)


def as_root(command: Sequence[str]) -> list[str]:
    """The command with the rights that a network needs: as it is for root, else in a user namespace.

    Raises:
        Unavailable: this user cannot have a user namespace.
    """
    if os.geteuid() == 0:
        return list(command)
    namespace = ["unshare", "--map-root-user", "--mount"]
    try:
        done = subprocess.run([*namespace, "true"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unavailable(f"a cluster needs unshare, of Debian's package util-linux: {error}") from error
    if done.returncode != 0:
        raise Unavailable(f"a cluster needs root, or a kernel that lets users make namespaces: {done.stderr.strip()}")
    return [*namespace, *command]


class Network:
    """One network.

    Attributes:
        pid: of the process that holds the namespace; ``nsenter --target PID --net`` enters it.
    """

    def __init__(self, holder: subprocess.Popen[bytes]) -> None:
        self._holder = holder
        self.pid = holder.pid

    @classmethod
    def create(cls) -> Self:
        """Make a network.

        Raises:
            Unavailable: a program is missing, or the kernel or the container forbids it.
        """
        if missing := sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None}):
            raise Unavailable(f"a cluster needs Debian's packages {', '.join(missing)}: apt-get install them")
        holder = subprocess.Popen(
            ending_with_parent(["unshare", "--net", "sleep", "infinity"]),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        network = cls(holder)
        try:
            network._wait_for_namespace()
            setup = _SETUP.format(bridge=BRIDGE, node=NODE, prefix=PREFIX)
            done = subprocess.run(network.command(["sh", "-c", setup]), capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Unavailable(f"the bridge of a cluster's network cannot be made: {done.stderr.strip()}")
        except BaseException:
            network.close()
            raise
        return network

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that runs a command inside the network, under the same process id."""
        return ["nsenter", "--target", str(self.pid), "--net", *command]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put this thread, and the threads and processes that it starts meanwhile, into the network.

        Raises:
            ClusterError: the network is gone.
        """
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _join(os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY))
            try:
                yield
            finally:
                # In a user namespace the way back is closed; the process that runs there does nothing else.
                with suppress(ClusterError):
                    _join(os.dup(own))
        finally:
            os.close(own)

    def close(self) -> None:
        """End the network."""
        self._holder.kill()
        self._holder.wait()
        if self._holder.stderr is not None:
            self._holder.stderr.close()

    def _wait_for_namespace(self) -> None:
        own, deadline = Path("/proc/self/ns/net").readlink(), time.monotonic() + _LIMIT
        while True:
            if self._holder.poll() is not None:
                said = self._holder.stderr.read().decode() if self._holder.stderr else ""
                raise Unavailable(
                    f"a network namespace cannot be made here, as root or with unshare -rn: {said.strip()}"
                )
            try:
                if Path(f"/proc/{self.pid}/ns/net").readlink() != own:
                    return
            except OSError:  # between two programs of the same process id
                pass
            if time.monotonic() > deadline:
                raise ClusterError(f"no network namespace after {_LIMIT:g} s")
            time.sleep(0.01)


def _join(namespace: int) -> None:
    """Move this thread into a network namespace, given by a file descriptor, which is closed."""
    library = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    try:
        if library.setns(namespace, _CLONE_NEWNET) != 0:
            raise ClusterError(f"cannot enter the network: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(namespace)
