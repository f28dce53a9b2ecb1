"""What separates a pod from others: a network namespace with an address, and a root for each container.

A container's root is a small tree of its own: the machine's programs read-only, the folders that Python and this
checkout need, and else what the pod mounts. Nothing of it outlives the container's process.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.errors import ClusterError
from tests.cluster.plane.network import BRIDGE, PREFIX
from tests.paths import ROOT

_SYSTEM: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "opt")
_SETTINGS: Final = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "ssl", "mime.types")
"""Of /etc; no user and no secret is in them."""

_EVERYBODY: Final = 4294967295
"""How many users a user namespace maps that is no namespace of somebody's own."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume in a container: what is shown, where, and whether it may be written."""

    source: Path
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom a container runs."""

    user: int
    group: int
    groups: Sequence[int] = ()
    no_new_privileges: bool = False
    no_capabilities: bool = False

    def command(self) -> list[str]:
        """The prefix that makes a command run as it."""
        if not maps_everybody():
            return ["setpriv", "--no-new-privs"]  # a user namespace of somebody's own has one user
        groups = ",".join(map(str, self.groups))
        command = ["setpriv", f"--reuid={self.user}", f"--regid={self.group}"]
        command += [f"--groups={groups}" if groups else "--clear-groups"]
        command += ["--no-new-privs"] if self.no_new_privileges else []
        command += ["--bounding-set=-all", "--inh-caps=-all"] if self.no_capabilities else []
        return command


class PodNetwork:
    """The network namespace of one pod, plugged into the cluster's bridge."""

    def __init__(self, address: str, holder: asyncio.subprocess.Process) -> None:
        self.address = address
        self._holder = holder

    @classmethod
    async def create(cls, address: str) -> PodNetwork:
        """Make one; ClusterError if the kernel refuses."""
        holder = await asyncio.create_subprocess_exec(
            "unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity", stdout=asyncio.subprocess.PIPE
        )
        assert holder.stdout is not None
        await holder.stdout.readline()
        network, pid = cls(address, holder), holder.pid
        inside = f"ip link set lo up; ip addr add {address}/{PREFIX} dev eth0; ip link set eth0 up"
        await run(
            f"ip link add v{pid} type veth peer name eth0 netns {pid}\n"
            f"ip link set v{pid} master {BRIDGE} up\n"
            f"nsenter --target {pid} --net sh -ec {shlex.quote(inside)}"
        )
        return network

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that runs a command inside, under the same process id."""
        return ["nsenter", "--target", str(self._holder.pid), "--net", *command]

    async def close(self) -> None:
        """End it."""
        if self._holder.returncode is None:
            self._holder.kill()
        await self._holder.wait()


def root_script(folder: Path, hostname: str, address: str, mounts: Iterable[Mount], read_only: bool) -> str:
    """The shell script that builds a container's root; it runs in mount and UTS namespaces of its own.

    Args:
        folder: an empty one, to mount the root on.
        hostname: of the pod.
        address: of the pod.
        mounts: of the container.
        read_only: whether the root may not be written, but for its mounts.
    """
    root = shlex.quote(str(folder))
    lines = ["set -e", f"printf %s {shlex.quote(hostname)} > /proc/sys/kernel/hostname"]
    lines += [f"mount -t tmpfs -o mode=755 root {root}", f"cd {root}"]
    for name in _SYSTEM:
        system = Path("/", name)
        if system.is_symlink():
            lines.append(f"ln -s {system.readlink()} {name}")
        elif system.is_dir():
            lines += [f"mkdir {name}", f"mount --rbind /{name} {name}", _read_only(name)]
    lines += ["mkdir -p etc proc dev sys run tmp var root home", "chmod 1777 tmp", "ln -s ../run var/run"]
    lines += ["mkdir -m 1777 var/tmp", "mkdir -p var/lib var/log", "mount --rbind /proc proc", "mount --rbind /sys sys"]
    # Two Envoys would share memory in /dev/shm by their names.
    lines += ["mount --rbind /dev dev", "mount -t tmpfs -o mode=1777 shm dev/shm"]
    for name in _SETTINGS:
        if Path("/etc", name).exists():
            make = "mkdir" if Path("/etc", name).is_dir() else "touch"
            lines += [f"{make} etc/{name}", f"mount --bind /etc/{name} etc/{name}", _read_only(f"etc/{name}")]
    lines += [
        "echo root:x:0:0:root:/root:/bin/sh > etc/passwd",
        "echo root:x:0: > etc/group",
        "echo hosts: files > etc/nsswitch.conf",
        f"printf '127.0.0.1 localhost\\n%s %s\\n' {address} {shlex.quote(hostname)} > etc/hosts",
    ]
    needed = needed_folders()
    for each in needed:
        lines += _bound(each)
    for mount in mounts:
        lines += _mounted(mount)
        # A volume on /tmp hides a checkout that lies there.
        for each in needed:
            if each.is_relative_to(mount.target):
                lines += _bound(each)
    if read_only:
        lines.append("mount -o remount,ro .")
    return "\n".join(lines)


def _bound(folder: Path) -> list[str]:
    """A folder of this machine at its own place."""
    place = shlex.quote(str(folder).lstrip("/"))
    return [f"mkdir -p {place}", f"mount --bind {shlex.quote(str(folder))} {place}", _read_only(place)]


def _mounted(mount: Mount) -> list[str]:
    # /var/run is a link to /run in every image.
    target = mount.target.replace("/var/run", "/run", 1) if mount.target.startswith("/var/run/") else mount.target
    place, source = shlex.quote(target.strip("/")), shlex.quote(str(mount.source))
    make = f"mkdir -p {place}" if mount.source.is_dir() else f'mkdir -p "$(dirname {place})"; : > {place}'
    return [make, f"mount --bind {source} {place}", *([_read_only(place)] if mount.read_only else [])]


def _read_only(place: str) -> str:
    # In a user namespace of somebody's own, the kernel refuses to change the flags of what was mounted outside.
    return f"mount -o remount,ro,bind {place}" + ("" if maps_everybody() else " 2>/dev/null || true")


def needed_folders() -> list[Path]:
    """Folders outside the system's that a container needs: this checkout, and Python with its packages."""
    system = [Path("/", name) for name in _SYSTEM]
    found: list[Path] = []
    for wanted in (ROOT, Path(sys.prefix), Path(sys.base_prefix)):
        inside = any(wanted.is_relative_to(folder) for folder in [*system, *found])
        if not inside:
            found.append(wanted)
    return found


def maps_everybody() -> bool:
    """Whether this process may become any user, as root may."""
    return int(Path("/proc/self/uid_map").read_text().split()[2]) == _EVERYBODY and os.geteuid() == 0


async def run(script: str) -> None:
    """Run a shell script; ClusterError with what it said if it fails."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-ec", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise ClusterError(f"{script.splitlines()[0]} ... failed: {said.decode().strip()}")
