"""Listening sockets: Unix sockets that are replaced atomically, and TCP ports that several processes share.

Both transports and :mod:`ext_proc.workers.supervisor` use it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

from abmesh import listening
from abmesh.experiment.errors import StartError
from ext_proc.settings import Address, Tcp

_MODE: Final = 0o660
"""Owner and group may connect: run Envoy in the server's group."""


SOCKET_ERROR: Final = "socket"
"""The error kind that Unix sockets are counted under which somebody deleted while we serve there."""


class UnixSocket:
    """The path of a Unix socket, which a new server can take over without a gap.

    The transport binds :attr:`hidden`; :meth:`publish` moves it into place, over what an earlier server left. A server
    that stops after its successor has started does not remove the successor's socket.
    """

    def __init__(self, path: Path) -> None:
        """Check that the path is usable.

        Raises:
            StartError: the path is not a socket, another program listens there, or its folder is not writable.
        """
        self._path = path
        self.hidden = path.with_name(_hidden_name(path, os.getpid()))
        self._inode: tuple[int, int] | None = None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise StartError(
                f"cannot listen on unix:{path}: {path.parent} must be a folder that the server may write to"
            )
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise StartError(f"cannot listen on unix:{path}: found a file that is not a socket; move it away")
        if _is_anothers(path):
            raise StartError(
                f"cannot listen on unix:{path}: another program listens there; stop it or choose another path. Only "
                f"another abmesh server's socket is taken over"
            )
        self.hidden.unlink(missing_ok=True)

    @property
    def path(self) -> Path:
        """Where clients find it."""
        return self._path

    @property
    def missing(self) -> bool:
        """Whether somebody has deleted the published socket."""
        return self._inode is not None and not os.path.lexists(self._path)

    @property
    def taken_over(self) -> bool:
        """Whether another server has published a socket in its place."""
        try:
            found = self._path.stat()
        except OSError:
            return False
        return self._inode is not None and stat.S_ISSOCK(found.st_mode) and (found.st_dev, found.st_ino) != self._inode

    def publish(self) -> None:
        """Move the socket into place, so that clients can connect."""
        self.hidden.chmod(_MODE)
        found = self.hidden.stat()
        self._inode = (found.st_dev, found.st_ino)
        self.hidden.replace(self._path)

    def remove(self) -> None:
        """Remove the socket, unless another server has replaced it."""
        self.hidden.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            found = self._path.stat()
            if (found.st_dev, found.st_ino) == self._inode:
                self._path.unlink()


def _hidden_name(path: Path, process: int | str) -> str:
    return f".{path.name}.{process}"


def _is_anothers(path: Path) -> bool:
    """Whether a program listens at a path that is no abmesh server: those bind the hidden path, and clients see that.

    Nobody listens at a socket that was left behind. One that many clients wait for does not tell, and is ours.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(str(path))
            bound_to = os.fsdecode(client.getpeername())
        except OSError:
            return False
    name, _, process = Path(bound_to).name.rpartition(".")
    return not (process.isdecimal() and f"{name}.{process}" == _hidden_name(path, process))


def taken_over(ports: Collection[object], sockets: Collection[UnixSocket]) -> bool:
    """Whether new clients reach another server wherever this one listens; a TCP port is never taken over."""
    return not ports and bool(sockets) and all(each.taken_over for each in sockets)


def hold(address: Tcp) -> tuple[list[socket.socket], Tcp]:
    """Take a TCP port for the workers of one server, which then share it; see :func:`bound`.

    The sockets never listen, so they get no connections; they keep the port ours while workers are restarted.

    Returns:
        The sockets, which the caller closes, and the address with its real port.

    Raises:
        StartError: somebody else has the port, or it is not available for another reason.
    """
    held = bound(address, shared=False)
    for made in held:
        # With this option, a socket that does not listen lets others have its port too.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        # Only from now on: a port that is already shared by others must not be ours too.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return held, Tcp(address.host, held[0].getsockname()[1])


def check_free(address: Tcp) -> None:
    """Check that nobody listens on a TCP port, not even one that is ready to share it.

    Raises:
        StartError: somebody does, or the port is not available for another reason.
    """
    for made in bound(address, shared=False):
        made.close()


def bound(address: Tcp, *, shared: bool) -> list[socket.socket]:
    """Sockets bound to every address that a host name resolves to, all on one port.

    Args:
        address: where.
        shared: whether the port is held (:func:`hold`) for this process and others.

    Raises:
        StartError: an address is not available.
    """
    try:
        return listening.bound(address.host, address.port, shared=shared)
    except OSError as error:
        raise cannot_listen(address, error) from error


def cannot_listen(address: Address, error: OSError) -> StartError:
    """The error for an address that the kernel refuses."""
    if error.errno == errno.EADDRINUSE:
        why = (
            "another program, or another abmesh server, listens there; stop it or choose another address. "
            "Only the workers of one server share a port"
        )
    else:
        why = error.strerror or str(error)
    return StartError(f"cannot listen on {address}: {why}")
